"""GGUF files give transformers' logits: those of the model that was written into the file, and
those of transformers' own reading of it, where transformers reads that architecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from test_families import (
    SPECIAL_TOKENS,
    TOKENS,
    difference,
    logits,
    rewrite_folder,
    torch_model,
)
from tiny_configs import TRANSFORMERS
from tiny_gguf import VARIATIONS, config_of

from mlx_simul.checkpoints.convert import convert

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5
# transformers leaves some of the metadata unread; these configs have its defaults in those places.
GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256}
OWN_READING: dict[tuple[str, str], dict[str, Any]] = {
    ("gemma2", "capped"): {
        **GEMMA,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    ("gemma3_text", "two-ropes"): {**GEMMA, "rope_local_base_freq": 10000.0},
    ("llama", "tied"): {},
    ("phi3", "plain"): {},
    ("qwen3", "tied"): {"head_dim": 128},
    ("stablelm", "sequential"): {"rope_theta": 10000.0},
    ("starcoder2", "tied"): {"rope_theta": 10000.0},
}


def write(folder: Path, model_type: str, name: str, **changes: Any) -> tuple[Path, np.ndarray]:
    """Let transformers make a random model; the GGUF file of it, and its logits (L, V)."""
    import torch

    known = TRANSFORMERS.get(model_type, {}) | TRANSFORMERS.get(f"{model_type}-{name}", {})
    config = {**SPECIAL_TOKENS, **config_of(model_type, name), **known, **changes}
    model = torch_model(config)
    model.save_pretrained(folder)
    rewrite_folder(folder, model_type)
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    return llama_cpp.write_folder(folder / "m.gguf", folder), wanted


@pytest.mark.parametrize(("model_type", "name"), VARIATIONS, ids=str)
def test_a_file_gives_the_logits_of_the_model_in_it(
    model_type: str, name: str, tmp_path: Path, record: Any
) -> None:
    path, wanted = write(tmp_path / "theirs", model_type, name)
    error = difference(logits(convert(path, tmp_path / "ours")), wanted)
    assert error < TOLERANCE
    record(model_type, "gguf", name, error)


@pytest.mark.parametrize(("model_type", "name"), OWN_READING, ids=str)
def test_a_file_gives_the_logits_of_transformers_own_reading(
    model_type: str, name: str, tmp_path: Path, record: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path, _ = write(tmp_path / "theirs", model_type, name, **OWN_READING[model_type, name])
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        wanted = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    error = difference(logits(convert(path, tmp_path / "ours")), wanted)
    assert error < TOLERANCE
    record(model_type, "gguf read by transformers", name, error)


@pytest.mark.parametrize(
    ("model_type", "name", "key", "value"),
    [
        ("llama", "tied", "rope.freq_base", 1001.0),
        ("granite", "multipliers", "residual_scale", 0.401),
        ("gemma2", "capped", "final_logit_softcapping", 3.01),
        ("gpt_oss", "yarn", "attention.sliding_window", 6),
        ("qwen3", "yarn", "rope.scaling.yarn_attn_factor", 1.2),
        ("qwen3", "yarn", "rope.scaling.yarn_beta_fast", 2.0),
    ],
)
def test_metadata_that_are_slightly_wrong_show(
    model_type: str, name: str, key: str, value: Any, tmp_path: Path
) -> None:
    path, wanted = write(tmp_path / "theirs", model_type, name)
    arch = llama_cpp.ARCHITECTURES[model_type]
    written = llama_cpp.metadata_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            llama_cpp, "metadata_of", lambda config: written(config) | {f"{arch}.{key}": value}
        )
        llama_cpp.write_folder(path, path.parent)
    assert difference(logits(convert(path, tmp_path / "ours")), wanted) > TOLERANCE


def test_yarns_settings_come_through(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    }
    path, wanted = write(tmp_path / "theirs", "qwen3", "yarn", rope_scaling=scaling)
    assert difference(logits(convert(path, tmp_path / "ours")), wanted) < TOLERANCE
