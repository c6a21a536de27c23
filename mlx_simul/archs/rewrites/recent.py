"""Families that mlx-lm 0.31.3, the lowest release that is allowed, does not have.

They have a module of their own, so that the others can be imported with that release too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_lm.models import plamo3
from mlx_lm.models.cache import RotatingKVCache

from mlx_simul.archs.rewrites.weights import NAMES, Weights, reading
from mlx_simul.archs.surgery import Repair, Surgery


class PLaMo3(plamo3.Model):
    """mlx-lm's PLaMo 3; a window of n is n tokens back and the token itself, in its caches too."""

    def make_cache(self) -> list[Any]:
        """mlx-lm's caches, those with a window one token longer."""
        return [
            RotatingKVCache(max_size=cache.max_size + 1)
            if isinstance(cache, RotatingKVCache)
            else cache
            for cache in super().make_cache()
        ]


def _lengthen(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    surgery.exchange(model, PLaMo3)


def _muse_glimmer(model: Any, weights: Weights) -> Weights:
    return {k: v for k, v in weights.items() if not k.startswith("model.vision_")}


def _olmo_hybrid(model: Any, weights: Weights) -> Weights:
    def here(name: str) -> str:
        name = name.replace("attention_layer_norm", "input_layernorm")
        return name.replace("feedforward_layer_norm", "post_attention_layernorm")

    return {here(name): weight for name, weight in weights.items()}


REPAIRS = {
    "muse_glimmer": Repair(
        "mlx-lm does not leave out the vision tower.", weights=reading(_muse_glimmer)
    ),
    "olmo_hybrid": Repair(NAMES, weights=reading(_olmo_hybrid)),
    "plamo3": Repair(
        "mlx-lm's caches of layers with a window forget a token that its masks show.", _lengthen
    ),
}
