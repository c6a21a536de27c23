"""Streaming in two groups: source and target keep their own positions and ends of the cache.

Shape legend: B batch, L new tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.base import flat
from mlx_simul.cache import SourceTargetCache
from mlx_simul.engine.base import Engine, LogitsProcessor, Sampler, pieces, state_of
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.positions import (
    FollowStart,
    StayStart,
    TargetStart,
    all_rotate_exactly,
)

# With more, arithmetic is what a pass costs, and a head over the source's rows is work for nobody.
MAX_FUSED_TOKENS = 16

# What is at hand in such a chunk costs less in a pass of its own than with the words one by one.
READ_AHEAD_TOKENS = 64


class StreamingEngine(Engine):
    """One stream as two groups of tokens (SPEC section 1).

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
        target_start: where the target's positions start.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's, called with the target ids written so far and (1, V) logits.
        caches: what the model is called with, built from :class:`SourceTargetCache`; by default
            what its architecture makes.

    Raises:
        UnknownArchitectureError: if the model's type is not registered.
    """

    def __init__(
        self,
        model: Any,
        target_start: TargetStart,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
        caches: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(model, sampler, logits_processors)
        model, architecture = self.model, archs.of(self.model)
        self._model_caches = list(architecture.make_cache(model) if caches is None else caches)
        self.caches: list[SourceTargetCache] = list(flat(self._model_caches))
        self._ropes = architecture.ropes(model)
        self._fuses = architecture.fuses_in(model)
        self._n_passes = 0
        self._fixed_because = architecture.positions_fixed_because
        self._start: int | None = None
        self._target_start = target_start
        self._followable_known = False
        self.findings: dict[str, str | None] = {}
        """What was found out about the model; streams over one may share it."""

    @property
    def n_passes(self) -> int:
        """How often the model has run."""
        return self._n_passes

    @property
    def source_tokens(self) -> int:
        """Source tokens read."""
        return self.caches[0].source_tokens

    @property
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""
        return self.caches[0].target_tokens

    @property
    def start(self) -> int | None:
        """φ, once the first target token has been fed."""
        return self._start

    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""
        self._route(is_reading=True)
        for piece in pieces(token_ids):
            self._check(piece, self.source_tokens)
            self._run([piece])
            # The logits are never asked for, so the head is never computed.
            mx.eval([cache.state for cache in self.caches])

    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens.

        Returns:
            (1, L, V) logits, row l for the token after ``token_ids[l]``.
        """
        return self.read_and_write((), token_ids)

    def source_columns(self, n_hidden: int) -> Sequence[int]:
        """The source lies in front of the target, mirrored."""
        return range(self.source_tokens - n_hidden)[::-1]

    @property
    def read_ahead_tokens(self) -> int:
        """Source tokens that are worth a pass before the target may see them."""
        return READ_AHEAD_TOKENS

    def read_and_write(
        self,
        source_ids: Sequence[int],
        target_ids: Sequence[int],
        n_rewind: int = 0,
        n_hidden: int = 0,
    ) -> mx.array:
        """Feed both groups, in one pass where the family can."""
        if self.reads_alone(source_ids, n_hidden):
            self.roll_back(n_rewind)
            self.read(source_ids)
            n_rewind, source_ids = 0, ()
        n_fused = len(source_ids)
        self.prepare(source_ids, target_ids, n_rewind, n_hidden)
        self._route(is_reading=False, n_fused=n_fused, n_hidden=n_hidden)
        try:
            return self._run([[*source_ids, *target_ids]])[:, n_fused:]
        finally:
            self._route(is_reading=False)

    def reads_alone(self, source_ids: Sequence[int], n_hidden: int) -> bool:
        """Whether source tokens take a pass of their own before the target's."""
        # Before anything is cached it is not known yet whether the target can follow.
        can_fuse = self._fuses and self.source_tokens and not n_hidden
        return len(source_ids) > (MAX_FUSED_TOKENS if can_fuse else 0)

    def prepare(
        self,
        source_ids: Sequence[int],
        target_ids: Sequence[int],
        n_rewind: int = 0,
        n_hidden: int = 0,
    ) -> None:
        """Forget what is outdated, and let φ be where a pass with these tokens needs it.

        Raises:
            InvalidOptionError: for tokens that cannot be fed.
        """
        self.roll_back(n_rewind)
        self._check(source_ids, self.source_tokens)
        if target_ids:
            start = self._place_target(self.source_tokens + len(source_ids) - n_hidden)
            self._check(target_ids, start + self.target_tokens)

    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""
        for cache in self.caches:
            cache.trim_target(n_tokens)

    @property
    def state(self) -> list[Any]:
        """All there is to save of this stream, a tuple per layer; assigning it restores it."""
        state = [cache.state for cache in self.caches]
        # What is not computed yet could only be computed on this thread.
        mx.eval(state)
        return state

    @state.setter
    def state(self, value: Sequence[Any]) -> None:
        value = state_of(value, list)
        if len(value) != len(self.caches):
            raise InvalidOptionError(
                f"a saved state of {len(value)} layers does not fit a model of {len(self.caches)}."
            )
        before = self.state
        try:
            for cache, layer_state in zip(self.caches, value, strict=True):
                cache.state = layer_state
        except InvalidOptionError:
            for cache, layer_state in zip(self.caches, before, strict=True):
                cache.state = layer_state
            raise
        self._start = self.caches[0].target_start if self.target_tokens else None

    def count_pass(self) -> None:
        """The model has run for this stream among others."""
        self._n_passes += 1

    def forward(self, rows: Sequence[Sequence[int]], is_reading: bool) -> mx.array:
        """Feed rows of tokens, one per stream of a batch, to one group; φ stays where it is.

        Returns:
            (B, L, V) logits.
        """
        self._route(is_reading)
        return self._run(rows)

    def _run(self, rows: Sequence[Sequence[int]]) -> mx.array:
        self._n_passes += 1
        return self.model(mx.array([list(row) for row in rows], mx.int32), cache=self._model_caches)

    def _route(self, is_reading: bool, n_fused: int = 0, n_hidden: int = 0) -> None:
        for cache in self.caches:
            cache.is_reading = is_reading
            cache.n_fused_source = n_fused
            cache.n_hidden_source = n_hidden

    def _place_target(self, n_source: int) -> int:
        """Let φ be where it should be for so much source, and say where (SPEC section 1)."""
        if not self._followable_known and self.caches[0].head_dim:
            self._target_start = self._followable(self._target_start)
            self._followable_known = True
        start = self._target_start.position(n_source, self._start)
        if start == self._start:
            return start
        for cache, rope in zip(self.caches, self._ropes, strict=True):
            if rope is None or not cache.target_tokens:
                cache.target_start = start
            else:
                cache.rotate_target(rope, start - cache.target_start)
        self._start = start
        return start

    def _followable(self, target_start: TargetStart) -> TargetStart:
        if not isinstance(target_start, FollowStart):
            return target_start
        if "cannot follow" not in self.findings:
            self.findings["cannot follow"] = self._why_not_follow()
        because = self.findings["cannot follow"]
        if because is None:
            return target_start
        stay = StayStart()
        warnings.warn(
            f"target_start='follow' cannot be exact for this model: {because}, so cached keys "
            f"cannot be moved. The target stays {stay.margin_tokens} tokens behind the source of "
            "its first word; pass target_start=<position> to choose it.",
            SimulWarning,
            stacklevel=2,
        )
        return stay

    def _why_not_follow(self) -> str | None:
        head_dims = [cache.head_dim for cache in self.caches]
        layers = zip(self._ropes, head_dims, strict=True)
        if self._fixed_because is not None:
            return self._fixed_because
        if all_rotate_exactly(layers, self._max_positions or 2048):
            return None
        return "its RoPE frequencies depend on the length"
