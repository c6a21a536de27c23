"""Families that rotate short texts and long ones by different frequencies (LongRoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models.rope_utils import SuScaledRoPE

from mlx_simul.archs.surgery import Surgery


def take_short_factors(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    """Give a model the frequencies of texts of the original length.

    Such a checkpoint was trained with ``short_factor`` up to ``original_max_position_embeddings``
    (4,096 tokens for Phi 3) and with ``long_factor`` beyond; mlx-lm always takes the latter. Cached
    keys cannot change while the text grows, so a stream keeps the short factors, at any length.
    To read longer texts throughout, load the model with ``model_config={"rope_scaling": ...}``,
    with the long factors in place of the short ones.
    """
    scaling = model.args.rope_scaling or {}
    for layer in model.layers:
        rope = layer.self_attn.rope
        if not isinstance(rope, SuScaledRoPE) or "short_factor" not in scaling:
            continue
        wavelengths = model.args.rope_theta ** (
            mx.arange(0, rope.dim, 2, dtype=mx.float32) / rope.dim
        )
        short = mx.array(scaling["short_factor"], dtype=mx.float32)
        surgery.put(rope, "_freqs", short * wavelengths)
        # Where mlx-lm takes the scale of long texts from the config, it takes it as it is there.
        if scaling.get("short_mscale") and rope._scale == scaling.get("long_mscale"):
            surgery.put(rope, "_scale", scaling["short_mscale"])
