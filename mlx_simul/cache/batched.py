"""One pass of several streams, each with lengths, positions and a group or two of its own.

Shape legend: B streams in the pass, K kv heads, L tokens of the longest of them, S source tokens,
T target tokens, C columns, D head dim.

A stream that feeds fewer than L tokens is filled up with target tokens that nobody counts: they lie
behind all that it has, so that nothing sees them, and the next tokens are put in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.buffer import Storage
from mlx_simul.cache.dual import DualStreamingCache
from mlx_simul.cache.quantized import QuantizedStreamingCache
from mlx_simul.positions import BatchPositions

_UNBOUNDED = 2**30


@dataclass(frozen=True)
class Lane:
    """One stream's part in a pass.

    Attributes:
        n_new_source: tokens that it feeds to its source; they come first.
        n_new_target: tokens that it feeds to its target.
        n_source: S before the pass.
        n_target: T before the pass.
        n_hidden: source tokens, the newest, that its target does not see.
        start: φ.
        windows_target: whether sliding windows bind its target.
    """

    n_new_source: int
    n_new_target: int
    n_source: int
    n_target: int
    n_hidden: int = 0
    start: int = 0
    windows_target: bool = True


class RaggedPass:
    """Where the tokens of a pass stand, are put, and what they see (SPEC section 1).

    Args:
        lanes: one for each of the first rows of the storages.
        n_tokens: L.
    """

    def __init__(self, lanes: Sequence[Lane], n_tokens: int) -> None:
        self.n_rows = len(lanes)
        self._lanes = tuple(lanes)
        self.left = max(lane.n_source + lane.n_new_source for lane in lanes)
        self.right = max(lane.n_target + lane.n_new_target for lane in lanes)
        self.right_with_filling = n_tokens + max(
            lane.n_target - lane.n_new_source for lane in lanes
        )
        self.rows = mx.arange(self.n_rows)[:, None]

        def each(*values: int) -> mx.array:
            return mx.array(values, mx.int32)[:, None]

        n_new = each(*(lane.n_new_source for lane in lanes))
        n_source = each(*(lane.n_source for lane in lanes))
        n_visible = n_source + n_new
        place = mx.arange(n_tokens)[None]
        is_source = place < n_new
        in_source = n_source + place
        in_target = each(*(lane.n_target for lane in lanes)) + place - n_new
        start = each(*(lane.start for lane in lanes))
        self.columns = mx.where(is_source, -1 - in_source, in_target)
        self.positions = BatchPositions(mx.where(is_source, in_source, start + in_target))
        hidden = each(*(lane.n_hidden for lane in lanes))
        self._visible = mx.where(is_source, n_visible, n_visible - hidden)
        self._order = mx.where(is_source, in_source, self._visible + in_target)
        n_real = n_new + each(*(lane.n_new_target for lane in lanes))
        self._is_filling = place >= n_real
        self._is_bound = is_source | (each(*(lane.windows_target for lane in lanes)) > 0)
        self._masks: dict[int | None, mx.array] = {}

    def source_columns(self, row: int) -> range:
        """Where the source tokens that a stream's target sees lie among the C, in order of arrival."""
        lane = self._lanes[row]
        n_visible = lane.n_source + lane.n_new_source - lane.n_hidden
        return range(self.left - 1, self.left - 1 - n_visible, -1)

    def mask(self, window: int | None) -> mx.array:
        """Who sees whom, in the order ``[source | target]`` as each stream has it.

        Args:
            window: tokens a row may look back on, itself included; ``None`` for all.

        Returns:
            Boolean (B, 1, L, C), True = may see.
        """
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> mx.array:
        column = mx.arange(-self.left, self.right)
        visible, row = self._visible[..., None], self._order[..., None]
        order = mx.where(column < 0, -1 - column, visible + column)
        seen = (order <= row) & (column >= -visible)
        if window is not None:
            reach = mx.where(self._is_bound[..., None], window, _UNBOUNDED)
            seen = seen & (row - order < reach)
        # A row that sees nothing would be NaN, and so would what is put behind the stream.
        return (seen | self._is_filling[..., None])[:, None]


class BatchedStreamingCache:
    """One layer's cache in a pass of several streams; what an attention layer is called with.

    Args:
        storage: where the streams' own caches of this layer live.
        like: one of those, which says how keys and values are stored.
        ragged: the pass.
    """

    def __init__(self, storage: Storage, like: DualStreamingCache, ragged: RaggedPass) -> None:
        self._storage = storage
        self._like = like
        self._pass = ragged

    @property
    def offset(self) -> BatchPositions:
        """The position of each token."""
        return self._pass.positions

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Put tokens into the streams' rows; return what they attend to, in memory order.

        Args:
            keys: (B, K, L, D), rotated as ``offset`` says.
            values: (B, K, L, Dv).

        Returns:
            (B, K, C, D) and (B, K, C, Dv), slices of the storage.
        """
        planes = self._like.planes_of(keys, values)
        if not self._storage.planes:
            self._storage.begin(planes)
        self._storage.make_room(self._pass.left, self._pass.right_with_filling)
        self._storage.put(self._pass.rows, self._pass.columns, planes)
        return self.keys_and_values()

    def keys_and_values(self) -> KeysValues:
        """What :meth:`update_and_fetch` returned last, for layers that share this cache."""
        ragged = self._pass
        return self._like.present(self._storage.window(ragged.n_rows, ragged.left, ragged.right))

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """Boolean (B, 1, L, C): who sees whom among what the layer is about to return."""
        return self._pass.mask(window_size)


class QuantizedBatchedCache(BatchedStreamingCache):
    """The same over quantised keys and values."""

    def __init__(self, storage: Storage, like: QuantizedStreamingCache, ragged: RaggedPass) -> None:
        super().__init__(storage, like, ragged)
        # By these names mlx-lm's attention knows that the cache is quantised.
        self.bits = like.bits
        self.group_size = like.group_size


def batched_cache(
    storage: Storage, like: DualStreamingCache, ragged: RaggedPass
) -> BatchedStreamingCache:
    """The :class:`BatchedStreamingCache` for streams with such caches."""
    if isinstance(like, QuantizedStreamingCache):
        return QuantizedBatchedCache(storage, like, ragged)
    return BatchedStreamingCache(storage, like, ragged)
