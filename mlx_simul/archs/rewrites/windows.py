"""Families whose sliding windows mlx-lm leaves out.

mlx-lm hands every block of these the same mask; a block with a window asks for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from mlx_lm.models.base import create_attention_mask

from mlx_simul.archs.rewrites.heads import put_gemma2_attention
from mlx_simul.archs.rewrites.longrope import take_short_factors
from mlx_simul.archs.surgery import Repair, Surgery

Windows: TypeAlias = list[int | None]
"""Per layer, the tokens a row may look back on, itself included; ``None`` for all."""


class Windowed:
    """Mixed into a block of mlx-lm, lets it ask for a mask of its own."""

    window: int
    needs_array: bool

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        own_mask = create_attention_mask(x, cache, self.window, self.needs_array)
        return super().__call__(x, own_mask, cache)  # pyright: ignore[reportAttributeAccessIssue]


def put_windows(
    windows_of: Callable[[Mapping[str, Any]], Windows], needs_array: bool = False
) -> Callable[[Surgery, Any, Mapping[str, Any]], None]:
    """How blocks of a model get a window.

    Args:
        windows_of: from the config, the window of each layer.
        needs_array: its attention knows no mask by name.
    """

    def operate(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
        for block, window in zip(model.layers, windows_of(config), strict=True):
            if window is not None:
                surgery.exchange(block, Windowed)
                surgery.put(block, "window", window)
                surgery.put(block, "needs_array", needs_array)

    return operate


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


def _gemma2(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    put_gemma2_attention(surgery, model, config)
    put_windows(every_other, needs_array=True)(surgery, model, config)


def _mimo_v2_flash(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    """``sliding_window_size`` counts the tokens before the query; mlx-lm's windows include it."""
    size = model.args.sliding_window_size + 1
    surgery.put(model, "args", replace(model.args, sliding_window_size=size))
    surgery.put(model.model, "sliding_window_size", size)


def _phi(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    take_short_factors(surgery, model, config)
    put_windows(everywhere)(surgery, model, config)


_NO_WINDOW = "mlx-lm has no sliding window in this family"
_SWITCHED = ("use_sliding_window",)
_LONG_FACTORS = f"{_NO_WINDOW}, and rotates all texts by the factors of long ones."
# What mlx-lm knows of windows in Llama's module is another family's.
_LLAMA_S = ("layer_types",)
_PR = "https://github.com/ml-explore/mlx-lm/pull/44"

REPAIRS = {
    "dots1": Repair(
        f"{_NO_WINDOW}.",
        put_windows(from_layer_on),
        reads=("sliding_window",),
        reported=_PR,
    ),
    "gemma2": Repair(
        f"{_NO_WINDOW}, and takes one mask for all rows of a batch where heads share keys.",
        _gemma2,
        reads=("sliding_window",),
    ),
    "mimo_v2_flash": Repair("mlx-lm's window is a token too short.", _mimo_v2_flash),
    "mistral": Repair(f"{_NO_WINDOW}.", put_windows(everywhere), ignores=_LLAMA_S),
    "mixtral": Repair(
        f"{_NO_WINDOW}.", put_windows(everywhere), reads=("sliding_window",), reported=_PR
    ),
    "phi3": Repair(_LONG_FACTORS, _phi, reads=("sliding_window",)),
    "phimoe": Repair(_LONG_FACTORS, _phi, reads=("sliding_window",)),
    "qwen2": Repair(f"{_NO_WINDOW}.", put_windows(by_layer_types), reads=_SWITCHED, reported=_PR),
    "qwen2_moe": Repair(
        f"{_NO_WINDOW}.", put_windows(every_other_below), reads=_SWITCHED, reported=_PR
    ),
    "qwen3": Repair(f"{_NO_WINDOW}.", put_windows(by_layer_types), reads=_SWITCHED, reported=_PR),
    "qwen3_moe": Repair(f"{_NO_WINDOW}.", put_windows(if_used), reads=_SWITCHED, reported=_PR),
}
