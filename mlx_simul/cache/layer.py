"""The cache of one layer: what mlx-lm's attention asks, answered for the pass under way.

RoPE is applied before caching and softmax does not care about order, so the two groups of a stream
are slices of one storage, never copies.

Shape legend: B batch, K kv heads, L new tokens, T target tokens, D head dim.
"""

from __future__ import annotations

from typing import Any, Literal

import mlx.core as mx

from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.layout import Layout
from mlx_simul.cache.positions import Rope, TokenPositions, rotate
from mlx_simul.cache.storage import Planes, Storage, rows_of
from mlx_simul.errors import CacheStateError, InvalidOptionError


class LayerCache:
    """The plain :class:`~mlx_simul.cache.base.SourceTargetCache`: full precision, nothing evicted.

    It counts nothing: the plan of a pass says how much each stream holds.

    Args:
        rotated: what RoPE has turned. Multi-head latent attention caches its latents as keys, and
            the turned part of the keys as values.
        chunk_size: tokens in each of the chunks across which nothing is seen; ``None`` for none.
    """

    def __init__(
        self, rotated: Literal["keys", "values"] = "keys", chunk_size: int | None = None
    ) -> None:
        self.storage = Storage()
        self._rotated = rotated
        self._chunk_size = chunk_size
        self._layout: Layout | None = None

    @property
    def head_dim(self) -> int:
        """D of what RoPE has turned; 0 as long as nothing is cached."""
        if not self.storage.planes:
            return 0
        return self._width(halves_of(self.storage.planes)[self._rotated])

    @property
    def layout(self) -> Layout:
        """The layout of the pass under way.

        Raises:
            CacheStateError: before the first pass.
        """
        if self._layout is None:
            raise CacheStateError(
                "this cache is not part of a pass: let a session run the passes, or run them by "
                "hand with a DualStreamingCache."
            )
        return self._layout

    # What the runner asks

    def begin(self, layout: Layout) -> None:
        """Learn which pass comes next."""
        self._layout = layout

    def move_target(
        self, rope: Rope, delta: int, row: int | None, n_target: int, lost: Planes
    ) -> Planes:
        """Move every target key of a stream on by ``delta`` positions (SPEC section 1).

        In half precision, or quantised, a slow frequency turns less in one move than rounding takes
        away, so what each move loses is kept by the caller, and added again before the next.

        Args:
            rope: this layer's RoPE module.
            delta: Δ, in positions.
            row: the stream's.
            n_target: T, at least 1.
            lost: what the last move returned, of as many tokens as are still those that it moved.

        Returns:
            What this move lost, or nothing.
        """
        rows = rows_of(row)
        halves = halves_of(self.storage.between(rows, 0, n_target))
        held = halves[self._rotated]
        dtype = held[-1].dtype
        turned = self._decode(held)
        if lost and lost[0].shape[2]:
            before = self._decode_lost(lost)
            turned[..., : before.shape[2], :] += before
        moved = rotate(rope, turned, delta)
        stored = self._encode(moved.astype(dtype))
        if self.storage.is_shared:
            # As long as what is read of an array is not computed, MLX writes into a copy of it all.
            mx.eval(stored)
        first = 0 if self._rotated == "keys" else len(halves["keys"])
        self.storage.write(rows, 0, stored, first)
        if stored[0].dtype == mx.float32:
            return ()
        return self._encode_lost((moved - self._decode(stored)).astype(dtype))

    def saved(self, row: int | None, n_source: int, n_target: int) -> KeysValues:
        """Keys and values of a stream, ``[source, newest first | target]``."""
        if not self.storage.planes:
            return None, None
        planes = self.storage.between(rows_of(row), -n_source, n_target)
        if row is not None:
            # A slice would keep the rows of all streams alive.
            planes = tuple(map(mx.contiguous, planes))
        return self.present(planes)

    def require(self, row: int | None, saved: KeysValues, n_source: int, n_target: int) -> None:
        """Check that :meth:`restore` will succeed.

        Raises:
            InvalidOptionError: if it does not hold that many tokens, or was stored in another way.
        """
        planes = (*_as_planes(saved[0]), *_as_planes(saved[1]))
        if planes and not all(map(self._is_own, halves_of(planes).values())):
            raise InvalidOptionError(
                f"a saved state of {len(planes)} arrays does not fit a {type(self).__name__} like "
                "this one; it was saved with other kv_bits or kv_group_size."
            )
        lengths = {plane.shape[2] for plane in planes} or {0}
        if min(n_source, n_target) < 0 or lengths != {n_source + n_target}:
            raise InvalidOptionError(
                f"a saved state of {n_source} source and {n_target} target tokens must hold as "
                f"many keys and values, got {sorted(lengths)}; it may be cut short, or come from "
                "another model."
            )
        if row is not None and planes:
            self.storage.fit(planes, n_rows=1)

    def restore(self, row: int | None, saved: KeysValues, n_source: int, n_target: int) -> None:
        """Hold what :meth:`saved` gave earlier.

        Raises:
            InvalidOptionError: as :meth:`require`; nothing has changed then.
        """
        self.require(row, saved, n_source, n_target)
        planes = (*_as_planes(saved[0]), *_as_planes(saved[1]))
        if row is None:
            self.storage.replace(planes, n_source)
        elif planes:
            self.storage.make_room(n_source, n_target)
            self.storage.write(rows_of(row), -n_source, planes)

    # What mlx-lm's attention asks

    @property
    def offset(self) -> int | TokenPositions:
        """The position of the pass's first token, or of each where they are not consecutive."""
        return self.layout.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Store the tokens of the pass; return what they attend to, in the order it lies in.

        Args:
            keys: (B, K, L, D), rotated as ``offset`` says.
            values: (B, K, L, Dv).

        Raises:
            InvalidOptionError: if the shapes do not fit each other or what is cached.
        """
        planes = self._planes_of(keys, values)
        lanes = self.layout.plan.lanes
        self.storage.fit(planes, None if lanes[0].row is None else len(lanes))
        self.layout.put(self.storage, planes)
        return self.keys_and_values()

    def keys_and_values(self) -> KeysValues:
        """What :meth:`update_and_fetch` returned last, for layers that share this cache."""
        return self.present(self.layout.fetch(self.storage))

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Who sees whom among what :meth:`update_and_fetch` is about to return.

        Args:
            n_new: L; the plan knows it.
            return_array: never answer with a name (mlx-lm's convention).
            window_size: tokens a row may look back on, itself included; ``None`` for all.
        """
        return self.layout.mask(window_size, self._chunk_size, return_array)

    # How numbers are stored

    def _encode(self, x: mx.array) -> Planes:
        """What is stored of keys or values, (B, K, L, D)."""
        return (x,)

    def _decode(self, planes: Planes) -> mx.array:
        """What was stored, in float32."""
        return planes[0].astype(mx.float32)

    def _encode_lost(self, x: mx.array) -> Planes:
        """What is kept of what storing lost."""
        return (x,)

    def _decode_lost(self, planes: Planes) -> mx.array:
        """What was lost, in float32."""
        return planes[0].astype(mx.float32)

    def _is_own(self, planes: Planes) -> bool:
        """Whether keys, or values, were stored as this cache stores them."""
        return len(planes) == 1

    def _width(self, planes: Planes) -> int:
        """D of what was stored."""
        return planes[0].shape[3]

    def present(self, planes: Planes) -> KeysValues:
        """Planes as mlx-lm's attention takes them."""
        keys, values = planes
        return keys, values

    def _planes_of(self, keys: mx.array, values: mx.array) -> Planes:
        if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
            raise InvalidOptionError(
                "keys and values must be (batch, kv heads, tokens, head size) with equal batch, "
                f"heads and tokens, got {keys.shape} and {values.shape}."
            )
        return *self._encode(keys), *self._encode(values)


def halves_of(planes: Planes) -> dict[str, Planes]:
    """The planes of the keys and those of the values."""
    n = len(planes) // 2
    return {"keys": planes[:n], "values": planes[n:]}


def _as_planes(half: Any) -> Planes:
    """Saved keys, or values, as planes."""
    if half is None:
        return ()
    return tuple(half) if isinstance(half, tuple | list) else (half,)
