"""What transformers 5 writes into a config.json, in the words that mlx-lm reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlx_simul.errors import ModelLoadError


def overrides_for_mlx_lm(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says in transformers 5's words, where mlx-lm's families look for it.

    They would otherwise run with a default base frequency, without scaling, or windowed in other
    layers, without a word, or not load at all. A nested ``text_config`` is translated as well.
    """
    found = _rope_settings(config) | _layer_kinds(config)
    for ours, theirs in _RENAMED.get(config.get("model_type", ""), {}).items():
        said = {**config, **found}
        if ours not in config and theirs in said:
            found[ours] = said[theirs]
    if isinstance(config.get("text_config"), Mapping):
        found["text_config"] = {
            **config["text_config"],
            **overrides_for_mlx_lm(config["text_config"]),
        }
    return found


def refuse_own_code(config: Mapping[str, Any]) -> None:
    """Pass if mlx-lm builds the model from its own classes. Its release 0.31 runs others unasked.

    Raises:
        ModelLoadError: if the checkpoint names a file of its own code.
    """
    if config.get("model_file") is not None:
        raise ModelLoadError(
            f"config.json names a file of code, model_file={config['model_file']!r}; code that "
            "comes with a checkpoint is not run. If mlx-lm has the family, remove that entry."
        )


_RENAMED = {
    "bailing_moe_v3": {
        "num_experts_per_tok": "num_experts_per_token",
        "n_group": "num_expert_group",
        "max_position_embeddings": "model_max_length",
    },
    "exaone": {"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"},
    "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    "internlm3": {"bias": "mlp_bias", "qkv_bias": "attention_bias"},
    "mellum": {"num_experts": "num_local_experts"},
    "qwen3_moe": {"num_experts": "num_local_experts"},
    "qwen3_vl_moe_text": {"num_experts": "num_local_experts"},
}
"""By model type: mlx-lm's name for an entry, and transformers 5's."""

_FULL, _SLIDING, _LINEAR = "full_attention", "sliding_attention", "linear_attention"


def _rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's settings, which transformers 5 keeps in ``rope_parameters``.

    Of YaRN's settings mlx-lm ignores ``attention_factor``, and guesses the trained length where it
    is not given.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found: dict[str, Any] = {}
    if _FULL in rope or _SLIDING in rope:
        # One for each kind of layer; families that have more than two read them there themselves.
        if "rope_theta" in rope.get(_SLIDING, {}):
            found["rope_local_base_freq"] = rope[_SLIDING]["rope_theta"]
        rope = dict(rope.get(_FULL) or rope[_SLIDING])
    elif "partial_rotary_factor" in rope:
        found["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if "rope_theta" in rope:
        found["rope_theta"] = rope.pop("rope_theta")
    if not rope:
        return found
    # Some look for one of these names, some for the other.
    rope["type"] = rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if rope["type"] == "yarn":
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
        if rope.get("attention_factor") is not None and rope["factor"] > 1:
            # mlx-lm divides the scale of mscale by that of mscale_all_dim, 0.1 * x * ln(factor) + 1
            # each; latent attention sharpens its scores by the latter, so that has to stay.
            log = 0.1 * math.log(rope["factor"])
            divisor = (rope.get("mscale_all_dim") or 0) * log + 1
            rope["mscale"] = (rope["attention_factor"] * divisor - 1) / log
    is_plain = rope == {"type": "default", "rope_type": "default"}
    return {**found, "rope_scaling": None if is_plain else rope}


def _layer_kinds(config: Mapping[str, Any]) -> dict[str, Any]:
    """Kinds of layers, and widths that differ between them, as the families read them."""
    kinds = config.get("layer_types") or []
    match config.get("model_type"):
        case "cohere2" | "gemma3_text" if _FULL in kinds:
            return {"sliding_window_pattern": kinds.index(_FULL) + 1}
        case "exaone4" if kinds:
            letters = "".join("L" if kind == _SLIDING else "G" for kind in kinds)
            return {"sliding_window_pattern": letters if "L" in letters else None}
        case "granitemoehybrid" if kinds:
            names = {_LINEAR: "mamba", _FULL: "attention"}
            return {"layer_types": [names.get(kind, kind) for kind in kinds]}
        case "gemma4_text":
            layers = (config.get("per_layer_config") or {}).items()
            full = next((layer for i, layer in layers if kinds[int(i)] == _FULL), {})
            names = {
                "global_head_dim": "head_dim",
                "num_global_key_value_heads": "num_key_value_heads",
            }
            return {ours: full[theirs] for ours, theirs in names.items() if theirs in full}
        case _:
            return {}
