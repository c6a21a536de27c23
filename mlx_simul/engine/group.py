"""Streaming in two groups: source and target keep their own positions and ends of the cache.

Shape legend: B batch, L new tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.cache import Lane, SourceTargetCache
from mlx_simul.cache.positions import (
    FollowStart,
    StayStart,
    TargetStart,
    all_rotate_exactly,
)
from mlx_simul.engine import costs
from mlx_simul.engine.base import Engine, LogitsProcessor, Sampler, pieces, state_of
from mlx_simul.engine.runner import Runner
from mlx_simul.engine.shard import Share
from mlx_simul.errors import CacheStateError, InvalidOptionError, SimulWarning
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.policies.base import Head


@dataclass(frozen=True)
class StreamState:
    """A stream, to be restored as often as one likes.

    Attributes:
        n_source: S.
        n_target: T.
        start: φ, if there is a target.
        layers: keys and values of each; what stands for them, if several ranks hold them.
    """

    n_source: int
    n_target: int
    start: int | None
    layers: tuple[Any, ...] | Share


class StreamingEngine(Engine):
    """One stream as two groups of tokens (SPEC section 1).

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
        target_start: where the target's positions start.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's, called with the target ids written so far and (1, V) logits.
        caches: what the model is called with, built from :class:`SourceTargetCache`; by default
            what its architecture makes.
        windows_target: whether sliding windows bind the target too.

    Attributes:
        row: which row of the caches is its own, if others have one too.
        model_caches: as ``caches``.

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
        windows_target: bool = True,
    ) -> None:
        super().__init__(model, sampler, logits_processors)
        model, architecture = self.model, archs.of(self.model)
        self._ropes = architecture.ropes(model)
        self._fuses = architecture.fuses_in(model)
        self._fixed_because = architecture.positions_fixed_because
        self._windows_target = windows_target
        self._n_passes = 0
        self._n_source = 0
        self._n_target = 0
        self._start: int | None = None
        self._target_start = target_start
        self._followable_known = False
        # How many of the target's keys were there when they were last moved.
        self._n_moved = 0
        self.model_caches = list(architecture.make_cache(model) if caches is None else caches)
        self._runner: Runner | None = Runner(model, self.model_caches)
        self.row: int | None = None
        self._watched: tuple[Head, ...] = ()

    @property
    def n_passes(self) -> int:
        """How often the model has run."""
        return self._n_passes

    @property
    def source_tokens(self) -> int:
        """Source tokens read."""
        return self._n_source

    @property
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""
        return self._n_target

    @property
    def start(self) -> int | None:
        """φ, once the first target token has been fed."""
        return self._start

    @property
    def runner(self) -> Runner:
        """What runs the passes.

        Raises:
            CacheStateError: once the stream has left the others that it shared passes with.
        """
        if self._runner is None:
            raise CacheStateError("this stream has left its batch, and what it held is gone.")
        return self._runner

    @property
    def caches(self) -> list[SourceTargetCache]:
        """The cache of each layer."""
        return [] if self._runner is None else self._runner.caches

    def live_in(self, runner: Runner | None, row: int | None) -> None:
        """Begin anew in a row of the caches of others, or nowhere."""
        self._runner, self.row = runner, row
        self.model_caches = []  # Others may live in them by now.
        if runner is not None and self._watched:
            runner.watch(self._watched)
        self._n_source = self._n_target = self._n_moved = 0

    # Passes

    def run(self, request: Pass) -> Reply:
        """Feed what a pass asks for, and draw what comes after.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        if request.draft_parents and not self._fuses:
            # The family takes neither positions nor masks token by token.
            return super().run(request)
        while True:
            (outcome,) = self.runner.run([(self, request)])
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Reply):
                return outcome
            request = outcome

    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""
        for piece in pieces(token_ids):
            self.prepare(piece, ())
            self.runner.feed([piece], [self.lane(len(piece), 0)], predicts=False)
            self.count(len(piece), 0)

    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens.

        Returns:
            (1, L, V) logits, row l for the token after ``token_ids[l]``.
        """
        return self.read_and_write((), token_ids)

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
        self.prepare(source_ids, target_ids, n_rewind, n_hidden)
        n_source = len(source_ids)
        logits = self._feed([[*source_ids, *target_ids]], n_source, len(target_ids), n_hidden)
        return logits[:, n_source:]

    def forward(self, rows: Sequence[Sequence[int]], is_reading: bool) -> mx.array:
        """Feed rows of tokens, which go in lockstep, to one group; φ stays where it is.

        Returns:
            (B, L, V) logits.
        """
        n_tokens = len(rows[0])
        if not is_reading and self._start is None:
            self._place_target(self._n_source)
        return self._feed(rows, *((n_tokens, 0) if is_reading else (0, n_tokens)))

    def _feed(
        self, rows: Sequence[Sequence[int]], n_source: int, n_target: int, n_hidden: int = 0
    ) -> mx.array:
        fed = self.runner.feed(rows, [self.lane(n_source, n_target, n_hidden)])
        self.count(n_source, n_target)
        return fed.logits

    # What the runner asks

    @property
    def read_ahead_tokens(self) -> int:
        """Source tokens that are worth a pass before the target may see them."""
        return costs.READ_AHEAD_TOKENS

    def reads_alone(self, source_ids: Sequence[int], n_hidden: int) -> bool:
        """Whether source tokens take a pass of their own before the target's."""
        # Before anything is cached it is not known yet whether the target can follow.
        can_fuse = self._fuses and self._n_source and not n_hidden
        return len(source_ids) > (costs.MAX_FUSED_TOKENS if can_fuse else 0)

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
        self._check(source_ids, self._n_source)
        if target_ids:
            start = self._place_target(self._n_source + len(source_ids) - n_hidden)
            self._check(target_ids, start + self._n_target)

    def lane(self, n_new_source: int, n_new_target: int, n_hidden: int = 0) -> Lane:
        """This stream's part in a pass that feeds this many tokens."""
        return Lane(
            self._n_source,
            self._n_target,
            n_new_source,
            n_new_target,
            n_hidden,
            self._start or 0,
            self._windows_target,
            self.row,
        )

    def count(self, n_source: int, n_target: int) -> None:
        """A pass has fed this many tokens."""
        self._n_passes += 1
        self._n_source += n_source
        self._n_target += n_target

    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""
        if not 0 <= n_tokens <= self._n_target:
            raise InvalidOptionError(
                f"cannot roll back {n_tokens} target tokens: {self._n_target} are cached."
            )
        self._n_target -= n_tokens
        self._n_moved = min(self._n_moved, self._n_target)

    # Saving

    @property
    def state(self) -> StreamState:
        """All there is to save of this stream; assigning it restores it.

        What rounding took in half precision is not saved: a restored target starts from its keys as
        they are.
        """
        counts = self._n_source, self._n_target
        layers = self.runner.shard.saved(self.row, *counts)
        return StreamState(*counts, self._start if self._n_target else None, layers)

    @property
    def exact_state(self) -> dict[str, Any]:
        """A state, what rounding took from the target's keys, and φ.

        Without a target φ is not part of a state, but a target that comes back starts there.
        """
        lost = self.runner.shard.lost(self.row, self._n_moved)
        return {"state": self.state, "start": self._start, "lost": lost}

    @exact_state.setter
    def exact_state(self, value: Mapping[str, Any]) -> None:
        self.state = value["state"]
        self._start = value["start"]
        self._n_moved = self.runner.shard.put_lost(self.row, value["lost"])

    @property
    def state_kinds(self) -> tuple[type, ...]:
        """The class of a state."""
        return (StreamState,)

    @state.setter
    def state(self, value: StreamState) -> None:
        self._restore(state_of(value, StreamState))

    def _restore(self, value: StreamState) -> None:
        self.runner.shard.restore(self.row, value.layers, value.n_source, value.n_target)
        self._n_source, self._n_target = value.n_source, value.n_target
        self._start, self._n_moved = value.start, 0

    # Where the target stands

    def _place_target(self, n_source: int) -> int:
        """Let φ be where it should be for this much source, and say where (SPEC section 1)."""
        if not self._followable_known and self.caches[0].head_dim:
            self._target_start = self._followable(self._target_start)
            self._followable_known = True
        start = self._target_start.position(n_source, self._start)
        if self._start is not None and start != self._start and self._n_target:
            self.runner.shard.move_target(
                self.row, start - self._start, self._n_target, self._n_moved
            )
            self._n_moved = self._n_target
        self._start = start
        return start

    def _watch(self, heads: tuple[Head, ...]) -> None:
        self._watched = tuple({*self._watched, *heads})
        self.runner.watch(heads)

    def source_columns(self, n_hidden: int) -> Sequence[int]:
        """The source lies in front of the target, mirrored."""
        return range(self._n_source - n_hidden)[::-1]

    def _followable(self, target_start: TargetStart) -> TargetStart:
        if not isinstance(target_start, FollowStart):
            return target_start
        findings = self.runner.findings
        if "cannot follow" not in findings:
            findings["cannot follow"] = self._why_not_follow()
        because = findings["cannot follow"]
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
