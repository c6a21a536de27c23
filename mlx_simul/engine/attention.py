"""Where a model looks: the attention of chosen heads, which fused kernels never show.

mlx-lm's attention layers call ``scaled_dot_product_attention`` by that name. A stream that watches
some of them runs a copy of the model, over the same arrays. There the class of a watched layer is
one whose ``__call__`` finds a function of that name that does the same, and, while somebody is
:func:`recording`, computes the weights once more and keeps them.

Shape legend: B batch, H heads, K kv heads, L new tokens, N tokens attended to, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import FunctionType
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn

from mlx_simul import archs
from mlx_simul.archs.surgery import Surgery, copy_of
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Head

_NAME = "scaled_dot_product_attention"


class Recording:
    """The attention of some heads in one pass, or in the last of several.

    Attributes:
        n_heads: how many heads each layer has in which some were recorded.

    Args:
        heads: (layer, head) pairs.
        n_rows: newest rows of the pass that matter.
    """

    def __init__(self, heads: Iterable[Head], n_rows: int) -> None:
        self.heads = tuple(heads)
        self.n_heads: dict[int, int] = {}
        self._n_rows = n_rows
        self._weights: dict[Head, mx.array] = {}

    @property
    def weights(self) -> mx.array:
        """(number of heads, rows, N), in the order of the heads; each row sums to 1.

        Raises:
            InvalidOptionError: if a head was not watched.
        """
        missing = [head for head in self.heads if head not in self._weights]
        if missing:
            raise InvalidOptionError(
                f"no attention was recorded for {missing}: their layers are not watched."
            )
        return mx.stack([self._weights[head] for head in self.heads])

    def note(
        self, layer: int, queries: Any, keys: Any, cache: Any, scale: Any, mask: Any, sinks: Any
    ) -> None:
        """Keep the weights of the heads of one layer."""
        chosen = [head for of_layer, head in self.heads if of_layer == layer]
        if not chosen:
            return
        self.n_heads[layer] = n_heads = queries.shape[1]
        if not all(0 <= head < n_heads for head in chosen):
            raise InvalidOptionError(
                f"there is no attention head {max(chosen)} in layer {layer}; it has {n_heads}, "
                "from 0 on."
            )
        # A quantised cache gives words, scales and biases.
        if not isinstance(keys, mx.array):
            keys = mx.dequantize(*keys, group_size=cache.group_size, bits=cache.bits)
        per_kv_head = n_heads // keys.shape[1]
        for head in chosen:
            query = queries[0, head, -self._n_rows :].astype(mx.float32)
            key = keys[0, head // per_kv_head].astype(mx.float32)
            scores = _masked(scale * query @ key.T, mask, head)
            if sinks is not None:
                sink = mx.broadcast_to(sinks[head].astype(mx.float32), (scores.shape[0], 1))
                scores = mx.concatenate([scores, sink], axis=-1)
            weights = mx.softmax(scores, axis=-1, precise=True)
            self._weights[layer, head] = weights[:, : key.shape[0]]


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recording(heads: Iterable[Head], n_rows: int) -> Iterator[Recording]:
    """Record the attention of some heads in the passes run meanwhile; the last one stands.

    Args:
        heads: (layer, head) pairs; without any, nothing is computed.
        n_rows: newest rows of a pass that matter.
    """
    recorder = Recording(heads, n_rows)
    token = _current.set(recorder if recorder.heads else None)
    try:
        yield recorder
    finally:
        _current.reset(token)


def watched(model: Any, heads: Iterable[Head]) -> Any:
    """A copy of a model, over the same arrays, that lets the attention of some heads be recorded.

    Args:
        model: prepared; is not changed.
        heads: (layer, head) pairs.

    Raises:
        InvalidOptionError: if there are no such heads, or the family's attention does not show how
            it falls.
    """
    model = copy_of(model)
    surgery = Surgery(model)
    layers = [_attentions(layer) for layer in archs.of(model).cached_layers(model)]
    for layer in sorted({layer for layer, _ in heads}):
        if not 0 <= layer < len(layers):
            raise InvalidOptionError(
                f"there is no attention layer {layer}; this model has {len(layers)}, from 0 on."
            )
        if len(layers[layer]) != 1:
            raise InvalidOptionError(
                f"the attention of layer {layer} of a {model.model_type!r} model cannot be seen: "
                f"it does not call mlx-lm's {_NAME} itself. Take a policy that needs no "
                "attention, such as local-agreement, or heads of other layers."
            )
        (attention,) = layers[layer]
        if not isinstance(attention, Watched):
            surgery.exchange(attention, _watched(type(attention), layer))
    return model


def watchable_layers(model: Any) -> list[int]:
    """The layers whose attention :func:`watched` can show."""
    layers = archs.of(model).cached_layers(model)
    return [i for i, layer in enumerate(layers) if len(_attentions(layer)) == 1]


class Watched:
    """Marks an attention layer that can be recorded."""


def _attentions(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if _NAME in _names_in_call(type(module))]


def _names_in_call(kind: type[nn.Module]) -> tuple[str, ...]:
    call = kind.__call__
    return call.__code__.co_names if isinstance(call, FunctionType) else ()


@cache
def _watched(kind: type[nn.Module], layer: int) -> type:
    call = kind.__call__
    if not isinstance(call, FunctionType):
        raise InvalidOptionError(f"{kind.__name__} is not called by a Python function.")
    plain = call.__globals__[_NAME]

    def seen(
        queries: Any, keys: Any, values: Any, cache: Any, scale: Any, mask: Any, sinks: Any = None
    ) -> mx.array:
        recorder = _current.get()
        if recorder is not None:
            recorder.note(layer, queries, keys, cache, scale, mask, sinks)
        return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    twin = FunctionType(
        call.__code__,
        {**call.__globals__, _NAME: seen},
        call.__name__,
        call.__defaults__,
        call.__closure__,
    )
    twin.__kwdefaults__ = call.__kwdefaults__
    return type("Watched", (Watched,), {"__call__": twin})


def _masked(scores: mx.array, mask: Any, head: int) -> mx.array:
    """Scores (rows, N) of the newest rows of a pass, what they do not see at -inf."""
    if mask is None:
        return scores
    n_rows, n_seen = scores.shape
    if isinstance(mask, str):  # "causal"
        mask = mx.arange(n_seen) <= mx.arange(n_seen - n_rows, n_seen)[:, None]
    else:
        while mask.ndim < 4:
            mask = mask[None]
        mask = mask[0, head if mask.shape[1] > 1 else 0, -n_rows:]
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, -mx.inf)
    return scores + mask.astype(mx.float32)
