"""What every speech recogniser is to the rest: audio in, words out (SPEC 9).

A word that was given is never taken back. What the recogniser may still change is the tail, which
is shown and never translated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Of the audio that recognisers take: one channel, float32, from -1 to 1."""


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
        tail: the text behind them, which may still change.
        pause: the speaker has paused behind these words, so a turn ends here.
        heard_s: seconds of audio that have been listened to.
    """

    words: tuple[Word, ...] = ()
    tail: str = ""
    pause: bool = False
    heard_s: float = 0.0


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
