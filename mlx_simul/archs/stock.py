"""Families that stream as mlx-lm has them; what differs is where a layer keeps its RoPE."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from mlx_simul.archs import BUILT_IN
from mlx_simul.archs.base import TEMPERATURE, Architecture
from mlx_simul.cache.positions import Rope


def rope_if_used(layer: Any) -> Rope | None:
    """The RoPE of layers of which some have no positions, and no RoPE module either."""
    return layer.self_attn.rope if layer.self_attn.use_rope else None


def rope_if_sliding(layer: Any) -> Rope | None:
    """Cohere 2 has a RoPE module in every layer and uses it in those with a window."""
    return layer.self_attn.rope if layer.self_attn.use_sliding_window else None


_ROPES: dict[str, Callable[[Any], Rope | None]] = {
    "bailing_moe": attrgetter("attention.rope"),
    "cohere2": rope_if_sliding,
    "dbrx": attrgetter("norm_attn_norm.attn.rope"),
    "exaone": attrgetter("attn.attention.rope"),
    "exaone4": rope_if_used,
    "exaone_moe": rope_if_used,
    "gpt_neox": attrgetter("attention.rope"),
    "gptj": attrgetter("attn.rope"),
    "internlm2": attrgetter("attention.rope"),
    "lille-130m": attrgetter("attention.rope"),
    "llama4_text": rope_if_used,
    "muse_glimmer": rope_if_used,
    "muse_spark": rope_if_used,
    "openelm": attrgetter("attn.rope"),
    "phixtral": attrgetter("mixer.rope"),
    "plamo": attrgetter("self_attn.rotary_emb"),
    "plamo3": attrgetter("mixer.rope"),
    "qwen": attrgetter("attn.rotary_emb"),
}
# Their attention handles the arrays itself, or has sinks.
_UNQUANTIZED = {"gemma2", "gpt_oss", "mimo_v2_flash", "phi", "phixtral", "plamo", "stablelm"}
_SHARPENED = {"ministral3"}
# Their RoPE computes with the offset, or something else asks for it.
_UNFUSED = {"internlm2", "internlm3", "ministral3", "muse_spark"}

ARCHITECTURES = {
    model_type: Architecture(
        model_type,
        rope=_ROPES.get(model_type, attrgetter("self_attn.rope")),
        quantizes_kv=model_type not in _UNQUANTIZED,
        positions_absolute_because=TEMPERATURE if model_type in _SHARPENED else None,
        fuses=model_type not in _UNFUSED,
    )
    for model_type in BUILT_IN["stock"]
}
