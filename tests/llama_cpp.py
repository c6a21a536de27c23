"""Checkpoints as GGUF files, the way llama.cpp's converter writes them.

Written after the converter's own code (``conversion/*.py`` of llama.cpp), family by family, and
apart from the package's tables, so that a mistake in one shows in the other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import quantize
from gguf.tensor_mapping import get_tensor_name_map
from safetensors.numpy import load_file

F32 = GGMLQuantizationType.F32
ARCHITECTURES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt-oss",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
"""What the converter calls each model type."""

PERMUTED = {"llama", "mistral", "mixtral", "smollm3", "granite", "granitemoe"}
PLUS_ONE = {"gemma", "gemma2", "gemma3_text"}
# transformers' name of a metadata key's value, for all families.
_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "expert_used_count": "num_experts_per_tok",
}
_EITHER = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "norm_epsilon"),
    "expert_count": ("num_local_experts", "num_experts"),
}
_OWN = {
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
        "attention.sliding_window": "sliding_window",
    },
    "gemma3_text": {"attention.sliding_window": "sliding_window"},
    "gpt_oss": {
        "attention.sliding_window": "sliding_window",
        "expert_feed_forward_length": "intermediate_size",
    },
    "granite": {
        "logit_scale": "logits_scaling",
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
    },
    # Not the converter; others do, and without it the file is a Llama's.
    "mistral": {"attention.sliding_window": "sliding_window"},
    "olmo3": {"attention.sliding_window": "sliding_window"},
    "phi3": {"attention.sliding_window": "sliding_window"},
    "qwen2_moe": {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    "qwen3_moe": {"expert_feed_forward_length": "moe_intermediate_size"},
    "stablelm": {"use_parallel_residual": "use_parallel_residual"},
}
_OWN["granitemoe"] = _OWN["granite"]

TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b", "ab", *(f"t{i}" for i in range(5, 96))],
    "tokenizer.ggml.token_type": [3, 3, *[1] * 94],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
}
"""One that is enough for a model of 96 tokens whose tokenizer is not what is tried."""


def write_checkpoint(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    kind: GGMLQuantizationType = F32,
) -> Path:
    """Write a checkpoint with transformers' config and names of weights, or mlx-lm's."""
    metadata, tensors = metadata_of(config), tensors_of(config, weights)
    metadata = {**metadata, **TOKENIZER}
    return write(path, ARCHITECTURES[config["model_type"]], metadata, tensors, kind)


def write_folder(path: Path, folder: Path, kind: GGMLQuantizationType = F32) -> Path:
    """Write the checkpoint of a folder of safetensors."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return write_checkpoint(path, config, load_file(folder / "model.safetensors"), kind)


def write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: GGMLQuantizationType | Mapping[str, GGMLQuantizationType] = F32,
    **options: Any,
) -> Path:
    """Write metadata and tensors, of one type or of each its own.

    Vectors stay float32, as the converter leaves them. ``options`` are the writer's.
    """
    writer = GGUFWriter(path, architecture, **options)
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, values in tensors.items():
        chosen = kind[name] if isinstance(kind, Mapping) else kind
        stored = chosen if values.ndim > 1 else F32
        writer.add_tensor(name, quantize(np.float32(values), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {
        bool: GGUFValueType.BOOL,
        int: GGUFValueType.UINT32,
        float: GGUFValueType.FLOAT32,
        str: GGUFValueType.STRING,
    }
    writer.add_key_value(key, value, kinds.get(type(value), GGUFValueType.ARRAY))


def metadata_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a model, without its tokenizer."""
    model_type, arch = config["model_type"], ARCHITECTURES[config["model_type"]]
    found = {key: config.get(name) for key, name in _KEYS.items()}
    for key, names in _EITHER.items():
        found[key] = next((config[name] for name in names if name in config), None)
    found |= {key: config.get(name) for key, name in _OWN.get(model_type, {}).items()}
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    local = rope.get("sliding_attention", {})
    rope = rope.get("full_attention", rope)
    found["rope.freq_base"] = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    local_theta = local.get("rope_theta", config.get("rope_local_base_freq"))
    if model_type == "gemma3_text" and local_theta is not None:
        found["rope.freq_base_swa"] = float(local_theta)
    found |= _scaling(rope)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if model_type in ("phi3", "stablelm"):
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        found["rope.dimension_count"] = int(part * head_dim)
    elif model_type in PERMUTED:
        found["rope.dimension_count"] = head_dim
        found["vocab_size"] = config["vocab_size"]
    if model_type == "olmo3":
        kinds = config["layer_types"]
        found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in kinds]
    if model_type == "phi3":
        original = config.get("original_max_position_embeddings", 4096)
        found["rope.scaling.original_context_length"] = original
        found["attention.sliding_window"] = config.get("sliding_window") or 0
        if rope.get("long_factor"):
            scale = config["max_position_embeddings"] / original
            found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    return {f"{arch}.{key}": value for key, value in found.items() if value is not None}


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "longrope":
        return {"rope.scaling.type": "longrope"}
    if kind not in ("linear", "yarn"):
        if kind not in (None, "default"):
            raise LookupError(f"there is no writer here for positions scaled by {kind!r}")
        return {}
    found = {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        original = rope["original_max_position_embeddings"]
        found["rope.scaling.original_context_length"] = original
        for key, name in (
            ("yarn_attn_factor", "attention_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ):
            if rope.get(name) is not None:
                found[f"rope.scaling.{key}"] = float(rope[name])
    return found


def tensors_of(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors of a model, under llama.cpp's names and in its layout."""
    model_type = config["model_type"]
    architecture = next(
        arch for arch, name in MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[model_type]
    )
    names = get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors = {}
    for name, values in _joined(config, weights).items():
        if model_type in PERMUTED and re.search(r"\.[qk]_proj\.", name):
            heads = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
            values = _permuted(values, config[heads])
        if model_type in PLUS_ONE and name.endswith("norm.weight"):
            values = values + np.float32(1)
        if name.endswith("sinks"):
            name += ".weight"
        stored = names.get_name(name, (".weight", ".bias"))
        if stored is None:
            raise LookupError(f"llama.cpp has no name for {name!r} of {model_type}")
        tensors[stored] = values.squeeze()
    return tensors | _rope_factors(config)


def _permuted(rows: np.ndarray, n_heads: int) -> np.ndarray:
    head_dim = len(rows) // n_heads
    halves = rows.reshape(n_heads, 2, head_dim // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _joined(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join what the converter joins, and part what it parts: experts, and norms of heads."""
    found: dict[str, Any] = {}
    lists: dict[str, dict[int, np.ndarray]] = {}
    mixtral = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for name, values in weights.items():
        name = re.sub(r"\.(mlp|block_sparse_moe)\.switch_mlp\.", ".mlp.experts.", name)
        if match := re.fullmatch(r"(.*)\.experts\.(\d+)\.(\w+)\.weight", name):
            start, number, part = match.groups()
            start = re.sub(r"block_sparse_moe$", "mlp", start)
            joined = f"{start}.experts.{mixtral.get(part, part)}.weight"
            lists.setdefault(joined, {})[int(number)] = values
        elif match := re.fullmatch(r"(.*_layernorm)\.norms\.(\d+)\.weight", name):
            lists.setdefault(f"{match[1]}.weight", {})[int(match[2])] = values
        elif name.endswith("block_sparse_moe.input_linear.weight"):  # Granite
            start = name.replace("block_sparse_moe.input_linear.weight", "mlp.experts")
            half = values.shape[1] // 2
            found[f"{start}.gate_proj.weight"] = values[:, :half]
            found[f"{start}.up_proj.weight"] = values[:, half:]
        elif name.endswith("block_sparse_moe.output_linear.weight"):
            start = name.replace("block_sparse_moe.output_linear.weight", "mlp.experts")
            found[f"{start}.down_proj.weight"] = values
        elif match := re.fullmatch(r"(.*\.experts)\.gate_up_proj(_bias)?", name):  # gpt-oss
            end = "bias" if match[2] else "weight"
            values = values if match[2] else values.swapaxes(-1, -2)
            axis = -1 if match[2] else -2
            gate, up = (values.take(range(i, values.shape[axis], 2), axis) for i in (0, 1))
            found |= {f"{match[1]}.gate_proj.{end}": gate, f"{match[1]}.up_proj.{end}": up}
        elif match := re.fullmatch(r"(.*\.experts)\.down_proj(_bias)?", name):
            bias = bool(match[2])
            found[f"{match[1]}.down_proj.{'bias' if bias else 'weight'}"] = (
                values if bias else values.swapaxes(-1, -2)
            )
        else:
            found[name] = values
    for name, parts in lists.items():
        found[name] = np.stack([parts[i] for i in range(len(parts))])
    if config.get("tie_word_embeddings"):
        found.pop("lm_head.weight", None)
    return found


def _rope_factors(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope = rope.get("full_attention", rope)
    if rope.get("long_factor"):
        return {
            f"rope_factors_{length}.weight": np.array(rope[f"{length}_factor"], np.float32)
            for length in ("long", "short")
        }
    return {}
