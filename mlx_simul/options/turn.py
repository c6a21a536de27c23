"""Where a stream is cut into turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count
from mlx_simul.options.base import option, python_only

Turns: TypeAlias = Literal["auto", "sentence"]

DEFAULT_MAX_TURN_WORDS = 40
"""Everyday sentences are shorter, and the packaged model was trained on sources of 64 tokens."""


@dataclass(frozen=True)
class TurnOptions:
    """Turns: a source sentence and its translation each.

    SPEC section 8.

    Attributes:
        turns: "sentence" makes each source sentence a turn, so a stream may last for hours;
            "none" reads the whole source as one turn (for a summary, say); "auto" is "sentence"
            where the task is translation.
        history: how many finished pairs the model sees before each turn, given pairs included.
        max_turn_words: source words after which a turn is cut, even within a sentence.
        splitter: cuts a text into its sentences, instead of the rules of the source language.
        split: cuts text in a script without spaces into words; by default each grapheme cluster is
            one.
    """

    turns: Turns | None = "auto"
    history: int = option(0, metavar="PAIRS")
    max_turn_words: int = option(DEFAULT_MAX_TURN_WORDS, metavar="N")
    splitter: Callable[[str], Sequence[str]] | None = python_only()
    split: Callable[[str], Sequence[str]] | None = python_only()

    def __post_init__(self) -> None:
        if self.turns not in ("auto", "sentence", None):
            raise InvalidOptionError(
                f'turns must be "auto", "sentence" or None, got {self.turns!r}.'
            )
        require_count("history", self.history, least=0)
        require_count("max_turn_words", self.max_turn_words)
