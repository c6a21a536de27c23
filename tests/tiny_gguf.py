"""Random models of every family that GGUF files may hold, and the files made of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tiny_configs import full_config
from tiny_models import fresh_model

from mlx_simul.archs.hf_config import overrides_for_mlx_lm

# Of each, what the converter has a place for in the metadata.
VARIATIONS = {
    ("gemma", "plain"): {},
    ("gemma2", "capped"): {"query_pre_attn_scalar": 8},
    ("gemma3_text", "two-ropes"): {"query_pre_attn_scalar": 8, "num_hidden_layers": 6, "period": 6},
    ("gemma3_text", "linear"): {"query_pre_attn_scalar": 8, "num_hidden_layers": 6, "period": 6},
    ("gpt_oss", "yarn"): {},
    ("granite", "multipliers"): {},
    ("granite", "biased"): {},
    ("granitemoe", "scaled"): {},
    ("llama", "tied"): {},
    ("llama", "biased"): {"rope_scaling": None},
    ("llama", "linear"): {},
    ("mistral", "windowed"): {},
    ("mixtral", "untied"): {},
    ("mixtral", "tied"): {},
    ("olmo2", "untied"): {},
    ("olmo3", "yarn"): {},
    ("olmo3", "biased"): {},
    ("olmoe", "plain"): {},
    ("phi3", "plain"): {"original_max_position_embeddings": 4096},
    ("phi3", "windowed"): {"original_max_position_embeddings": 4096},
    ("phi3", "longrope"): {},
    ("qwen2", "tied"): {},
    ("qwen2_moe", "shared"): {"num_hidden_layers": 2},
    ("qwen3", "tied"): {},
    ("qwen3", "yarn"): {},
    ("qwen3_moe", "untied"): {"decoder_sparse_step": 1, "norm_topk_prob": True},
    ("qwen3_moe", "tied"): {"mlp_only_layers": []},
    ("smollm3", "every-fourth-nope"): {},
    ("stablelm", "parallel"): {"rope_theta": 10000.0},
    ("stablelm", "sequential"): {},
    ("starcoder2", "tied"): {"hidden_act": "gelu_pytorch_tanh"},
}


def config_of(model_type: str, name: str) -> dict[str, Any]:
    """The variation's config, and in it what every such model has."""
    changes = dict(VARIATIONS[model_type, name])
    period = changes.pop("period", None)
    config = {**full_config(model_type, name), "model_type": model_type, **changes}
    if period is not None:
        config["sliding_window_pattern"] = period
    return config


@cache
def random_model(model_type: str, name: str) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    """A model of a variation, its config, and its weights by mlx-lm's names."""
    config = config_of(model_type, name)
    mx.random.seed(len(name))
    model = fresh_model(model_type, {**config, **overrides_for_mlx_lm(config)})
    weights = dict(tree_flatten(model.parameters()))
    is_tied = config.get("tie_word_embeddings") or model_type == "gemma3_text"
    if is_tied and weights.pop("lm_head.weight", None) is not None:
        model.sanitize(dict(weights))
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return model, config, {name: np.array(weight) for name, weight in weights.items()}


def write_model(
    path: Path, model_type: str, name: str | None = None, **metadata: Any
) -> tuple[Any, Path]:
    """Write the GGUF file of a random model.

    Args:
        path: Where.
        model_type: The family.
        name: The variation; its first by default.
        metadata: Entries on top, with ``{arch}`` and ``{dense}`` in their names.

    Returns:
        The model, and the path.
    """
    name = name or next(name for of, name in VARIATIONS if of == model_type)
    model, config, weights = random_model(model_type, name)
    arch = llama_cpp.ARCHITECTURES[model_type]
    entries = llama_cpp.metadata_of(config) | llama_cpp.TOKENIZER
    for key, value in metadata.items():
        entries[key.replace("{arch}", arch).replace("{dense}", "dense_2")] = value
    tensors = llama_cpp.tensors_of(config, weights)
    return model, llama_cpp.write(path, arch, entries, tensors)
