"""Whether a target ended long before its source did.

A small model that is given several sentences may end its turn after the first few, and predict the
same at each read until the source has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mlx_simul.text.boundary import ends_sentence

DRY_WORDS, DRY_SHARE = 8, Fraction(1, 2)
"""From so many source words on, a target with fewer sentences and less than this share of their
speech has dried up."""

LATE_WORDS, LATE_SHARE = 3, Fraction(3, 5)
"""So has one with less than this share, if so many words were read after its last word."""

BARE_WORDS, BARE_SHARE = 12, Fraction(1, 4)
"""With so many source words, or fewer sentences, a target with less than this share has dried up.

No French translation of Tatoeba's 4,869 sources with that many words has less than 0.46 of them.
It is for recognised speech, which has no full stops to be counted, and for short texts."""


@dataclass
class Sentences:
    """Sentences of a text that comes word by word.

    Attributes:
        ended: those whose end was seen.
        is_open: another one has begun.
    """

    ended: int = 0
    is_open: bool = False

    def add(self, text: str) -> None:
        """Take the next word; one token may hold several."""
        for word in text.split():
            self.is_open = self.is_open or any(map(str.isalnum, word))
            # Three full stops are one end.
            if self.is_open and ends_sentence(word):
                self.ended, self.is_open = self.ended + 1, False

    def __len__(self) -> int:
        return self.ended + self.is_open


@dataclass
class Balance:
    """What of a source its target has answered.

    Attributes:
        source: its sentences read.
        target: those written.
        answered_speech: how much source speech was read when the last target word was written.
    """

    source: Sentences
    target: Sentences
    answered_speech: Fraction = Fraction(0)

    def has_dried_up(self, source_speech: Fraction, target_speech: Fraction) -> bool:
        """Whether a target that has ended lacks what the source still had to say.

        It does if nothing was written. If it has fewer sentences than the source, it does with less
        than half of its speech, or less than three fifths and none for the last ``LATE_WORDS`` that
        were read; of a source shorter than ``DRY_WORDS``, with less than a quarter. With as many
        sentences, it does with less than a quarter of the speech of ``BARE_WORDS`` and more.

        Args:
            source_speech: words of speech read in all.
            target_speech: words of speech written in all.
        """
        if not target_speech:
            return source_speech > 0
        share = target_speech / source_speech if source_speech else 1
        has_fewer = len(self.target) < len(self.source)
        if has_fewer and source_speech >= DRY_WORDS:
            is_late = source_speech - self.answered_speech >= LATE_WORDS
            return share < (LATE_SHARE if is_late else DRY_SHARE)
        return (has_fewer or source_speech >= BARE_WORDS) and share < BARE_SHARE
