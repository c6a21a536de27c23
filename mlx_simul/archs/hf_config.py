"""What a config.json means to transformers 5, in the words that mlx-lm reads."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from mlx_simul.errors import ModelLoadError

_logger = logging.getLogger(__name__)

_SAYS_NOTHING_OF_THE_WEIGHTS = {
    *(field.name for field in dataclasses.fields(PretrainedConfig)),
    *("model_type", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    *("use_cache", "initializer_range", "pretraining_tp", "output_router_logits"),
}
"""Entries of transformers' configs that are about training, tasks and generation."""

_NESTED = ("text_config", "attn_config", "ffn_config")
"""Where language models keep settings of their own."""


def overrides_for_mlx_lm(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config means to transformers 5, where mlx-lm's families look for it.

    Entries that the config leaves out get transformers' defaults, which are not always mlx-lm's: a
    checkpoint is written for the former. Without the translation, models would run with a wrong
    base frequency, without scaling, with tied embeddings, or with windows in other layers, and say
    nothing of it, or not load at all. A nested ``text_config`` is translated as well.

    Args:
        config: The whole config.json; a type that transformers does not know gets no defaults.

    Returns:
        Entries to put over those of the config.
    """
    return _overrides(config, _meaning(config))


def _overrides(config: Mapping[str, Any], meaning: PretrainedConfig | None) -> dict[str, Any]:
    found = _left_out(config, meaning)
    said = {**config, **found}
    found |= _rope_settings(said) | _layer_kinds(said)
    for ours, theirs in _RENAMED.get(config.get("model_type", ""), {}).items():
        said = {**config, **found}
        if ours not in config and theirs in said:
            found[ours] = said[theirs]
    for name in _NESTED:
        if isinstance(config.get(name), Mapping):
            part = getattr(meaning, name, None)
            part = part if isinstance(part, PretrainedConfig) else _meaning(config[name])
            found[name] = {**config[name], **_overrides(config[name], part)}
    return found


def _meaning(config: Mapping[str, Any]) -> PretrainedConfig | None:
    """transformers' object for a config; None where it has none."""
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        return None
    # Some config classes write into what they are given.
    entries = deepcopy({k: v for k, v in config.items() if k not in _SAYS_NOTHING_OF_THE_WEIGHTS})
    try:
        meaning = CONFIG_MAPPING[model_type](**entries)
    except Exception as error:  # each config class checks what it is given in its own way
        _logger.warning(
            "transformers refuses this config.json of type %r, so entries that it leaves out get "
            "mlx-lm's defaults, which can differ from transformers': %s",
            model_type,
            error,
        )
        return None
    # The type's name can stand for a part alone there: Pixtral's is that of its vision tower.
    text = getattr(meaning, "text_config", None)
    return meaning if "text_config" not in config or isinstance(text, PretrainedConfig) else None


def _left_out(config: Mapping[str, Any], meaning: PretrainedConfig | None) -> dict[str, Any]:
    """Entries that are missing or null, with the values that transformers gives them."""
    if meaning is None:
        return {}
    values = meaning.to_dict()
    for alias, name in meaning.attribute_map.items():
        if name in values:
            values.setdefault(alias, values[name])
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if isinstance(heads, int) and heads and isinstance(width, int):
        # Where a config class has no such entry, the model's code computes it.
        values.setdefault("head_dim", width // heads)
    return {
        name: value
        for name, value in values.items()
        if config.get(name) is None
        and (value is not None or name not in config)
        and name not in _SAYS_NOTHING_OF_THE_WEIGHTS
        and not name.startswith("_")
        and not isinstance(vars(meaning).get(name), PretrainedConfig)  # a part it does not have
    }


def refuse_own_code(config: Mapping[str, Any]) -> None:
    """Check that mlx-lm builds the model from its own classes; release 0.31 would run other code.

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
