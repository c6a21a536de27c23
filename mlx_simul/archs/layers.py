"""Families whose caches are not one for each layer: some layers share one, loop, or have none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_simul.archs.base import Architecture
from mlx_simul.archs.surgery import Repair, Surgery
from mlx_simul.cache.positions import Rope

nemotron_nas: Any = import_module("mlx_lm.models.nemotron-nas")


def first_layers(model: Any) -> list[Any]:
    """Later layers use the keys and values of earlier ones."""
    return model.layers[: len(make_prompt_cache(model))]


def layers_again(model: Any) -> list[Any]:
    """The layers are run several times, with caches of their own each time."""
    n_loops = len(make_prompt_cache(model)) // len(model.layers)
    return list(model.layers) * n_loops


def layers_with_attention(model: Any) -> list[Any]:
    """Pruned networks: a block may have lost its attention, or have a linear layer for it."""
    return [layer for layer in model.layers if layer.self_attn is not None]


def rope_of_what_is_left(layer: Any) -> Rope | None:
    """A linear layer in the place of attention has no RoPE."""
    return None if isinstance(layer.self_attn, CountingLinear) else layer.self_attn.rope


class CountingLinear(nemotron_nas.LinearSubblockReplacement):
    """Tells its cache how many tokens there were, since all layers may get that one's mask."""

    def __call__(self, x: mx.array, *args: Any, cache: Any = None, **kwargs: Any) -> mx.array:
        if cache is not None:
            nothing = mx.zeros((x.shape[0], 1, x.shape[1], 1), x.dtype)
            cache.update_and_fetch(nothing, nothing)
        return super().__call__(x)


def _count(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        if isinstance(layer.self_attn, nemotron_nas.LinearSubblockReplacement):
            surgery.exchange(layer.self_attn, CountingLinear)


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("gemma3n", cached_layers=first_layers, fuses=True),
        Architecture("gemma4", cached_layers=first_layers, quantizes_kv=False),
        Architecture("gemma4_text", cached_layers=first_layers, quantizes_kv=False),
        Architecture(
            "iquestloopcoder",
            cached_layers=layers_again,
            positions_absolute_because="its second loop is gated by queries turned by RoPE",
            # mlx-lm's quantised attention scales the queries in place, and here they serve twice.
            quantizes_kv=False,
        ),
        Architecture("nanbeige", cached_layers=layers_again, fuses=True),
        Architecture(
            "nemotron-nas",
            repair=Repair("mlx-lm's linear layers do not count tokens in their cache.", _count),
            cached_layers=layers_with_attention,
            rope=rope_of_what_is_left,
            quantizes_kv=False,
            fuses=True,
        ),
    )
}
