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
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_simul import archs
from mlx_simul.archs.surgery import Surgery, copy_of
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Head

_NAME = "scaled_dot_product_attention"


@dataclass(frozen=True)
class View:
    """Whose attention is recorded in a pass.

    Attributes:
        heads: (layer, head) pairs, from 0.
        rows: the tokens of the pass that look, as a slice of its L.
        stream: the row of the batch that they are in.
    """

    heads: tuple[Head, ...]
    rows: slice
    stream: int = 0

    @classmethod
    def of_newest(cls, heads: Iterable[Head], n_rows: int) -> View:
        """The newest tokens of a pass of one stream."""
        return cls(tuple(heads), slice(-n_rows, None))


class Recording:
    """The attention of some heads in one pass, or in the last of several.

    Attributes:
        n_heads: how many heads each layer has in which some were recorded.

    Args:
        views: which heads are recorded, and for which tokens of which stream.
        rank: of this process, where the heads of a layer are spread over several.
        n_ranks: how many there are, each with as many heads, in order.
    """

    def __init__(self, views: Iterable[View], rank: int = 0, n_ranks: int = 1) -> None:
        self.views = tuple(views)
        self._rank, self._n_ranks = rank, n_ranks
        self.n_heads: dict[int, int] = {}
        self._weights: dict[tuple[int, Head], mx.array] = {}

    def weights(self, i: int = 0) -> mx.array:
        """The attention of view i.

        Returns:
            (number of heads, rows, N), in the order of the heads; each row sums to 1.

        Raises:
            InvalidOptionError: if there is no such head, or its layer is not watched.
        """
        heads = self.views[i].heads
        for layer, head in heads:
            if (i, (layer, head)) in self._weights:
                continue
            if layer in self.n_heads:
                raise InvalidOptionError(
                    f"layer {layer} has {self.n_heads[layer]} attention heads, numbered from 0; "
                    f"head {head} is not one of them."
                )
            raise InvalidOptionError(f"the attention of layer {layer} was not recorded: watch it.")
        return mx.stack([self._weights[i, head] for head in heads])

    def note(
        self, layer: int, queries: Any, keys: Any, cache: Any, scale: Any, mask: Any, sinks: Any
    ) -> None:
        """Keep the weights of the heads of one layer."""
        chosen = [
            (i, head)
            for i, view in enumerate(self.views)
            for head in view.heads
            if head[0] == layer
        ]
        if not chosen:
            return
        n_here = queries.shape[1]
        self.n_heads[layer] = n_heads = n_here * self._n_ranks
        # A quantised cache gives words, scales and biases.
        if not isinstance(keys, mx.array):
            keys = mx.dequantize(*keys, group_size=cache.group_size, bits=cache.bits)
        per_kv_head = n_here // keys.shape[1]
        for i, (_, head) in chosen:
            if not 0 <= head < n_heads:
                # Raised by `weights`, so that only the stream that named this head fails.
                continue
            view, (rank, here) = self.views[i], divmod(head, n_here)
            if rank != self._rank:
                # The rank that has this head adds what it sees.
                n_rows = len(range(*view.rows.indices(queries.shape[2])))
                self._weights[i, (layer, head)] = mx.zeros((n_rows, keys.shape[2]))
                continue
            query = queries[view.stream, here, view.rows].astype(mx.float32)
            key = keys[view.stream, here // per_kv_head].astype(mx.float32)
            seen = _seen(mask, queries.shape[2], key.shape[0], view, here)
            scores = _masked(scale * query @ key.T, seen)
            if sinks is not None:
                sink = mx.broadcast_to(sinks[here].astype(mx.float32), (scores.shape[0], 1))
                scores = mx.concatenate([scores, sink], axis=-1)
            weights = mx.softmax(scores, axis=-1, precise=True)
            self._weights[i, (layer, head)] = weights[:, : key.shape[0]]

    @property
    def arrays(self) -> list[mx.array]:
        """All that was recorded."""
        return list(self._weights.values())

    def gather(self, group: mx.distributed.Group, logits: mx.array) -> None:
        """Have what the other ranks recorded, too; all of them call it after the same pass.

        Args:
            group: of the ranks.
            logits: of the pass. The sums that make them come first, on every rank.
        """
        if not self._weights:
            return
        own = mx.concatenate([weights.flatten() for weights in self._weights.values()])
        whole = mx.distributed.all_sum(mx.depends([own], [logits])[0], group=group)
        for key, weights in self._weights.items():
            part, whole = whole[: weights.size], whole[weights.size :]
            self._weights[key] = part.reshape(weights.shape)


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recording(views: Iterable[View], rank: int = 0, n_ranks: int = 1) -> Iterator[Recording]:
    """Record attention in the passes that run meanwhile; the last one stands.

    Args:
        views: which heads to record. Without any, nothing is recorded here, and whoever records
            around this goes on.
        rank: as for :class:`Recording`.
        n_ranks: likewise.
    """
    recorder = Recording(views, rank, n_ranks)
    token = _current.set(recorder if recorder.views else _current.get())
    try:
        yield recorder
    finally:
        _current.reset(token)


def watched(model: Any, heads: Iterable[Head]) -> Any:
    """A copy of a model, over the same arrays, that lets the attention of some heads be recorded.

    Args:
        model: prepared; is not changed.
        heads: (layer, head) pairs.

    Returns:
        The copy, or the model itself if it does so already.

    Raises:
        InvalidOptionError: if there are no such heads, or the family's attention does not show how
            it falls.
    """
    wanted = sorted({layer for layer, _ in heads})
    layers = [_attentions(layer) for layer in archs.of(model).cached_layers(model)]
    for layer in wanted:
        if not 0 <= layer < len(layers):
            raise InvalidOptionError(
                f"this model has {len(layers)} attention layers, numbered from 0; layer {layer} is "
                "not one of them."
            )
        if len(layers[layer]) != 1:
            raise InvalidOptionError(
                f"the attention of layer {layer} of a {model.model_type!r} model cannot be seen: "
                f"it does not call mlx-lm's {_NAME} itself. Take a policy that needs no "
                "attention, such as local-agreement, or heads of other layers."
            )
    if all(isinstance(layers[layer][0], Watched) for layer in wanted):
        return model
    copy = copy_of(model)
    surgery = Surgery(copy)
    layers = [_attentions(layer) for layer in archs.of(copy).cached_layers(copy)]
    for (attention,), layer in ((layers[layer], layer) for layer in wanted):
        if not isinstance(attention, Watched):
            surgery.exchange(attention, _watched(type(attention), layer))
    return copy


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


def _seen(mask: Any, n_new: int, n_keys: int, view: View, head: int) -> mx.array | None:
    """The rows of a pass's mask that belong to a view, (rows, N); None if they see all."""
    if mask is None:
        return None
    if isinstance(mask, str):  # "causal"
        rows = mx.arange(n_keys - n_new, n_keys)[view.rows]
        return mx.arange(n_keys) <= rows[:, None]
    while mask.ndim < 4:
        mask = mask[None]
    of_stream = view.stream if mask.shape[0] > 1 else 0
    return mask[of_stream, head if mask.shape[1] > 1 else 0, view.rows]


def _masked(scores: mx.array, seen: mx.array | None) -> mx.array:
    """Scores (rows, N), what the rows do not see at -inf."""
    if seen is None:
        return scores
    if seen.dtype == mx.bool_:
        return mx.where(seen, scores, -mx.inf)
    return scores + seen.astype(mx.float32)
