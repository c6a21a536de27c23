"""Families that rotate or normalise the heads of their attention differently from mlx-lm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import gemma2

from mlx_simul.archs.rewrites.weights import Weights, renamed
from mlx_simul.archs.surgery import Repair, Surgery


def _glm(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    rotated = int(model.args.head_dim * config.get("partial_rotary_factor", 0.5))
    for layer in model.layers:
        surgery.put(layer.self_attn.rope, "dims", rotated)


class Gemma2Attention(gemma2.Attention):
    """Takes a mask for each row of a batch, too, where heads share keys."""

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if self.repeats > 1 and isinstance(mask, mx.array) and mask.ndim == 4:
            mask = mask[:, :, None]
        return super().__call__(x, mask, cache)


def put_gemma2_attention(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    """Give a Gemma 2 attention that takes a mask for each row of a batch."""
    for layer in model.layers:
        surgery.exchange(layer.self_attn, Gemma2Attention)


def _llama4_text(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        attention = layer.self_attn
        is_used = attention.use_qk_norm and bool(attention.use_rope)
        surgery.put(attention, "use_qk_norm", is_used)


class Llama4TextWeights:
    """Without tied embeddings transformers names the output layer as everywhere else."""

    def sanitize(self, weights: Weights) -> Weights:
        return renamed(weights, {"lm_head.": "output."})


def _gpt_oss(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    args = model.args
    scaling = args.rope_scaling or {}
    if scaling.get("truncate") is False:
        for layer in model.layers:
            exact = _yarn(args.head_dim, args.rope_theta, scaling)
            surgery.put(layer.self_attn.rope, "_freqs", exact)


class GptOssWeights:
    """Experts in any format."""

    def sanitize(self, weights: Weights) -> Weights:
        """Turn plain experts (E, in, out), gate and up interleaved, into mlx-lm's."""
        plain = {name for name in weights if name.endswith(("gate_up_proj", "down_proj"))}
        plain = {name for name in plain if ".experts." in name}
        stock: Any = super()
        found = stock.sanitize({k: v for k, v in weights.items() if k not in plain})
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


REPAIRS = {
    "glm": Repair(
        "mlx-lm rotates half of each head, whatever partial_rotary_factor says.",
        _glm,
        reads=("partial_rotary_factor",),
    ),
    "gpt_oss": Repair(
        "mlx-lm rounds the range that YaRN corrects, whatever truncate says.",
        _gpt_oss,
        weights=GptOssWeights,
    ),
    "llama4_text": Repair(
        "mlx-lm normalises queries and keys in layers without positions, too.",
        _llama4_text,
        weights=Llama4TextWeights,
    ),
}
