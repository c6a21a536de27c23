"""Every family that a GGUF file may hold: written as llama.cpp writes it, read as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_simul.before_mlx

import llama_cpp
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_configs import full_config
from tiny_models import fresh_model

from mlx_simul.checkpoints import gguf_config, gguf_model
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.gguf_families import FAMILIES
from mlx_simul.checkpoints.validate import run
from mlx_simul.configs import overrides_for_mlx_lm
from mlx_simul.loading import load_folder

TOKENS = mx.array([[(7 * i * i + 3 * i + 11) % 96 for i in range(24)]])
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
    ("mixtral", "untied"): {},
    ("mixtral", "tied"): {},
    ("olmo2", "untied"): {},
    ("olmo3", "yarn"): {},
    ("olmo3", "biased"): {},
    ("olmoe", "plain"): {},
    ("phi3", "plain"): {"original_max_position_embeddings": 4096},
    ("phi3", "windowed"): {"original_max_position_embeddings": 4096},
    ("phi3", "longrope"): {},
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
every_variation = pytest.mark.parametrize(
    ("model_type", "name"), VARIATIONS, ids=lambda part: str(part)
)


def config_of(model_type: str, name: str) -> dict[str, Any]:
    """The variation's config, and in it what every such model has."""
    changes = dict(VARIATIONS[model_type, name])
    period = changes.pop("period", None)
    config = {**full_config(model_type, name), "model_type": model_type, **changes}
    if period is not None:
        config["sliding_window_pattern"] = period
    return config


def write(path: Path, model_type: str, name: str) -> tuple[Any, Path]:
    """Return a random model of a variation, and the GGUF file made of it."""
    config = config_of(model_type, name)
    mx.random.seed(len(name))
    model = fresh_model(model_type, {**config, **overrides_for_mlx_lm(config)})
    weights = dict(tree_flatten(model.parameters()))
    if config.get("tie_word_embeddings") or model_type == "gemma3_text":
        if weights.pop("lm_head.weight", None) is not None:
            model.sanitize(dict(weights))
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    arrays = {name: np.array(weight) for name, weight in weights.items()}
    return model, llama_cpp.write_checkpoint(path, config, arrays)


def error(got: Any, wanted: Any) -> float:
    """The largest difference of the logits, relative to what is largest."""
    left, right = (np.array(model(TOKENS)) for model in (got, wanted))
    return float(abs(left - right).max() / abs(right).max())


@every_variation
def test_a_family_is_read_as_it_was(tmp_path: Path, model_type: str, name: str) -> None:
    model, path = write(tmp_path / "m.gguf", model_type, name)
    folder = convert(path, tmp_path / "mlx")
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    converted, _ = load_folder(folder)
    assert error(converted, model) < 2e-6
