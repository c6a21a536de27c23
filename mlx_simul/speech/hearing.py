"""Audio and a recogniser together: what is heard, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mlx_simul.errors import SimulWarning
from mlx_simul.speech.recogniser import Hypothesis, Recogniser, usable

if TYPE_CHECKING:
    from mlx_simul.speech.capture import Audio


class Hearing(Protocol):
    """Hypotheses that come; one thread iterates over them."""

    @property
    def began_s(self) -> float | None:
        """When the audio began, by :func:`time.perf_counter`.

        None before, and where nothing is spoken now.
        """
        ...

    def __iter__(self) -> Iterator[Hypothesis | SimulWarning]:
        """What is heard, and warnings for the user.

        Raises:
            RecogniserError: if it broke off; all that was heard before has been given.
        """
        ...

    def stop(self, *, now: bool = False) -> None:
        """Let it end here. Any thread may call it.

        Args:
            now: what was said until now is not wanted either.
        """
        ...


class Recognised:
    """What a recogniser makes of audio.

    Args:
        recogniser: loaded; it is used by the thread that iterates.
        audio: where it comes from; it begins when the iteration does.
        language: what is spoken, if that is known.
    """

    def __init__(self, recogniser: Recogniser, audio: Audio, language: str | None = None) -> None:
        self._recogniser = recogniser
        self._audio = audio
        self._language = language
        self._is_left = False

    @property
    def began_s(self) -> float | None:
        """When the audio began."""
        return self._audio.began_s

    def stop(self, *, now: bool = False) -> None:
        """Let the audio end here."""
        self._is_left |= now
        self._audio.stop()

    def __iter__(self) -> Iterator[Hypothesis | SimulWarning]:
        recognition = self._recogniser.begin(self._language)
        broke_off: Exception | None = None
        with self._audio:
            while not self._is_left:
                try:
                    block = self._audio.take()
                except Exception as error:  # raised once what came before has been heard
                    broke_off = error
                    break
                if block is None:
                    break
                yield from usable(recognition.hear(block))
                yield from map(SimulWarning, self._audio.remarks())
        if not self._is_left:
            yield from usable(recognition.finish())
        if broke_off is not None:
            raise broke_off
