"""Streaming by re-encoding: after each read the target is run again after the source.

For models whose state cannot keep two groups apart, and for comparison: it is what an offline model
computes for the source read so far, at the price of the whole target after every read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_simul.engine.base import LogitsProcessor, Sampler, state_of
from mlx_simul.engine.row import RowEngine
from mlx_simul.engine.tape import TapeState
from mlx_simul.errors import InvalidOptionError

# Of the target that is encoded again, this many tokens share the pass of the new ones, though
# nobody reads their logits: a pass of their own costs more, and all logits of a long target much
# memory.
MAX_LOGITS_UNREAD = 64


@dataclass(frozen=True)
class ReencodeState:
    """A stream, to be restored as often as one likes."""

    tape: TapeState
    n_source: int
    target: tuple[int, ...]


class ReencodeEngine(RowEngine):
    """One stream as ``[source | target]``; any mlx-lm model.

    Every target token sees all source read so far. The state behind the source is kept, so a read
    costs its own tokens and a write after it the target so far.
    """

    def __init__(
        self,
        model: Any,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        super().__init__(model, sampler, logits_processors)
        self._target: list[int] = []

    @property
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""
        return len(self._target)

    def source_columns(self, n_hidden: int) -> Sequence[int]:
        """The source lies in front of the target."""
        return range(self._n_source)

    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""
        self._check(token_ids, self._n_source)
        self._tape.drop(self._n_on_tape)
        self._tape.feed_silently(token_ids)
        self._n_source += len(token_ids)
        self._tape.anchor()

    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens, and before them those that have not seen the last read."""
        self._check(token_ids, self._n_source + self.target_tokens)
        behind = self._target[self._n_on_tape :]
        self._tape.feed_silently(behind[:-MAX_LOGITS_UNREAD])
        behind = behind[-MAX_LOGITS_UNREAD:]
        logits = self._tape.feed([*behind, *token_ids])
        self._target += token_ids
        return logits[:, len(behind) :]

    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""
        if not 0 <= n_tokens <= self.target_tokens:
            raise InvalidOptionError(
                f"cannot roll back {n_tokens} target tokens: {self.target_tokens} were fed."
            )
        kept = self.target_tokens - n_tokens
        self._tape.drop(max(self._n_on_tape - kept, 0))
        del self._target[kept:]

    @property
    def state_kinds(self) -> tuple[type, ...]:
        """The classes of what a state holds."""
        return (ReencodeState, *super().state_kinds)

    @property
    def state(self) -> ReencodeState:
        """The tape, how much of it is source, and the target."""
        return ReencodeState(self._tape.state, self._n_source, tuple(self._target))

    @state.setter
    def state(self, value: ReencodeState) -> None:
        state = state_of(value, ReencodeState)
        self._tape.state = state.tape
        self._n_source, self._target = state.n_source, list(state.target)

    @property
    def _n_on_tape(self) -> int:
        """Target tokens that have seen all source read."""
        return len(self._tape.tokens) - self._n_source
