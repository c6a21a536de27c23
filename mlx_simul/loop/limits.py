"""Where a session stops by itself, and how much may be written before it does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.progress import StreamingState

SHORT_SOURCE_WORDS = 3
"""A shorter source says little about how long its translation is: "Cheers!" is "À votre santé !".

Of 140,140 French translations in Tatoeba 45 have more than three times the words of their source,
and 17 do if shorter sources count as three words."""


@dataclass(frozen=True)
class Limits:
    """Where a session stops by itself.

    Words are words of speech, which are equally long in any script (:mod:`mlx_simul.text.speech`).
    Once a limit's whole words are written, no further target word is begun.

    Attributes:
        max_words: target words; ``None`` for no limit.
        max_tokens: target tokens.
        max_target_source_ratio: target words per source word read, the word under way included; a
            whole source shorter than ``SHORT_SOURCE_WORDS`` counts as that many; ``None`` for no
            limit. A session that has reached the ratio reads on, and ends when nothing is left to
            read.

    Raises:
        InvalidOptionError: if a limit is not positive.
    """

    max_words: int | None = None
    max_tokens: int = 1024
    max_target_source_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name != "max_tokens":
                continue
            kind = float | int if name == "max_target_source_ratio" else int
            if not isinstance(value, kind) or not 0 < value < math.inf:
                raise InvalidOptionError(f"{name} must be a positive number, got {value!r}.")

    def ratio_allows_a_word(self, state: StreamingState) -> bool:
        """Whether the ratio lets another target word be begun, given the source read so far."""
        if self._ratio is None:
            return True
        return state.target_speech < self._most_words_by_ratio(state)

    def max_words_allows_a_word(self, state: StreamingState) -> bool:
        """Whether ``max_words`` lets another target word be begun."""
        return self.max_words is None or state.target_speech < self.max_words

    def words_left(self, state: StreamingState) -> float | Fraction:
        """Words of speech that may still be written, given the source read so far."""
        most_words = self._most_words_by_ratio(state)
        if self.max_words is not None:
            most_words = min(most_words, self.max_words)
        return most_words - state.target_speech

    def _most_words_by_ratio(self, state: StreamingState) -> float:
        if self._ratio is None:
            return math.inf
        source_words = math.ceil(state.source_speech)
        if state.source_exhausted():
            source_words = max(source_words, SHORT_SOURCE_WORDS)
        return math.floor(self._ratio * source_words)

    @cached_property
    def _ratio(self) -> Fraction | None:
        """The ratio as the decimal that was given, so that 0.6 of 5 words is 3 words."""
        ratio = self.max_target_source_ratio
        return None if ratio is None else Fraction(str(float(ratio)))
