"""Families whose RoPE is not a module for the whole key.

Latent attention (MLA) in mlx-lm either caches whole keys with the turned part last, or the latents
as keys and the turned part as values.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_simul.archs.base import TEMPERATURE, Architecture
from mlx_simul.cache.positions import Rope


def rope_of_tail(layer: Any) -> Rope:
    """RoPE of the last dimensions of a key."""
    attention = layer.self_attn
    n_rotated = attention.qk_rope_head_dim

    def rotate(keys: mx.array, offset: Any) -> mx.array:
        tail = attention.rope(keys[..., -n_rotated:], offset)
        return mx.concatenate([keys[..., :-n_rotated], tail], axis=-1)

    return rotate


def rope_before_norm(layer: Any) -> Rope:
    """RoPE of keys that are normalised after it: their weight is taken off and put on again."""
    attention = layer.self_attn
    if not attention.use_qk_norm:
        return attention.rope
    weight = attention.key_layernorm.weight

    def rotate(keys: mx.array, offset: Any) -> mx.array:
        return weight * attention.rope(keys / weight, offset=offset)

    return rotate


def rope_of_nanochat(layer: Any) -> Rope:
    """RoPE by frequencies that the attention keeps."""

    def rotate(keys: mx.array, offset: Any) -> mx.array:
        freqs = layer.attn._rope_freqs
        return mx.fast.rope(
            keys, keys.shape[3], traditional=False, base=None, scale=1.0, offset=offset, freqs=freqs
        )

    return rotate


def rope_of_talkie(layer: Any) -> Rope:
    """RoPE as a method of the attention."""
    return lambda keys, offset: layer.attn._rope(keys, offset)


def _latent(model_type: str, **more: Any) -> Architecture:
    return Architecture(model_type, rotates="values", quantizes_kv=False, **more)


def _two_attentions_a_layer(model: Any) -> list[Any]:
    return [attention for layer in model.layers for attention in layer.self_attn]


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("deepseek_v2", rope=rope_of_tail),
        Architecture("minicpm3", rope=rope_of_tail),
        Architecture("youtu_llm", rope=rope_of_tail),
        *(
            Architecture(
                name,
                rope=rope_before_norm,
                positions_absolute_because="queries and keys are weighted after RoPE",
            )
            for name in ("hunyuan", "hunyuan_v1_dense")
        ),
        *map(_latent, ("deepseek_v3", "glm4_moe_lite", "kimi_k25", "kimi_vl")),
        _latent("mistral4", positions_absolute_because=TEMPERATURE),
        _latent(
            "longcat_flash",
            rope=lambda attention: attention.rope,
            cached_layers=_two_attentions_a_layer,
        ),
        Architecture("nanochat", rope=rope_of_nanochat),
        Architecture("talkie", rope=rope_of_talkie),
    )
}
