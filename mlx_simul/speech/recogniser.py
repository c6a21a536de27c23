"""What every speech recogniser is to the rest: audio in, words out (SPEC 9).

A word that was given is never taken back. What the recogniser may still change is the tail, which
is shown and never translated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from mlx_simul.errors import RecogniserError
from mlx_simul.text.characters import is_spaceless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""The rate of the audio that recognisers take, which is one channel, float32, from -1 to 1."""


@dataclass(frozen=True)
class Word:
    """A word that was said, and will not be changed.

    Attributes:
        text: its characters, with the space before it where its script has spaces.
        start_s: when it began, in seconds of the audio.
        end_s: when it ended.
    """

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Hypothesis:
    """What a recogniser makes of the audio so far.

    Attributes:
        words: those that have become stable since the last hypothesis.
        tail: the text after them, which may still change.
        pause: the speaker has paused after these words, so a turn ends here.
        heard_s: seconds of audio that have been listened to.
    """

    words: tuple[Word, ...] = ()
    tail: str = ""
    pause: bool = False
    heard_s: float = 0.0

    @property
    def text(self) -> str:
        """The words as text to feed to a session: a space after the last makes it whole."""
        text = "".join(word.text for word in self.words)
        return text if not text or is_spaceless(text[-1]) else f"{text} "


class Recognition(Protocol):
    """One stream of audio and what has been recognised of it. It is used by one thread."""

    def hear(self, audio: NDArray[np.float32]) -> list[Hypothesis]:
        """Take the next piece of audio, of any length.

        Args:
            audio: shape (samples,), at ``SAMPLE_RATE_HZ``.

        Returns:
            What has become known by it, in order; nothing while too little has been heard.

        Raises:
            RecogniserError: if the recogniser fails; the recognition has ended then.
        """
        ...

    def finish(self) -> list[Hypothesis]:
        """End the audio: all words that are left become stable, and no tail remains.

        Raises:
            RecogniserError: if the recogniser fails.
        """
        ...


class Recogniser(Protocol):
    """A model that recognises speech, loaded. Many streams of audio may share it."""

    def begin(self, language: str | None = None) -> Recognition:
        """Begin with a stream of audio.

        Args:
            language: what is spoken, as a name or a code ("French", "fr"); None leaves it to the
                recogniser to find out.

        Raises:
            InvalidOptionError: the recogniser does not know the language.
        """
        ...


def usable(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """What a recogniser gave, if it can be used: recognisers come from other packages, too.

    Raises:
        RecogniserError: it is not hypotheses, or holds a text or a time that cannot be.
    """
    try:
        found = [*hypotheses]
        for hypothesis in found:
            hypothesis.tail.encode()
            if not isfinite(hypothesis.heard_s):
                raise ValueError(f"heard_s is {hypothesis.heard_s!r}")
            for word in hypothesis.words:
                word.text.encode()
                if not (isfinite(word.start_s) and isfinite(word.end_s)):
                    raise ValueError(f"a word lasts from {word.start_s!r} to {word.end_s!r} s")
    except (TypeError, ValueError, AttributeError) as error:
        raise RecogniserError(
            f"what the recogniser gave cannot be used: {error}. It has to give a list of "
            "Hypothesis, with Unicode text and finite times; report this to its authors."
        ) from error
    return found
