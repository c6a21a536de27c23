"""The arrays of some streams: the model that runs, and the caches in which their tokens lie.

Everything here is asked for in plain integers. So where a model is spread over several ranks, each
has a shard of its own, and the runner knows that of rank 0 (:mod:`mlx_simul.engine.ranks`).

Shape legend: B streams in a pass, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.base import KVBits, flat, vocab_size_of
from mlx_simul.cache import (
    Lane,
    Layout,
    PassPlan,
    QuantizedLayerCache,
    SourceTargetCache,
    layout_of,
)
from mlx_simul.cache.storage import Planes, Storage
from mlx_simul.engine.attention import Recording, View, recording, watched
from mlx_simul.engine.orders import Thing, order
from mlx_simul.engine.ranks import HELD_BY_RANKS, Ranks, Share, kept_by
from mlx_simul.engine.tape import Tape
from mlx_simul.errors import InvalidOptionError, RanksError
from mlx_simul.policies.base import Head

Lost: TypeAlias = list[Planes]
"""For each layer, what rounding took from a target's keys when they were last moved."""


@dataclass(frozen=True)
class Fed:
    """What a pass gives.

    Attributes:
        layout: where its tokens lie.
        logits: (B, L, V).
        recorded: the attention that was asked for.
        arrays: of these, what ranks have to compute together.
    """

    layout: Layout
    logits: mx.array
    recorded: Recording
    arrays: Any = ()


class Shard(Thing):
    """The model and the caches of one stream, or of some that have a row each.

    Args:
        model: an mlx-lm model.
        caches: what the model is called with, built from :class:`SourceTargetCache`.
        is_shared: several streams will lie in the caches; there are no rows yet.

    Attributes:
        caches: one by one.
    """

    def __init__(self, model: Any, caches: Iterable[Any], is_shared: bool = False) -> None:
        self._model = model
        self._ropes = archs.of(model).ropes(model)
        self._model_caches = list(caches)
        self.caches: list[SourceTargetCache] = list(flat(self._model_caches))
        self._lost: dict[int | None, Lost] = {}
        if is_shared:
            for cache in self.caches:
                cache.storage = Storage(0)

    def arrays(self) -> Any:
        """All that lies in the caches."""
        return [cache.storage.planes for cache in self.caches]

    # Passes

    @order
    def watch(self, heads: tuple[Head, ...]) -> None:
        """Let passes record the attention of these heads, too.

        Raises:
            InvalidOptionError: if it cannot be seen.
        """
        if self.ranks is not None and is_pipelined(self._model):
            raise InvalidOptionError(
                "attention is not shown by a model whose layers are spread over ranks; take a "
                "policy that needs none, or a family that shards its heads."
            )
        self._model = watched(self._model, heads)

    @order
    def feed(
        self,
        rows: tuple[tuple[int, ...], ...],
        lanes: tuple[Lane, ...],
        views: tuple[View, ...],
        predicts: bool,
    ) -> Fed:
        """One pass over the model; the lanes' streams have not counted it yet.

        Args:
            rows: tokens, of equal number: one row for each lane, or any number that one lane holds
                in lockstep.
            lanes: what the tokens are.
            views: whose attention is to be recorded.
            predicts: whether the logits are wanted; without them they need not be computed.

        Raises:
            RanksError: of several ranks, if this one cannot do what the plan says.
        """
        plan, ranks = PassPlan(lanes, len(rows[0])), self.ranks
        if isinstance(ranks, Ranks):
            self._require(rows, plan)
        layout = layout_of(plan)
        for cache in self.caches:
            cache.begin(layout)
            if is_pipelined(self._model):
                # mlx-lm hangs on it what is sent to the next stage; here logits bring that about.
                vars(cache)["keys"] = mx.array(0)
        tokens = mx.array([list(row) for row in rows], mx.int32)
        if not isinstance(ranks, Ranks):
            with recording(views) as recorded:
                return Fed(layout, self._model(tokens, cache=self._model_caches), recorded)
        with recording(views, ranks.rank, ranks.size) as recorded:
            logits = self._model(tokens, cache=self._model_caches)
        recorded.gather(ranks.group, logits)
        # A stage of a pipeline sends what the next one needs only on the way to the logits.
        is_wanted = predicts or is_pipelined(self._model)
        return Fed(layout, logits, recorded, (logits if is_wanted else (), recorded.arrays))

    def settle(self) -> None:
        """Compute what was fed; without a request for logits MLX would not compute the pass."""
        mx.eval(self.arrays())

    @order
    def move_target(self, row: int | None, delta: int, n_target: int, n_lost: int) -> None:
        """Move every target key of a stream on by ``delta`` positions (SPEC section 1).

        Args:
            row: the stream's.
            delta: Δ, in positions.
            n_target: T, at least 1.
            n_lost: how many of its tokens the last move of this stream moved, too.
        """
        layers = zip(self.caches, self._ropes, strict=True)
        lost = self.lost(row, n_lost) or [()] * len(self.caches)
        self._lost[row] = [
            () if rope is None else cache.move_target(rope, delta, row, n_target, took)
            for (cache, rope), took in zip(layers, lost, strict=True)
        ]

    # Saving

    def lost(self, row: int | None, n_tokens: int) -> Lost:
        """What rounding took from this many target keys of a stream when they were last moved."""
        lost = self._lost.get(row, []) if n_tokens else []
        return [tuple(plane[..., :n_tokens, :] for plane in of_layer) for of_layer in lost]

    def put_lost(self, row: int | None, lost: Lost) -> int:
        """Take what :meth:`lost` gave; returns of how many target keys that is."""
        self._lost[row] = lost
        return max((planes[0].shape[2] for planes in lost if planes), default=0)

    def saved(self, row: int | None, n_source: int, n_target: int) -> tuple[Any, ...] | Share:
        """What a stream holds: keys and values of each layer, or what stands for all ranks' own."""
        if isinstance(self.ranks, Ranks):
            share = Share(self.ranks)
            self.keep(share.number, row, n_source, n_target)
            return share
        return self._layers(row, n_source, n_target)

    def restore(
        self, row: int | None, held: tuple[Any, ...] | Share, n_source: int, n_target: int
    ) -> None:
        """Hold what :meth:`saved` gave earlier.

        Raises:
            InvalidOptionError: if it does not fit; nothing has changed then.
        """
        if isinstance(self.ranks, Ranks):
            self.fetch(self.ranks.number_of(held), row, n_source, n_target)
        elif isinstance(held, Share):
            raise InvalidOptionError(HELD_BY_RANKS)
        else:
            self._put(row, held, n_source, n_target)

    @order
    def keep(self, number: int, row: int | None, n_source: int, n_target: int) -> Any:
        """Let each rank keep its part of what a stream holds, under a number."""
        kept_by(self.ranks)[number] = layers = self._layers(row, n_source, n_target)
        return layers

    @order
    def fetch(self, number: int, row: int | None, n_source: int, n_target: int) -> None:
        """Let each rank put back what it kept.

        Raises:
            InvalidOptionError: if it does not fit; nothing has changed then.
        """
        self._put(row, kept_by(self.ranks)[number], n_source, n_target)

    def _layers(self, row: int | None, n_source: int, n_target: int) -> tuple[Any, ...]:
        layers = tuple(cache.saved(row, n_source, n_target) for cache in self.caches)
        # What is not computed yet could only be computed on this thread.
        mx.eval(layers)
        return layers

    def _put(self, row: int | None, layers: tuple[Any, ...], n_source: int, n_target: int) -> None:
        if len(layers) != len(self.caches):
            raise InvalidOptionError(
                f"a saved state of {len(layers)} layers does not fit a model of {len(self.caches)}."
            )
        # First all of them, so that nothing has changed when one is refused.
        for cache, saved in zip(self.caches, layers, strict=True):
            cache.require(row, saved, n_source, n_target)
        for cache, saved in zip(self.caches, layers, strict=True):
            cache.restore(row, saved, n_source, n_target)

    # Rows

    @order
    def add_rows(self, n_rows: int) -> None:
        """Add this many rows."""
        for cache in self.caches:
            cache.storage.add_rows(n_rows)

    @order
    def clear_row(self, row: int) -> None:
        """Forget what lies in a row."""
        self._lost.pop(row, None)
        for cache in self.caches:
            cache.storage.clear(row)

    @order
    def move_row(self, row: int, to: int, n_source: int, n_target: int) -> None:
        """Let a stream go on in another row."""
        for cache in self.caches:
            saved = cache.saved(row, n_source, n_target)
            # As long as what is read of an array is not computed, MLX writes into a copy of it all.
            mx.eval(saved)
            cache.restore(to, saved, n_source, n_target)
        self._lost[to] = self._lost.pop(row, [])

    @order
    def keep_rows(self, n_rows: int, left: int, right: int) -> None:
        """Give back all but the first rows, and all but this many tokens on each side."""
        for cache in self.caches:
            cache.storage.keep(n_rows, left, right)

    # Of several ranks

    def _require(self, rows: Sequence[Sequence[int]], plan: PassPlan) -> None:
        """Check that a plan that another rank made can be carried out by this one."""
        lanes, n_tokens = plan.lanes, plan.n_tokens
        counts = [
            (lane.n_source, lane.n_target, lane.n_new_source, lane.n_new_target, lane.n_hidden)
            for lane in lanes
        ]
        size = vocab_size_of(self._model)
        is_sound = (
            lanes
            and n_tokens
            and all(len(row) == n_tokens for row in rows)
            and all(token >= 0 and (size is None or token < size) for row in rows for token in row)
            and all(count >= 0 for each in counts for count in each)
            and all(new + more <= n_tokens for _, _, new, more, _ in counts)
            and all(lane.n_hidden <= lane.n_source_after for lane in lanes)
            and all(-1 <= parent < i for each in lanes for i, parent in enumerate(each.parents))
            and all(len(lane.parents) <= lane.n_new_target for lane in lanes)
            and (len(lanes) == 1 or len(rows) == len(lanes))
            and len({lane.row for lane in lanes}) == len(lanes)
        )
        storage = self.caches[0].storage
        held = [storage.holds(lane.row, lane.n_source, lane.n_target) for lane in lanes]
        if not is_sound or not all(held):
            raise RanksError(f"this rank cannot carry out {plan}: its caches hold something else.")


class ShardedModel(Thing):
    """A model that every rank has loaded its shard of.

    Args:
        model: of this rank; rank 0's caller holds it.
        is_pipelined: each rank has some layers; else each has a part of every layer.
    """

    def __init__(self, ranks: Ranks, model: Any, is_pipelined: bool) -> None:
        self.is_pipelined = is_pipelined
        self._model = model if ranks.rank else None
        ranks.add_common(self)

    @order
    def open_shard(self, number: int, bits: int | None, group_size: int, is_shared: bool) -> None:
        """Let every rank but 0, which has its own, make caches for streams over this model."""
        if self._model is not None:
            kv = None if bits is None else KVBits(bits, group_size)
            caches = archs.of(self._model).make_cache(self._model, kv)
            self._add(Shard(self._model, caches, is_shared), number)

    @order
    def open_tape(self, number: int) -> None:
        """Likewise a tape."""
        if self._model is not None:
            self._add(Tape(self._model), number)

    def _add(self, thing: Thing, number: int) -> None:
        if not isinstance(self.ranks, Ranks):
            raise RanksError("this model is not spread over ranks.")
        self.ranks.add(thing, number)


def sharded(model: Any) -> ShardedModel | None:
    """What ranks know of a model, if it is spread over several."""
    return getattr(model, "sharded", None)


def is_pipelined(model: Any) -> bool:
    """Whether a model's layers are spread over ranks."""
    known = sharded(model)
    return known is not None and known.is_pipelined


def make_shard(model: Any, caches: Iterable[Any], is_shared: bool = False) -> Shard:
    """A model and caches; those of all ranks, if it is spread over several."""
    shard = Shard(model, caches, is_shared)
    known = sharded(model)
    if known is not None and isinstance(known.ranks, Ranks):
        ranks, kv = known.ranks, _kv_of(shard.caches[0])
        number = ranks.new_number()
        known.open_shard(number, kv and kv.bits, kv.group_size if kv else 0, is_shared)
        ranks.add(shard, number)
        ranks.release_with(shard, number)
    return shard


def make_tape(model: Any) -> Tape:
    """A tape; that of all ranks, if the model is spread over several."""
    tape, known = Tape(model), sharded(model)
    if known is not None and isinstance(known.ranks, Ranks):
        ranks = known.ranks
        number = ranks.new_number()
        known.open_tape(number)
        ranks.add(tape, number)
        ranks.release_with(tape, number)
    return tape


def _kv_of(cache: SourceTargetCache) -> KVBits | None:
    if isinstance(cache, QuantizedLayerCache):
        return KVBits(cache.bits, cache.group_size)
    return None
