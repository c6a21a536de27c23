"""Where the target is cut off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count
from mlx_simul.options.base import option

Stop: TypeAlias = str | tuple[int, ...]
Stops: TypeAlias = str | Sequence[str | int | Sequence[int]]
StopUnit: TypeAlias = Literal["sentence", "code_block", "json"]

DEFAULT_MAX_RATIO = 3.0
"""Small models ramble, and no pair of languages needs three words for one in more than a phrase."""

MAX_STOPS = 64
"""Each takes a look at every character."""


@dataclass(frozen=True)
class LimitOptions:
    """Limits: where the target is cut off.

    Attributes:
        max_words: target words after which the stream ends. This and the ratio count words of
            speech, which are about equally long in any script.
        max_tokens: target tokens after which a turn ends.
        max_tokens_per_word: target tokens after which a word is cut.
        max_target_source_ratio: target words per source word read, at most; a source of one or two
            words counts as three. "none" sets no limit; "auto" is 3, or no limit with gpe_compat.
        stop: texts before which the target ends; in Python also token ids, one or several
            in a row.
        stop_after: what the target ends after: a sentence of the target language, a fenced code
            block, or a JSON object or array.
    """

    max_words: int | None = option(None, metavar="N")
    max_tokens: int = option(1024, metavar="N")
    max_tokens_per_word: int = option(50, metavar="N")
    max_target_source_ratio: float | Literal["auto"] | None = option("auto", "--max-ratio", "R")
    stop: Stops | None = option(None, metavar="TEXT", plain=tuple[str | tuple[int, ...], ...] | str)
    stop_after: StopUnit | None = None

    def __post_init__(self) -> None:
        for name in ("max_words", "max_tokens", "max_tokens_per_word"):
            if (value := getattr(self, name)) is not None or name != "max_words":
                require_count(name, value)
        ratio = self.max_target_source_ratio
        if ratio not in ("auto", None):
            is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
            if not is_number or not 0 < ratio < math.inf:
                raise InvalidOptionError(
                    f"max_target_source_ratio must be a positive number, got {ratio!r}; None is no "
                    "limit."
                )
        if self.stop is not None:
            object.__setattr__(self, "stop", _checked_stops(self.stop))
        if self.stop_after not in (None, *get_args(StopUnit)):
            raise InvalidOptionError(
                f"stop_after must be one of {', '.join(get_args(StopUnit))} or None, got "
                f"{self.stop_after!r}."
            )


def _checked_stops(given: Any) -> tuple[Stop, ...] | None:
    """Stops as texts and as token ids in a row; None if there are none.

    Raises:
        InvalidOptionError: for one that is empty or something else, or for too many.
    """
    stops = [given] if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
    made: list[Stop] = []
    for stop in stops:
        row = (stop,) if type(stop) is int else stop
        is_row = isinstance(row, Sequence) and all(type(token) is int for token in row)
        if not row or not (isinstance(row, str) or is_row):
            raise InvalidOptionError(
                f"stop must be texts, token ids or rows of token ids, none of them empty; got "
                f"{stop!r}."
            )
        made.append(row if isinstance(row, str) else tuple(row))
    if len(made) > MAX_STOPS:
        raise InvalidOptionError(f"stop holds {len(made)} stops; at most {MAX_STOPS} may be given.")
    return tuple(made) or None
