"""What is said in the recordings, and what was heard of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlx_simul.speech.recogniser import Word

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of Light, it was the season of Darkness, it was the spring of hope, it was the winter "
    "of despair, we had everything before us, we had nothing before us, we were all going direct "
    "to Heaven, we were all going direct the other way. In short, the period was so far like the "
    "present period, that some of its noisiest authorities insisted on its being received, for "
    "good or for evil, in the superlative degree of comparison only."
)
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."


@dataclass
class Heard:
    """What a recogniser made of a piece of audio.

    Attributes:
        words: all of them.
        delays_s: of each, from its end to the moment in the audio when it became stable.
        pauses_s: when a pause was told.
    """

    words: list[Word]
    delays_s: list[float]
    pauses_s: list[float]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


def word_error_rate(expected: str, text: str) -> float:
    """The word error rate of a text, case and punctuation aside."""
    import jiwer

    return jiwer.wer(*(" ".join(re.findall(r"[\w']+", t.lower())) for t in (expected, text)))
