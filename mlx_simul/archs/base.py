"""What one model family declares so that it streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlx_simul.before_mlx

import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask

from mlx_simul.cache import DualStreamingCache, SourceTargetCache
from mlx_simul.positions import Rope

ModelClasses: TypeAlias = tuple[type[nn.Module], type]


def rope_of_self_attention(layer: Any) -> Rope | None:
    """Where most of mlx-lm's families keep a layer's RoPE module."""
    return layer.self_attn.rope


@dataclass(frozen=True)
class Architecture:
    """How one ``model_type`` streams.

    mlx-lm's attention asks its cache for the position, the keys and the mask, so a family needs no
    code of its own unless mlx-lm's model leaves something out.

    Attributes:
        model_type: the config's ``model_type``.
        classes: mlx-lm's ``(Model, ModelArgs)``, or ours over them.
        verified_against: what its logits were compared with, for ``mlx-simul models``.
        rope: the RoPE module of a layer; ``None`` for a layer without positions.
    """

    model_type: str
    classes: ModelClasses
    verified_against: str
    rope: Callable[[Any], Rope | None] = rope_of_self_attention

    def make_cache(self, model: Any) -> list[SourceTargetCache]:
        """One empty cache per layer of ``model``."""
        return [DualStreamingCache() for _ in model.layers]

    def ropes(self, model: Any) -> list[Rope | None]:
        """The RoPE module of each layer of ``model``."""
        return [self.rope(layer) for layer in model.layers]


class Windowed:
    """Mixed into a block of mlx-lm, gives it a sliding window that mlx-lm's model does not know.

    mlx-lm hands every block one mask; such a block asks for its own.
    """

    window: int

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        own_mask = create_attention_mask(x, cache, window_size=self.window)
        return super().__call__(x, own_mask, cache)  # pyright: ignore[reportAttributeAccessIssue]
