"""Families whose sliding windows mlx-lm leaves out.

mlx-lm hands every block of these the same mask; a block with a window asks for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import mlx_simul.before_mlx

from mlx_lm.models import (
    dots1,
    gemma2,
    llama,
    mimo_v2_flash,
    mixtral,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
)
from mlx_lm.models.base import create_attention_mask

from mlx_simul.archs.base import ModelClasses
from mlx_simul.archs.rewrites.heads import Gemma2
from mlx_simul.archs.rewrites.longrope import with_short_factors

Windows: TypeAlias = list[int | None]
"""Per layer, the tokens a row may look back on, itself included; ``None`` for all."""


class Windowed:
    """Mixed into a block of mlx-lm, lets it ask for a mask of its own."""

    window: int
    needs_array: bool

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        own_mask = create_attention_mask(x, cache, self.window, self.needs_array)
        return super().__call__(x, own_mask, cache)  # pyright: ignore[reportAttributeAccessIssue]


def with_windows(
    module: Any,
    windows_of: Callable[[Mapping[str, Any]], Windows],
    needs_array: bool = False,
) -> ModelClasses:
    """The classes of one of mlx-lm's modules, with a window on some blocks.

    Args:
        module: with ``Model`` and ``ModelArgs``.
        windows_of: from the config, the window of each layer.
        needs_array: its attention knows no mask by name.
    """

    class ModelArgs(module.ModelArgs):
        layer_windows: Windows

        @classmethod
        def from_dict(cls, params: Mapping[str, Any]) -> Any:
            # What mlx-lm knows of windows in such a module is another family's.
            args = super().from_dict({k: v for k, v in params.items() if k != "layer_types"})
            args.layer_windows = windows_of(params)
            return args

    class Model(module.Model):
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            for block, window in zip(self.layers, args.layer_windows, strict=True):
                if window is not None:
                    block.__class__ = _windowed(type(block))
                    block.window = window
                    block.needs_array = needs_array

    return Model, ModelArgs


@cache
def _windowed(block_class: type) -> type:
    return type(f"Windowed{block_class.__name__}", (Windowed, block_class), {})


def everywhere(config: Mapping[str, Any]) -> Windows:
    """One window on all layers, if there is any."""
    return [config.get("sliding_window")] * config["num_hidden_layers"]


def by_layer_types(config: Mapping[str, Any]) -> Windows:
    """Qwen's rule: ``layer_types``, or all layers from ``max_window_layers`` on."""
    n_layers = config["num_hidden_layers"]
    if not config.get("use_sliding_window", False):
        return [None] * n_layers
    first = config.get("max_window_layers", 28)
    types = config.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(n_layers)
    ]
    window = config.get("sliding_window", 4096)
    return [window if kind == "sliding_attention" else None for kind in types]


def every_other(config: Mapping[str, Any]) -> Windows:
    """Gemma 2: the first layer, the third, and so on."""
    window = config.get("sliding_window", 4096)
    return [None if i % 2 else window for i in range(config["num_hidden_layers"])]


def from_layer_on(config: Mapping[str, Any]) -> Windows:
    """dots.llm1: Qwen's rule, with nothing but the window to say whether there is one."""
    is_used = config.get("sliding_window") is not None
    return by_layer_types({**config, "use_sliding_window": is_used})


def if_used(config: Mapping[str, Any]) -> Windows:
    """Qwen 3's experts: on all layers, or on none."""
    windows = everywhere(config)
    return windows if config.get("use_sliding_window") else [None] * len(windows)


def every_other_below(config: Mapping[str, Any]) -> Windows:
    """Qwen 2's experts: ``layer_types``, or every other layer below ``max_window_layers``."""
    n_layers, below = config["num_hidden_layers"], config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if i % 2 == 0 and i < below else "full_attention"
        for i in range(n_layers)
    ]
    return by_layer_types({**config, "layer_types": kinds})


@dataclass
class MimoArgs(mimo_v2_flash.ModelArgs):
    """``sliding_window_size`` counts the tokens before the query; mlx-lm's windows include it."""

    def __post_init__(self) -> None:
        self.sliding_window_size += 1


CLASSES: dict[str, ModelClasses] = {
    "dots1": with_windows(dots1, from_layer_on),
    "gemma2": with_windows(
        SimpleNamespace(Model=Gemma2, ModelArgs=gemma2.ModelArgs), every_other, needs_array=True
    ),
    "mimo_v2_flash": (mimo_v2_flash.Model, MimoArgs),
    "mistral": with_windows(llama, everywhere),
    "mixtral": with_windows(mixtral, everywhere),
    "phi3": with_windows(with_short_factors(phi3), everywhere),
    "phimoe": with_windows(with_short_factors(phimoe), everywhere),
    "qwen2": with_windows(qwen2, by_layer_types),
    "qwen2_moe": with_windows(qwen2_moe, every_other_below),
    "qwen3": with_windows(qwen3, by_layer_types),
    "qwen3_moe": with_windows(qwen3_moe, if_used),
    "smollm3": with_windows(smollm3, by_layer_types),
}
