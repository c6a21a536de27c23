"""Streaming in order of arrival: source and target tokens in one row, as they come.

What a decoder-only model does that knows nothing of groups (Tong et al. 2025 compare with it); only
the last target token is put behind the source that was read after it, since it is fed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_simul.engine.base import LogitsProcessor, Sampler, state_of
from mlx_simul.engine.row import RowEngine
from mlx_simul.engine.tape import TapeState
from mlx_simul.errors import CacheStateError


@dataclass(frozen=True)
class InterleavedState:
    """A stream, to be restored as often as one likes."""

    tape: TapeState
    n_source: int
    n_target: int
    n_trailing: int
    held: tuple[int, ...]


class InterleavedEngine(RowEngine):
    """One stream in order of arrival; any mlx-lm model.

    A source token sees the target tokens written before it. Target tokens can be rolled back as
    far as the last read; the last token before it, too, for it is put behind that read.
    """

    def __init__(
        self,
        model: Any,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        super().__init__(model, sampler, logits_processors)
        self._n_target = 0
        # Target tokens at the end of the tape, and those that wait to be put there.
        self._n_trailing = 0
        self._held: list[int] = []

    @property
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""
        return self._n_target

    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""
        self._check(token_ids, len(self._tape.tokens))
        if self._n_trailing:
            self._held = self._tape.tokens[-1:]
            self._tape.drop(1)
        self._n_trailing = 0
        self._tape.feed_silently(token_ids)
        self._n_source += len(token_ids)
        self._tape.anchor()

    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens, and before them the one that was put behind the last read."""
        self._check(token_ids, len(self._tape.tokens) + len(self._held))
        n_held = len(self._held)
        logits = self._tape.feed([*self._held, *token_ids])
        self._held = []
        self._n_trailing += n_held + len(token_ids)
        self._n_target += len(token_ids)
        return logits[:, n_held:]

    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed.

        Raises:
            CacheStateError: if source that is read stands behind them.
        """
        loose = len(self._held) + self._n_trailing
        if not 0 <= n_tokens <= loose:
            raise CacheStateError(
                f"cannot roll back {n_tokens} target tokens: in order of arrival, only the newest "
                f"{loose} stand behind the last source read; mode='group' has no such limit."
            )
        self._n_target -= n_tokens
        n_held = min(len(self._held), n_tokens)
        del self._held[len(self._held) - n_held :]
        self._tape.drop(n_tokens - n_held)
        self._n_trailing -= n_tokens - n_held

    def _rewind_and_read(self, n_rewind: int, source_ids: Sequence[int]) -> None:
        # What is to stand behind the source is forgotten here, and fed again; the rest stays.
        self.roll_back(n_rewind)
        if source_ids:
            self._n_trailing = 0
            self.read(source_ids)

    @property
    def state_kinds(self) -> tuple[type, ...]:
        """The classes of what a state holds."""
        return (InterleavedState, *super().state_kinds)

    @property
    def state(self) -> InterleavedState:
        """The tape, the counts, and what is held back."""
        return InterleavedState(
            self._tape.state, self._n_source, self._n_target, self._n_trailing, tuple(self._held)
        )

    @state.setter
    def state(self, value: InterleavedState) -> None:
        state = state_of(value, InterleavedState)
        self._tape.state = state.tape
        self._n_source, self._n_target = state.n_source, state.n_target
        self._n_trailing, self._held = state.n_trailing, list(state.held)
