"""Keys and values of one layer over one batch, for two passes that can be differentiated.

Shape legend: B batch, K kv heads, S source tokens, T target rows, D head dim; padding included.

mlx-lm's attention asks its cache for position, keys and mask, so an unmodified model learns to
stream: the source pass leaves its keys here, and the target pass attends to ``[source | target]``.
Unlike the cache of a session this one writes into no buffer, which gradients could not follow.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import CacheList

from mlx_simul import archs
from mlx_simul.archs.surgery import is_prepared
from mlx_simul.cache import LayerCache
from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.masks import teacher_forced_mask
from mlx_simul.errors import CacheStateError, InvalidOptionError


class TrainingCache:
    """One layer's part of a training step: first the whole source, then the whole target."""

    def __init__(self) -> None:
        self.offset: int | mx.array = 0
        self._source: KeysValues | None = None
        self._target: KeysValues | None = None
        self._visible: mx.array | None = None

    def begin_target(self, start: int | mx.array, visible: mx.array) -> None:
        """Say that the next pass is the target's.

        Args:
            start: φ, or (B,) one for each row.
            visible: (B, T) source tokens that each row sees.
        """
        self.offset = start
        self._visible = visible

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Take a pass's keys and values; give what its tokens attend to, in order of arrival.

        Args:
            keys: (B, K, S or T, D).
            values: (B, K, S or T, Dv).
        """
        if self._visible is None:
            self._source = keys, values
        else:
            self._target = keys, values
        return self.keys_and_values()

    def keys_and_values(self) -> KeysValues:
        """What the tokens of this pass attend to; layers that share a cache ask for it.

        Raises:
            CacheStateError: before the source pass.
        """
        if self._source is None:
            raise CacheStateError("the target before its source: run the source pass first.")
        if self._target is None:
            return self._source
        return (
            mx.concatenate([self._source[0], self._target[0]], axis=2),
            mx.concatenate([self._source[1], self._target[1]], axis=2),
        )

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Who sees whom: the source is causal, the target sees what was read (SPEC section 5).

        Padding lies to the right of a row, so causality hides it from the source.
        """
        if self._visible is None or self._source is None:
            if return_array or window_size is not None:
                return create_causal_mask(n_new, window_size=window_size)
            return "causal"
        n_source = self._source[0].shape[2]
        return teacher_forced_mask(self._visible, n_source, window_size)[:, None]


def make_training_caches(model: Any) -> list[Any]:
    """Fresh caches for one step, one for each that a session over this model would have.

    Raises:
        InvalidOptionError: if the model is not prepared, or its architecture cannot keep two
            groups, or keeps them in a cache of its own that gradients cannot follow.
    """
    if not is_prepared(model):
        raise InvalidOptionError(
            f"this {type(model).__name__} was not built by mlx_simul, and mlx-lm's model may "
            "compute something other than what its checkpoint was trained for. Load it with "
            "`model, tokenizer = mlx_simul.load(...)`, or call mlx_simul.prepare(model) before you "
            "train it."
        )
    return [_training_cache(cache, model) for cache in archs.of(model).make_cache(model)]


def _training_cache(cache: Any, model: Any) -> Any:
    if isinstance(cache, CacheList):
        return CacheList(*(_training_cache(part, model) for part in cache.caches))
    if type(cache) is not LayerCache:
        raise InvalidOptionError(
            f"model_type {model.model_type!r} streams with a {type(cache).__name__}, which has no "
            "counterpart in training; fine-tune it with mlx-lm as an ordinary language model."
        )
    return TrainingCache()
