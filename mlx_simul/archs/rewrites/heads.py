"""Families that rotate or normalise the heads of their attention otherwise than mlx-lm does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
from mlx_lm.models import gemma2, glm, gpt_oss, llama4_text

from mlx_simul.archs.base import ModelClasses
from mlx_simul.archs.rewrites.weights import Weights, renamed


@dataclass
class GLMArgs(glm.ModelArgs):
    """mlx-lm's arguments and how much of a head is rotated."""

    partial_rotary_factor: float = 0.5


class GLM(glm.Model):
    """mlx-lm's GLM, which rotates a part of each head."""

    def __init__(self, args: GLMArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            layer.self_attn.rope.dims = int(args.head_dim * args.partial_rotary_factor)


class Gemma2Attention(gemma2.Attention):
    """Takes a mask for each row of a batch, too, where heads share keys."""

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if self.repeats > 1 and isinstance(mask, mx.array) and mask.ndim == 4:
            mask = mask[:, :, None]
        return super().__call__(x, mask, cache)


class Gemma2(gemma2.Model):
    """mlx-lm's Gemma 2 with such attention."""

    def __init__(self, args: gemma2.ModelArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            layer.self_attn.__class__ = Gemma2Attention


class Llama4Text(llama4_text.Model):
    """mlx-lm's Llama 4, which normalises queries and keys only where it rotates them."""

    def __init__(self, args: llama4_text.ModelArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            attention = layer.self_attn
            attention.use_qk_norm = attention.use_qk_norm and bool(attention.use_rope)

    def sanitize(self, weights: Weights) -> Weights:
        """Without tied embeddings transformers names the output layer as everywhere else."""
        return renamed(weights, {"lm_head.": "output."})


class GptOss(gpt_oss.Model):
    """YaRN as the config has it, not rounded to whole dimensions; and experts in any format."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        scaling = args.rope_scaling or {}
        if scaling.get("truncate") is False:
            for layer in self.layers:
                layer.self_attn.rope._freqs = _yarn(args.head_dim, args.rope_theta, scaling)

    def sanitize(self, weights: Weights) -> Weights:
        """Turn plain experts (E, in, out), gate and up interleaved, into mlx-lm's."""
        plain = {name for name in weights if name.endswith(("gate_up_proj", "down_proj"))}
        plain = {name for name in plain if ".experts." in name}
        found = super().sanitize({k: v for k, v in weights.items() if k not in plain})
        for name in plain:
            stacked = weights[name].swapaxes(-1, -2)
            if name.endswith("down_proj"):
                found[f"{name}.weight"] = mx.contiguous(stacked)
            else:
                stem = name.removesuffix("gate_up_proj")
                found[f"{stem}gate_proj.weight"] = mx.contiguous(stacked[:, ::2])
                found[f"{stem}up_proj.weight"] = mx.contiguous(stacked[:, 1::2])
        return found


def _yarn(dims: int, base: float, scaling: Mapping[str, Any]) -> mx.array:
    """Wavelengths of YaRN (Peng et al., 2023) by the exact correction range."""
    trained = scaling["original_max_position_embeddings"]

    def dimension(rotations: float) -> float:
        return dims * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(dimension(scaling.get("beta_fast", 32.0)), 0)
    high = max(min(dimension(scaling.get("beta_slow", 1.0)), dims - 1), low + 0.001)
    slowed = mx.clip((mx.arange(dims // 2) - low) / (high - low), 0, 1)
    plain = base ** (mx.arange(0, dims, 2) / dims)
    return plain / (slowed / scaling["factor"] + 1 - slowed)


CLASSES: dict[str, ModelClasses] = {
    "glm": (GLM, GLMArgs),
    "gpt_oss": (GptOss, gpt_oss.ModelArgs),
    "llama4_text": (Llama4Text, llama4_text.ModelArgs),
}
