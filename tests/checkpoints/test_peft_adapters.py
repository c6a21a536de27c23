"""PEFT's adapters: W + scale * B A, with DoRA's norms; what cannot be converted is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import dequantize_model, quantize_model
from tiny_checkpoints import golden_config, golden_folder

import mlx_simul
from mlx_simul.checkpoints.loading import load_folder, put_on
from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.errors import ModelLoadError
from mlx_simul.testing import LAWS

WIDTH, RANK = 64, 4
Q, EMBEDDING = "model.layers.0.self_attn.q_proj", "model.embed_tokens"
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 10, "target_modules": ["q_proj"]}


def random(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


LORA = {
    f"{Q}.lora_A.weight": random(RANK, WIDTH),
    f"{Q}.lora_B.weight": random(WIDTH, RANK, seed=1),
}
MAGNITUDE = {f"{Q}.lora_magnitude_vector": mx.abs(random(WIDTH, seed=2)) + 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


def write(folder: Path, weights: dict[str, mx.array], **changes: Any) -> Path:
    """An adapter's folder, as PEFT writes it."""
    adapter = folder.with_name("adapter")
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    named = {f"base_model.model.{name}": weight for name, weight in weights.items()}
    mx.save_safetensors(str(adapter / "adapter_model.safetensors"), named)
    return adapter


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([[5, 6, 7, 8, 300]]))[0].astype(mx.float32))


def q_proj(model: Any) -> Any:
    return model.layers[0].self_attn.q_proj


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max()) < 2e-5


def merged(weight: mx.array, scale: float, magnitude: mx.array | None = None) -> mx.array:
    """By the formulas of the papers (LoRA 2106.09685, DoRA 2402.09353)."""
    found = weight + scale * LORA[f"{Q}.lora_B.weight"] @ LORA[f"{Q}.lora_A.weight"]
    if magnitude is None:
        return found
    return (magnitude / mx.sqrt((found * found).sum(axis=1)))[:, None] * found


SCALES = {
    "alpha over r": ({}, 10 / RANK),
    "its default": ({"lora_alpha": 8}, 8 / RANK),
    "rank-stabilised": ({"use_rslora": True}, 10 / math.sqrt(RANK)),
    "by pattern": ({"alpha_pattern": {"k_proj": 99, "q_proj": 3}}, 3 / RANK),
    "by another layer's pattern": ({"alpha_pattern": {"layers.1.self_attn.q_proj": 3}}, 10 / RANK),
    "by regular expression": ({"alpha_pattern": {r".*\.0\..*proj": 3}}, 3 / RANK),
    "the rank is that of the file": ({"r": 77, "rank_pattern": {"q_proj": RANK}}, 10 / RANK),
}


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize(("options", "scale"), SCALES.values(), ids=SCALES)
def test_an_adapted_layer(folder: Path, options: dict[str, Any], scale: float, dora: bool):
    weights = LORA | (MAGNITUDE if dora else {})
    adapter = write(folder, weights, use_dora=dora, **options)
    model, _ = mlx_simul.load(folder, adapter_path=adapter)
    wanted, _ = load_folder(folder)
    magnitude = MAGNITUDE[f"{Q}.lora_magnitude_vector"] if dora else None
    q_proj(wanted).weight = merged(q_proj(wanted).weight, scale, magnitude)
    assert close(logits(model), logits(wanted))
    q_proj(wanted).weight = 1.001 * q_proj(wanted).weight
    assert not close(logits(model), logits(wanted))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_over_quantised_weights(folder: Path, bits: int, dora: bool):
    adapter = write(folder, LORA | (MAGNITUDE if dora else {}), use_dora=dora)
    model, config = load_folder(folder)
    model, _ = quantize_model(model, config, group_size=32, bits=bits)
    put_on(model, adapter)
    wanted, config = load_folder(folder)
    wanted, _ = quantize_model(wanted, config, group_size=32, bits=bits)
    dequantize_model(wanted)
    magnitude = MAGNITUDE[f"{Q}.lora_magnitude_vector"] if dora else None
    q_proj(wanted).weight = merged(q_proj(wanted).weight, 10 / RANK, magnitude)
    assert close(logits(model), logits(wanted))


def test_it_streams(folder: Path):
    model, _ = mlx_simul.load(folder, adapter_path=write(folder, LORA))
    for law in LAWS:
        law(model).require()


@pytest.mark.parametrize("infix", ["", ".modules_to_save", ".modules_to_save.default"])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_layer_of_its_own(folder: Path, infix: str, bits: int | None):
    vocabulary = golden_config("llama")["vocab_size"]
    head = random(vocabulary, WIDTH, seed=3)
    adapter = write(folder, LORA | {f"lm_head{infix}.weight": head})
    model, config = load_folder(folder)
    if bits:
        model, _ = quantize_model(model, config, group_size=32, bits=bits)
    put_on(model, adapter)
    assert mx.array_equal(model.lm_head.weight, head).item()
    assert np.isfinite(logits(model)).all()


REFUSED = {
    "another method": ({}, LORA, {"peft_type": "IA3"}, "of type 'IA3'"),
    "prompts": ({}, {}, {"peft_type": "PREFIX_TUNING"}, "of type 'PREFIX_TUNING'"),
    "an option of LoRA's": ({}, LORA, {"use_qalora": True}, "use_qalora=True"),
    "an option of tomorrow's": ({}, LORA, {"use_newlora": {"x": 1}}, "use_newlora="),
    "repeated layers": ({}, LORA, {"layer_replication": [[0, 2]]}, "layer_replication="),
    "single tokens": ({}, LORA, {"trainable_token_indices": [1]}, "trainable_token_indices"),
    "bare parameters": ({}, LORA, {"target_parameters": ["experts.up"]}, "target_parameters"),
    "a start that changes the model": ({}, LORA, {"init_lora_weights": "pissa"}, "'pissa'"),
    "LoftQ": ({}, LORA, {"init_lora_weights": "loftq"}, "'loftq'"),
    "a bias of B": ({f"{Q}.lora_B.bias": random(WIDTH)}, LORA, {}, "lora_B.bias"),
    "a bias of its own": (
        {f"{Q}.base_layer.bias": random(WIDTH)},
        LORA,
        {"bias": "all"},
        "has none",
    ),
    "no B": ({}, {f"{Q}.lora_A.weight": LORA[f"{Q}.lora_A.weight"]}, {}, "lora_A alone"),
    "nothing": ({}, {}, {}, "holds no adapters"),
    "another model's width": (
        {f"{Q}.lora_A.weight": random(RANK, 2 * WIDTH)},
        LORA,
        {},
        r"shape \(128, 4\).*needs \(64, 4\)",
    ),
    "another magnitude": (
        {f"{Q}.lora_magnitude_vector": random(3)},
        LORA,
        {"use_dora": True},
        r"shape \(3,\)",
    ),
    "layers that are not there": (
        {
            "model.layers.77.self_attn.q_proj.lora_A.weight": random(RANK, WIDTH),
            "model.layers.77.self_attn.q_proj.lora_B.weight": random(WIDTH, RANK),
        },
        {},
        {},
        r"'model\.layers\.77\.self_attn\.q_proj', and .* no such layer",
    ),
    "an expert": (
        {
            "model.layers.0.mlp.experts.3.up_proj.lora_A.weight": random(RANK, WIDTH),
            "model.layers.0.mlp.experts.3.up_proj.lora_B.weight": random(WIDTH, RANK),
        },
        {},
        {},
        "experts, say",
    ),
    "DoRA on embeddings": (
        {
            f"{EMBEDDING}.lora_embedding_A": random(RANK, 1024),
            f"{EMBEDDING}.lora_embedding_B": random(WIDTH, RANK),
            f"{EMBEDDING}.lora_magnitude_vector": random(WIDTH),
        },
        {},
        {"use_dora": True},
        "DoRA on the embedding",
    ),
    "a norm": (
        {
            "model.norm.lora_A.weight": random(RANK, WIDTH),
            "model.norm.lora_B.weight": random(WIDTH, RANK),
        },
        {},
        {},
        "RMSNorm in mlx-lm",
    ),
    "integers": ({f"{Q}.lora_A.weight": mx.ones((RANK, WIDTH), mx.int8)}, LORA, {}, "int8"),
}


@pytest.mark.parametrize(("more", "weights", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named(
    folder: Path,
    more: dict[str, mx.array],
    weights: dict[str, mx.array],
    options: dict[str, Any],
    said: str,
):
    adapter = write(folder, weights | more, **options)
    with pytest.raises(ModelLoadError, match=said):
        mlx_simul.load(folder, adapter_path=adapter)


def test_embeddings_of_their_own_are_refused_where_the_head_is_tied(tmp_path: Path):
    folder = golden_folder(tmp_path / "source", "qwen2")
    adapter = write(folder, {f"{EMBEDDING}.weight": random(1024, WIDTH)})
    with pytest.raises(ModelLoadError, match="tied"):
        mlx_simul.load(folder, adapter_path=adapter)


def test_a_pickle_is_not_opened(folder: Path):
    adapter = write(folder, LORA)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="pickle"):
        mlx_simul.load(folder, adapter_path=adapter)


def test_the_command_takes_one(folder: Path, capsys: pytest.CaptureFixture[str]):
    from mlx_simul.console.cli import main

    options = ["--model", str(folder), "--adapter", str(write(folder, LORA)), "--to", "French"]
    assert main(["translate", *options, "--max-tokens", "2", "One."]) == EXIT_INCOMPLETE
    assert capsys.readouterr().out.strip()
