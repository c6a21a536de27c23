"""Families whose sliding windows mlx-lm leaves out: its classes, with the config's windows.

mlx-lm hands every block of these the same mask; a block with a window asks for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import mlx_simul.before_mlx

from mlx_lm.models import llama, qwen2
from mlx_lm.models.base import create_attention_mask

from mlx_simul.archs.base import Architecture, ModelClasses

Windows: TypeAlias = list[int | None]
"""Per layer, the tokens a row may look back on, itself included; ``None`` for all."""


class Windowed:
    """Mixed into a block of mlx-lm, lets it ask for a mask of its own."""

    window: int

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        own_mask = create_attention_mask(x, cache, window_size=self.window)
        return super().__call__(x, own_mask, cache)  # pyright: ignore[reportAttributeAccessIssue]


def with_windows(
    module: ModuleType, windows_of: Callable[[Mapping[str, Any]], Windows]
) -> ModelClasses:
    """The classes of one of mlx-lm's modules, with a window on some blocks.

    Args:
        module: with ``Model`` and ``ModelArgs``.
        windows_of: from the config, the window of each layer.
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


ARCHITECTURES = {
    "qwen2": Architecture("qwen2", with_windows(qwen2, by_layer_types), "GPE, transformers"),
    "mistral": Architecture("mistral", with_windows(llama, everywhere), "transformers"),
}
