"""One layer and one stream by hand: the cache that the founding documents describe (SPEC 6).

Sessions do without it; what it does, it does through the :class:`LayerCache` that they run on.

Shape legend: B batch, K kv heads, L new tokens, S source tokens, T target tokens, D head dim.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.layer import LayerCache
from mlx_simul.cache.layout import layout_of
from mlx_simul.cache.plan import Lane, PassPlan
from mlx_simul.cache.positions import Rope
from mlx_simul.cache.storage import ALL_ROWS, Planes
from mlx_simul.errors import CacheStateError, InvalidOptionError


class DualStreamingCache:
    """Source and target of one layer, which grow, merge and separate without a copy.

    Attributes:
        is_reading: the group that the next pass feeds: source if True, target if False.
        target_start: φ, the position of the first target token.
        source_tokens: S, source tokens cached.
        target_tokens: T, target tokens cached.

    Args:
        layer: how keys and values are stored; in full precision by default.
    """

    def __init__(self, layer: LayerCache | None = None) -> None:
        self._layer = layer or LayerCache()
        self.is_reading = True
        self.target_start = 0
        self.source_tokens = 0
        self.target_tokens = 0
        self._merged = False
        self._lost: Planes = ()

    def __getattr__(self, name: str) -> Any:
        # By these names mlx-lm's attention knows that a cache is quantised, and how.
        if name in ("bits", "group_size"):
            return getattr(self._layer, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return self._layer.storage.nbytes

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
        self._append(keys, values, is_reading=True)
        planes = self._layer.storage.between(ALL_ROWS, -self.source_tokens, 0)
        return self._layer.present(tuple(plane[..., ::-1, :] for plane in planes))

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
        self._append(keys, values, is_reading=False)
        return self._layer.present(self._layer.storage.between(ALL_ROWS, 0, self.target_tokens))

    def merge_source_target(self) -> None:
        """Present both groups as one; idempotent, and free of cost."""
        self._merged = True

    def get_merged(self) -> KeysValues:
        """Both groups as one, ``[source | target]``, the source newest token first.

        Returns:
            (B, K, S + T, D) and (B, K, S + T, Dv), slices of the storage.

        Raises:
            CacheStateError: before a merge, or when nothing is cached.
        """
        if not self._merged:
            raise CacheStateError("get_merged before a merge: call merge_source_target first.")
        storage = self._layer.storage
        return self._layer.present(
            storage.between(ALL_ROWS, -self.source_tokens, self.target_tokens)
        )

    def separate_source_target(self) -> None:
        """End the merged view, so that the groups may grow again; idempotent."""
        self._merged = False

    def trim_target(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been written.

        Raises:
            CacheStateError: while merged.
            InvalidOptionError: if there are fewer.
        """
        self._refuse_if_merged("trim_target")
        if not 0 <= n_tokens <= self.target_tokens:
            raise InvalidOptionError(
                f"cannot roll back {n_tokens} target tokens: {self.target_tokens} are cached."
            )
        self.target_tokens -= n_tokens
        self._lost = tuple(plane[..., : self.target_tokens, :] for plane in self._lost)

    def rotate_target(self, rope: Rope, delta: int) -> None:
        """Move φ, and with it every cached target key, on by ``delta`` positions.

        Args:
            rope: this layer's RoPE module.
            delta: Δ, in positions.

        Raises:
            CacheStateError: while merged.
        """
        self._refuse_if_merged("rotate_target")
        self.target_start += delta
        if self.target_tokens:
            self._lost = self._layer.move_target(rope, delta, None, self.target_tokens, self._lost)

    def reset_target(self) -> None:
        """Forget the target, keep the source."""
        self.target_tokens, self._lost, self._merged = 0, (), False

    def reset(self) -> None:
        """Forget both groups and free their memory."""
        self.reset_target()
        self.source_tokens = 0
        self._layer.storage.clear(None)

    @property
    def state(self) -> tuple[Any, Any, int, int, int]:
        """Keys, values, S, T and φ; assigning it restores it.

        What rounding took in half precision is not saved: a restored target starts from its keys as
        they are.
        """
        counts = self.source_tokens, self.target_tokens
        return *self._layer.saved(None, *counts), *counts, self.target_start

    @state.setter
    def state(self, value: tuple[Any, Any, int, int, int]) -> None:
        keys, values, n_source, n_target, target_start = value
        self._layer.restore(None, (keys, values), n_source, n_target)
        self.source_tokens, self.target_tokens = n_source, n_target
        self.target_start, self._lost, self._merged = target_start, (), False

    # What mlx-lm's attention asks

    @property
    def offset(self) -> int:
        """Position of the next token: S while reading, φ + T while writing."""
        return self.source_tokens if self.is_reading else self.target_start + self.target_tokens

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append to the group being fed; return what its tokens attend to (SPEC section 1).

        Source tokens get the source alone, target tokens both groups, in the order they lie in.

        Args:
            keys: (B, K, L, D), rotated from ``offset`` on.
            values: (B, K, L, Dv).
        """
        return self._append(keys, values, self.is_reading)

    def keys_and_values(self) -> KeysValues:
        """What :meth:`update_and_fetch` returned last, for layers that share this cache."""
        return self._layer.keys_and_values()

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Mask for the next ``n_new`` tokens of the group being fed.

        Args:
            n_new: L.
            return_array: never answer with a name (mlx-lm's convention).
            window_size: tokens a row may look back on, itself included; ``None`` for all.
        """
        self._begin(n_new, self.is_reading)
        return self._layer.make_mask(n_new, return_array, window_size)

    def _append(self, keys: mx.array, values: mx.array, is_reading: bool) -> KeysValues:
        self._refuse_if_merged("an update")
        lane = self._begin(keys.shape[-2], is_reading)
        found = self._layer.update_and_fetch(keys, values)
        self.source_tokens, self.target_tokens = lane.n_source_after, lane.n_target_after
        return found

    def _begin(self, n_new: int, is_reading: bool) -> Lane:
        lane = Lane(
            self.source_tokens,
            self.target_tokens,
            n_new if is_reading else 0,
            0 if is_reading else n_new,
            target_start=self.target_start,
        )
        self._layer.begin(layout_of(PassPlan((lane,), n_new)))
        return lane

    def _refuse_if_merged(self, what: str) -> None:
        if self._merged:
            raise CacheStateError(
                f"{what} while source and target are merged: call separate_source_target first."
            )
