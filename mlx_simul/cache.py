"""Keys and values of one layer, source and target apart, contiguous in memory.

Shape legend: B batch, K kv heads, L new tokens, S source tokens, T target tokens, D head dim.

One buffer holds ``[source | target]``. The source grows from a middle to the left, the target to
the right::

    free | s4 s3 s2 s1 s0 | t0 t1 t2 | free
                          ^ middle

so the source lies mirrored, newest token first. RoPE is applied before caching and softmax does
not care about order, so merging and separating the groups are slices, never copies.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.errors import CacheStateError, InvalidOptionError
from mlx_simul.masks import source_mask, target_mask
from mlx_simul.positions import Rope, rotate

KeysValues: TypeAlias = tuple[mx.array, mx.array]


class SourceTargetCache(Protocol):
    """What the engine and mlx-lm's attention ask of one layer's cache.

    ``offset``, ``update_and_fetch`` and ``make_mask`` are mlx-lm's names: by them an unmodified
    attention layer learns the position, the keys and the mask of the group that is being fed.
    """

    is_reading: bool
    """The group that the next pass feeds: source if True, target if False."""

    target_start: int
    """φ, the position of the first target token."""

    @property
    def source_tokens(self) -> int:
        """S."""
        ...

    @property
    def target_tokens(self) -> int:
        """T."""
        ...

    @property
    def head_dim(self) -> int:
        """D of the keys; 0 as long as nothing is cached."""
        ...

    @property
    def offset(self) -> int:
        """Position of the next token of the group being fed."""
        ...

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append to the group being fed; return what its tokens attend to, in memory order."""
        ...

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Who sees whom among what :meth:`update_and_fetch` is about to return."""
        ...

    def trim_target(self, n_tokens: int) -> None:
        """Forget the newest target tokens."""
        ...

    def rotate_target(self, rope: Rope, delta: int) -> None:
        """Move all target positions on by ``delta``."""
        ...

    def reset(self) -> None:
        """Forget both groups."""
        ...

    def reset_target(self) -> None:
        """Forget the target, keep the source."""
        ...

    @property
    def state(self) -> Any:
        """All there is to save; assigning it restores it."""
        ...

    @state.setter
    def state(self, value: Any) -> None: ...


class DualStreamingCache:
    """The plain :class:`SourceTargetCache`: full precision, nothing evicted."""

    step = 256

    def __init__(self) -> None:
        self.is_reading = True
        self.target_start = 0
        self._merged = False
        self._clear()

    def _clear(self) -> None:
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._middle = 0
        self._n_source = 0
        self._n_target = 0
        self._rounding: mx.array | None = None

    @property
    def source_tokens(self) -> int:
        """S, source tokens cached."""
        return self._n_source

    @property
    def target_tokens(self) -> int:
        """T, target tokens cached."""
        return self._n_target

    @property
    def head_dim(self) -> int:
        """D of the keys; 0 as long as nothing is cached."""
        return 0 if self._keys is None else self._keys.shape[3]

    @property
    def offset(self) -> int:
        """Position of the next token: S while reading, φ + T while writing."""
        return self._n_source if self.is_reading else self.target_start + self._n_target

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        if self._keys is None or self._values is None:
            return 0
        return self._keys.nbytes + self._values.nbytes

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
        start, end = self._middle - self._n_source, self._middle
        source_keys, source_values = self._slice(start, end)
        return source_keys[..., ::-1, :], source_values[..., ::-1, :]

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
        return self._slice(self._middle, self._middle + self._n_target)

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
        return self._slice(self._middle - self._n_source, self._middle + self._n_target)

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
        if not 0 <= n_tokens <= self._n_target:
            raise InvalidOptionError(
                f"cannot roll back {n_tokens} target tokens: {self._n_target} are cached."
            )
        self._n_target -= n_tokens
        self._trim_rounding()

    def rotate_target(self, rope: Rope, delta: int) -> None:
        """Move φ, and with it every cached target key, on by ``delta`` positions.

        In half precision a slow frequency turns less in one move than rounding takes away, so what
        each move loses is kept, and added again before the next.

        Args:
            rope: this layer's RoPE module.
            delta: Δ, in positions.

        Raises:
            CacheStateError: while merged.
        """
        self._refuse_if_merged("rotate_target")
        self.target_start += delta
        if not self._n_target or self._keys is None:
            return
        where = slice(self._middle, self._middle + self._n_target)
        keys = self._keys[..., where, :].astype(mx.float32)
        if self._rounding is not None:
            keys[..., : self._rounding.shape[2], :] += self._rounding
        moved = rotate(rope, keys, delta)
        self._keys[..., where, :] = rounded = moved.astype(self._keys.dtype)
        if rounded.dtype != mx.float32:
            self._rounding = (moved - rounded).astype(rounded.dtype)

    def reset_target(self) -> None:
        """Forget the target, keep the source."""
        self._n_target = 0
        self._rounding = None
        self._merged = False

    def reset(self) -> None:
        """Forget both groups and free their memory."""
        self._merged = False
        self._clear()

    # What mlx-lm's attention asks

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append to the group being fed; return what its tokens attend to, in memory order.

        Source tokens get the source alone, target tokens both groups (SPEC section 1).

        Args:
            keys: (B, K, L, D), rotated from ``offset`` on.
            values: (B, K, L, Dv).
        """
        if self.is_reading:
            self._append_source(keys, values)
            return self._slice(self._middle - self._n_source, self._middle)
        self._append_target(keys, values)
        self.merge_source_target()
        try:
            return self.get_merged()
        finally:
            self.separate_source_target()

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Mask for the next ``n_new`` tokens of the group being fed, in memory order.

        Args:
            n_new: L.
            return_array: never answer with a name (mlx-lm's convention).
            window_size: tokens a row may look back on, itself included; ``None`` for all.
        """
        if self.is_reading:
            return source_mask(n_new, self._n_source + n_new, window_size)
        n_target = self._n_target + n_new
        return target_mask(n_new, self._n_source, n_target, window_size, as_array=return_array)

    # Saving

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None, int, int, int]:
        """Keys, values, S, T and φ; the arrays hold ``[source | target]`` without free room.

        What rounding took in half precision is not saved: a restored target starts from its keys as
        they are.
        """
        if self._keys is None:
            return None, None, 0, 0, self.target_start
        keys, values = self._slice(self._middle - self._n_source, self._middle + self._n_target)
        return keys, values, self._n_source, self._n_target, self.target_start

    @state.setter
    def state(self, value: tuple[mx.array | None, mx.array | None, int, int, int]) -> None:
        keys, values, n_source, n_target, target_start = value
        if keys is not None and values is not None:
            _check_pair(keys, values)
        n_cached = 0 if keys is None else keys.shape[2]
        is_paired = (keys is None) == (values is None)
        if not is_paired or min(n_source, n_target) < 0 or n_cached != n_source + n_target:
            raise InvalidOptionError(
                f"a saved state of {n_source} source and {n_target} target tokens must hold as "
                f"many keys and values, got {n_cached}; it may be cut short or of another model."
            )
        # New handles: writing into these must not write into what was saved.
        self._keys = None if keys is None else keys[:]
        self._values = None if values is None else values[:]
        self._middle = self._n_source = n_source
        self._n_target = n_target
        self.target_start = target_start
        self._rounding = None
        self._merged = False

    # The buffer

    def _append_source(self, keys: mx.array, values: mx.array) -> None:
        n_new = self._check(keys, values)
        self._make_room(left=n_new, right=0)
        end = self._middle - self._n_source
        self._put(end - n_new, end, keys[..., ::-1, :], values[..., ::-1, :])
        self._n_source += n_new

    def _append_target(self, keys: mx.array, values: mx.array) -> None:
        n_new = self._check(keys, values)
        self._make_room(left=0, right=n_new)
        start = self._middle + self._n_target
        self._put(start, start + n_new, keys, values)
        self._n_target += n_new

    def _slice(self, start: int, end: int) -> KeysValues:
        if self._keys is None or self._values is None:
            raise CacheStateError("nothing is cached yet: update the source or the target first.")
        return self._keys[..., start:end, :], self._values[..., start:end, :]

    def _put(self, start: int, end: int, keys: mx.array, values: mx.array) -> None:
        if self._keys is not None and self._values is not None:
            self._keys[..., start:end, :] = keys
            self._values[..., start:end, :] = values

    def _make_room(self, left: int, right: int) -> None:
        """Grow in blocks, an eighth of what is held at least, so that copying stays amortised."""
        if self._keys is None or self._values is None:
            return
        size = self._keys.shape[2]
        left_short = left - (self._middle - self._n_source)
        right_short = right - (size - self._middle - self._n_target)
        if left_short <= 0 and right_short <= 0:
            return
        held = self._n_source + self._n_target
        add_left = self._block(left_short, held)
        add_right = self._block(right_short, held)
        self._keys = _pad(self._keys, add_left, add_right)
        self._values = _pad(self._values, add_left, add_right)
        self._middle += add_left

    def _block(self, short: int, held: int) -> int:
        if short <= 0:
            return 0
        return -(-max(short, held // 8) // self.step) * self.step

    def _check(self, keys: mx.array, values: mx.array) -> int:
        """Refuse what does not fit before anything is changed; return L."""
        self._refuse_if_merged("an update")
        _check_pair(keys, values)
        if self._keys is None or self._values is None:
            self._keys = _empty_like(keys)
            self._values = _empty_like(values)
            self._middle = 0
        for name, new, held in (("keys", keys, self._keys), ("values", values, self._values)):
            fits = new.shape[:2] == held.shape[:2] and new.shape[3] == held.shape[3]
            if not fits or new.dtype != held.dtype:
                raise InvalidOptionError(
                    f"{name} of shape {new.shape} and {new.dtype} do not extend a cache of "
                    f"{held.shape[:2]} x tokens x {held.shape[3]} and {held.dtype}; batch, heads, "
                    "head size and dtype must stay the same (reset() starts anew)."
                )
        return keys.shape[2]

    def _trim_rounding(self) -> None:
        if self._rounding is not None:
            self._rounding = self._rounding[..., : self._n_target, :]

    def _refuse_if_merged(self, what: str) -> None:
        if self._merged:
            raise CacheStateError(
                f"{what} while source and target are merged: call separate_source_target first."
            )


def _check_pair(keys: mx.array, values: mx.array) -> None:
    if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
        raise InvalidOptionError(
            "keys and values must be (batch, kv heads, tokens, head size) with equal batch, heads "
            f"and tokens, got {keys.shape} and {values.shape}."
        )


def _empty_like(x: mx.array) -> mx.array:
    B, K, _, D = x.shape
    return mx.zeros((B, K, 0, D), x.dtype)


def _pad(x: mx.array, left: int, right: int) -> mx.array:
    return mx.pad(x, [(0, 0), (0, 0), (left, right), (0, 0)])
