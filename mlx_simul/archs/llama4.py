"""Llama 4: most layers attend within chunks of the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import llama4
from mlx_lm.models.cache import ChunkedKVCache

from mlx_simul.archs.base import TEMPERATURE, Architecture, KVBits
from mlx_simul.archs.stock import rope_if_used
from mlx_simul.archs.surgery import Repair, Surgery
from mlx_simul.cache import LayerCache


class ChunkedStreamingCache(LayerCache):
    """A cache for layers with chunks; what is out of reach is masked, not dropped."""

    start_position = 0

    def maybe_trim_front(self) -> None:
        """Keep all: a chunk of ``[source | target]`` moves on with every read."""


class Block(llama4.TransformerBlock):
    """Asks such a cache for its mask; mlx-lm's model makes one for its own caches by hand."""

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if isinstance(cache, ChunkedStreamingCache):
            mask = cache.make_mask(x.shape[1])
        return super().__call__(x, mask, cache)


def _ask_for_masks(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        surgery.exchange(layer, Block)


class Llama4(Architecture):
    """Its chunked layers get a chunked cache."""

    def streaming_cache(self, stock: Any, kv: KVBits | None) -> Any:
        """What stands for one of mlx-lm's caches."""
        if isinstance(stock, ChunkedKVCache):
            return ChunkedStreamingCache(chunk_size=stock.chunk_size)
        return super().streaming_cache(stock, kv)


ARCHITECTURES = {
    "llama4": Llama4(
        "llama4",
        repair=Repair(
            "mlx-lm makes the masks of chunks by hand, for its own caches.", _ask_for_masks
        ),
        rope=rope_if_used,
        positions_absolute_because=TEMPERATURE,
        quantizes_kv=False,
    )
}
