"""Families that mlx-lm 0.31, the last for Python 3.10, does not have yet.

They have a module of their own, so that the others can be imported with that release as well.
"""

from __future__ import annotations

from typing import Any

import mlx_simul.before_mlx

from mlx_lm.models import muse_glimmer, olmo_hybrid, plamo3
from mlx_lm.models.cache import RotatingKVCache

from mlx_simul.archs.base import ModelClasses
from mlx_simul.archs.rewrites.weights import Weights, with_weights


class MuseGlimmer(muse_glimmer.Model):
    """mlx-lm's text side of Muse Glimmer, from a checkpoint of transformers as well."""

    def sanitize(self, weights: Weights) -> Weights:
        text = {k: v for k, v in weights.items() if not k.startswith("model.vision_")}
        return super().sanitize(text)


def _olmo_hybrid(model: Any, weights: Weights) -> Weights:
    def here(name: str) -> str:
        name = name.replace("attention_layer_norm", "input_layernorm")
        return name.replace("feedforward_layer_norm", "post_attention_layernorm")

    return {here(name): weight for name, weight in weights.items()}


class PLaMo3(plamo3.Model):
    """mlx-lm's PLaMo 3, whose own caches forget a token that its masks still show.

    A window of n is n tokens back and the token itself, in its caches too.
    """

    def make_cache(self) -> list[Any]:
        """mlx-lm's caches, those with a window one token longer."""
        return [
            RotatingKVCache(max_size=cache.max_size + 1)
            if isinstance(cache, RotatingKVCache)
            else cache
            for cache in super().make_cache()
        ]


CLASSES: dict[str, ModelClasses] = {
    "muse_glimmer": (MuseGlimmer, muse_glimmer.ModelArgs),
    "olmo_hybrid": (with_weights(olmo_hybrid, _olmo_hybrid), olmo_hybrid.ModelArgs),
    "plamo3": (PLaMo3, plamo3.ModelArgs),
}
