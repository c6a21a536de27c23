"""Adapters that PEFT writes compute what they do in PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from test_families import (
    TOKENS,
    TOLERANCE,
    difference,
    rewrite_folder,
    torch_model,
    transformers_config,
)

from mlx_simul.checkpoints.loading import load_folder, put_on

pytestmark = [
    pytest.mark.parity,
    # transformers' of what PEFT asks it, and PEFT's of tied embeddings, which one test means.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

QKV = ["q_proj", "k_proj", "v_proj"]
ADAPTERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoRA": ("llama", "tied", {"target_modules": [*QKV, "up_proj"]}),
    "all linear layers": ("mistral", "windowed", {"target_modules": "all-linear"}),
    "DoRA": ("llama", "tied", {"target_modules": [*QKV, "down_proj"], "use_dora": True}),
    "DoRA over biases": ("qwen2", "tied", {"target_modules": QKV, "use_dora": True}),
    "rank-stabilised": ("llama", "tied", {"target_modules": QKV, "use_rslora": True}),
    "ranks and alphas of their own": (
        "llama",
        "tied",
        {
            "target_modules": QKV,
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 8},
            "alpha_pattern": {"layers.0.self_attn.k_proj": 3, "v_proj": 32},
        },
    ),
    "one layer": ("llama", "tied", {"target_modules": QKV, "layers_to_transform": [1]}),
    "a head of its own": (
        "mistral",
        "windowed",
        {"target_modules": QKV, "modules_to_save": ["lm_head"]},
    ),
    "a norm of its own": ("llama", "tied", {"target_modules": QKV, "modules_to_save": ["norm"]}),
    "embeddings": ("mistral", "windowed", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embeddings of a tied head": ("llama", "tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "an adapted head": ("mistral", "windowed", {"target_modules": ["lm_head", "q_proj"]}),
    "all biases": ("qwen2", "tied", {"target_modules": QKV, "bias": "all"}),
    "biases of adapted layers": (
        "qwen2",
        "tied",
        {"target_modules": ["q_proj"], "bias": "lora_only"},
    ),
    "turned weights": ("gpt2", "", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "turned weights, DoRA": (
        "gpt2",
        "",
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "a wrapper": ("gemma3", "", {"target_modules": r".*language_model.*\.(q|v|up)_proj"}),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_logits_are_those_of_peft(kind: str, tmp_path: Path):
    folder, adapter, plain, wanted = write(kind, tmp_path)
    ours, _ = load_folder(folder)
    assert difference(logits(ours), plain) < TOLERANCE
    put_on(ours, adapter)
    assert difference(logits(ours), wanted) < TOLERANCE
    assert difference(wanted, plain) > 100 * TOLERANCE, "the adapter does nothing"


@pytest.mark.parametrize("change", [{"lora_alpha": 17}, {"use_rslora": True}])
def test_another_scale_shows(change: dict[str, Any], tmp_path: Path):
    folder, adapter, _, wanted = write("LoRA", tmp_path)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    ours, _ = load_folder(folder)
    put_on(ours, adapter)
    assert difference(logits(ours), wanted) > TOLERANCE


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([TOKENS]))[0])


def write(kind: str, tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A model and its adapter, both by their own libraries; the logits without and with it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_configs import CONFIGS

    model_type, name, options = ADAPTERS[kind]
    name = name or next(iter(CONFIGS[model_type]))
    theirs = torch_model(transformers_config(model_type, name))
    theirs.save_pretrained(tmp_path / "model")
    rewrite_folder(tmp_path / "model", model_type)
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        plain = theirs(tokens).logits[0].numpy()
        adapted = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=10, **options)).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        wanted = adapted(tokens).logits[0].numpy()
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "model", tmp_path / "adapter", plain, wanted
