"""The plain cache: RoPE is applied before caching and softmax does not care about order, so merging
and separating the groups are slices of one buffer, never copies.

Shape legend: B batch, K kv heads, L new tokens, S source tokens, T target tokens, D head dim.
"""

from __future__ import annotations

from typing import Any, Literal

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.buffer import MirroredBuffer, Place, Planes, Storage
from mlx_simul.errors import CacheStateError, InvalidOptionError
from mlx_simul.masks import fused_mask, source_mask, target_mask
from mlx_simul.positions import FusedPositions, Rope, rotate


class DualStreamingCache:
    """The plain :class:`SourceTargetCache`: full precision, nothing evicted.

    Args:
        rotated: what RoPE has turned. Multi-head latent attention caches its latents as keys, and
            the turned part of the keys as values.
        chunk_size: tokens in each of the chunks across which nothing is seen; ``None`` for none.
    """

    def __init__(
        self, rotated: Literal["keys", "values"] = "keys", chunk_size: int | None = None
    ) -> None:
        self.is_reading = True
        self.n_fused_source = 0
        self.n_hidden_source = 0
        self.target_start = 0
        self.windows_target = True
        self.chunk_size = chunk_size
        self._rotated = rotated
        self._merged = False
        self._buffer = MirroredBuffer()
        self._rounding: Planes = ()

    @property
    def source_tokens(self) -> int:
        """S, source tokens cached."""
        return self._buffer.n_source

    @property
    def target_tokens(self) -> int:
        """T, target tokens cached."""
        return self._buffer.n_target

    @property
    def head_dim(self) -> int:
        """D of what RoPE has turned; 0 as long as nothing is cached."""
        if self._buffer.is_empty:
            return 0
        return self._width(halves_of(self._buffer.target)[self._rotated])

    @property
    def offset(self) -> int | FusedPositions:
        """Position of the next token: S while reading, φ + T while writing."""
        source, target = self.source_tokens, self.target_start + self.target_tokens
        if self.n_fused_source:
            return FusedPositions(self.n_fused_source, source, target)
        return source if self.is_reading else target

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return self._buffer.nbytes

    def live_in(self, storage: Storage, place: Place | None = None) -> None:
        """Begin anew in a storage; with a place, in a row of it beside others."""
        self._buffer = MirroredBuffer(storage, place)
        self.reset()

    def grow(self, n_source: int, n_target: int) -> None:
        """Count tokens that were put into the row by a pass of several streams."""
        self._buffer.n_source += n_source
        self._buffer.n_target += n_target

    # The two groups

    def update_source(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append source tokens.

        Args:
            keys: (B, K, L, D), rotated to the source's positions.
            values: (B, K, L, Dv).

        Returns:
            The source's keys and values in order of arrival, (B, K, S, D) and (B, K, S, Dv).

        Raises:
            CacheStateError: while merged.
            InvalidOptionError: if the shapes do not fit each other or what is cached.
        """
        self._append_source(keys, values)
        return self.present(tuple(plane[..., ::-1, :] for plane in self._buffer.source))

    def update_target(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append target tokens.

        Args:
            keys: (B, K, L, D), rotated to the target's positions.
            values: (B, K, L, Dv).

        Returns:
            The target's keys and values, (B, K, T, D) and (B, K, T, Dv).

        Raises:
            CacheStateError: while merged.
            InvalidOptionError: if the shapes do not fit each other or what is cached.
        """
        self._append_target(keys, values)
        return self.present(self._buffer.target)

    def merge_source_target(self) -> None:
        """Present both groups as one; idempotent, and free of cost."""
        self._merged = True

    def get_merged(self) -> KeysValues:
        """Both groups as one, ``[source | target]``, the source newest token first.

        Returns:
            (B, K, S + T, D) and (B, K, S + T, Dv), slices of the buffer.

        Raises:
            CacheStateError: before a merge, or when nothing is cached.
        """
        if not self._merged:
            raise CacheStateError("get_merged before a merge: call merge_source_target first.")
        return self.present(self._buffer.whole)

    def separate_source_target(self) -> None:
        """End the merged view, so that the groups may grow again; idempotent."""
        self._merged = False

    def trim_target(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been written.

        Raises:
            CacheStateError: while merged.
            InvalidOptionError: if there are not so many.
        """
        self._refuse_if_merged("trim_target")
        if not 0 <= n_tokens <= self.target_tokens:
            raise InvalidOptionError(
                f"cannot roll back {n_tokens} target tokens: {self.target_tokens} are cached."
            )
        self._buffer.n_target -= n_tokens
        self._rounding = tuple(plane[..., : self.target_tokens, :] for plane in self._rounding)

    def rotate_target(self, rope: Rope, delta: int) -> None:
        """Move φ, and with it every cached target key, on by ``delta`` positions.

        In half precision, or quantised, a slow frequency turns less in one move than rounding takes
        away, so what each move loses is kept, and added again before the next.

        Args:
            rope: this layer's RoPE module.
            delta: Δ, in positions.

        Raises:
            CacheStateError: while merged.
        """
        self._refuse_if_merged("rotate_target")
        self.target_start += delta
        if not self.target_tokens:
            return
        halves = halves_of(self._buffer.target)
        held = halves[self._rotated]
        dtype = held[-1].dtype
        turned = self._decode(held)
        if self._rounding:
            lost = self._decode_lost(self._rounding)
            turned[..., : lost.shape[2], :] += lost
        moved = rotate(rope, turned, delta)
        stored = self._encode(moved.astype(dtype))
        if self._buffer.is_shared:
            # As long as what is read of an array is not computed, MLX writes into a copy of it all.
            mx.eval(stored)
        self._buffer.replace_target(stored, 0 if self._rotated == "keys" else len(halves["keys"]))
        if stored[0].dtype != mx.float32:
            self._rounding = self._encode_lost((moved - self._decode(stored)).astype(dtype))

    def reset_target(self) -> None:
        """Forget the target, keep the source."""
        self._buffer.n_target = 0
        self._rounding = ()
        self._merged = False

    def reset(self) -> None:
        """Forget both groups and free their memory."""
        self._buffer.clear()
        self._rounding = ()
        self._merged = False

    # What mlx-lm's attention asks

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append to the group being fed; return what its tokens attend to, in memory order.

        Source tokens get the source alone, target tokens both groups (SPEC section 1), and in a
        fused pass all of them both, for the mask to tell them apart.

        Args:
            keys: (B, K, L, D), rotated from ``offset`` on.
            values: (B, K, L, Dv).
        """
        n_source = keys.shape[2] if self.is_reading else self.n_fused_source
        if n_source:
            self._append_source(keys[..., :n_source, :], values[..., :n_source, :])
        if not self.is_reading:
            self._append_target(keys[..., n_source:, :], values[..., n_source:, :])
        return self.keys_and_values()

    def keys_and_values(self) -> KeysValues:
        """What the tokens of the group being fed attend to, in memory order."""
        if self.is_reading:
            return self.present(self._buffer.source)
        return self.present(self._buffer.without_newest_source(self.n_hidden_source))

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Mask for the next ``n_new`` tokens of the group being fed, in memory order.

        Args:
            n_new: L.
            return_array: never answer with a name (mlx-lm's convention).
            window_size: tokens a row may look back on, itself included; ``None`` for all.
        """
        n_reading = n_new if self.is_reading else self.n_fused_source
        n_source = self.source_tokens + n_reading
        reading = None
        if n_reading:
            reading = source_mask(n_reading, n_source, window_size, self.chunk_size)
        if self.is_reading:
            return reading
        n_source -= self.n_hidden_source
        n_writing = n_new - n_reading
        n_target = self.target_tokens + n_writing
        reach = (window_size, self.chunk_size) if self.windows_target else (None, None)
        as_array = return_array or n_reading > 0
        writing = target_mask(n_writing, n_source, n_target, *reach, as_array)
        if not n_reading:
            return writing
        return fused_mask(reading, writing, n_reading, n_writing, n_source, n_target)

    # Saving

    @property
    def state(self) -> tuple[Any, Any, int, int, int]:
        """Keys, values, S, T and φ; the arrays hold ``[source | target]`` without free room.

        What rounding took in half precision is not saved: a restored target starts from its keys as
        they are.
        """
        if self._buffer.is_empty:
            return None, None, 0, 0, self.target_start
        keys, values = self.present(self._buffer.whole)
        return keys, values, self.source_tokens, self.target_tokens, self.target_start

    @state.setter
    def state(self, value: tuple[Any, Any, int, int, int]) -> None:
        keys, values, n_source, n_target, target_start = value
        planes = (*_as_planes(keys), *_as_planes(values))
        if planes and not all(map(self._is_own, halves_of(planes).values())):
            raise InvalidOptionError(
                f"a saved state of {len(planes)} arrays is not of a {type(self).__name__} like "
                "this; it was saved with other kv_bits or kv_group_size."
            )
        self._buffer.restore(planes, n_source, n_target)
        self.target_start = target_start
        self._rounding = ()
        self._merged = False

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

    def planes_of(self, keys: mx.array, values: mx.array) -> Planes:
        """What is stored of keys (B, K, L, D) and values (B, K, L, Dv)."""
        self._refuse_if_merged("an update")
        if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
            raise InvalidOptionError(
                "keys and values must be (batch, kv heads, tokens, head size) with equal batch, "
                f"heads and tokens, got {keys.shape} and {values.shape}."
            )
        return *self._encode(keys), *self._encode(values)

    def _append_source(self, keys: mx.array, values: mx.array) -> None:
        self._buffer.append_source(self.planes_of(keys, values))

    def _append_target(self, keys: mx.array, values: mx.array) -> None:
        self._buffer.append_target(self.planes_of(keys, values))

    def _refuse_if_merged(self, what: str) -> None:
        if self._merged:
            raise CacheStateError(
                f"{what} while source and target are merged: call separate_source_target first."
            )


def halves_of(planes: Planes) -> dict[str, Planes]:
    """The planes of the keys and those of the values."""
    n = len(planes) // 2
    return {"keys": planes[:n], "values": planes[n:]}


def _as_planes(half: Any) -> Planes:
    """Saved keys, or values, as planes."""
    if half is None:
        return ()
    return tuple(half) if isinstance(half, tuple | list) else (half,)
