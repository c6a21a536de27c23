"""Numbers that cannot be weights are refused by load, convert and validate alike."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from tiny_checkpoints import golden_folder, golden_weights

from mlx_simul import load
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.validate import validate
from mlx_simul.errors import ConversionError, ModelLoadError

Q_PROJ, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"
SIZES = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U8": 1, "I8": 1, "BOOL": 1, "I16": 2, "I32": 4}


def loads(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    return str(caught.value)


def converts(folder: Path) -> str:
    with pytest.raises(ConversionError) as caught:
        convert(folder, folder.with_name("target"))
    assert not folder.with_name("target").exists()
    return str(caught.value)


def validates(folder: Path) -> str:
    last = list(validate(folder))[-1]
    assert (last.check, last.verdict) == ("tensor shapes", "FAILED")
    return last.explanation


WAYS = pytest.mark.parametrize("refusal", [loads, converts, validates])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


def store(folder: Path, as_types: dict[str, str], **more: np.ndarray) -> None:
    """Write the golden weights, some under another type; the bytes of these are all zero.

    By hand, since safetensors' own writers know no 8-bit floating point of numpy's.
    """
    weights = golden_weights("llama") | {k.replace("__", "."): v for k, v in more.items()}
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    position = 0
    for name, values in weights.items():
        dtype = as_types.get(name, "F32")
        blob = bytes(values.size * SIZES[dtype]) if dtype in SIZES else values.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [position, position + len(blob)],
        }
        blobs.append(blob)
        position += len(blob)
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@WAYS
@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("name", [Q_PROJ, NORM, EMBEDDING])
def test_a_type_that_cannot_be_weights(
    folder: Path, refusal: Callable[[Path], str], dtype: str, name: str
):
    store(folder, {name: dtype})
    said = refusal(folder)
    assert f"{name} in model.safetensors is stored as {dtype}, and no scale" in said
    assert "--quantize" in said


def test_mlx_lm_alone_computes_with_them(folder: Path):
    store(folder, {Q_PROJ: "F8_E4M3"})
    model, _ = load_model(folder)
    assert model.layers[0].self_attn.q_proj.weight.dtype == mx.uint8


@WAYS
def test_all_weights_in_8_bit_floating_point(folder: Path, refusal: Callable[[Path], str]):
    store(folder, dict.fromkeys(golden_weights("llama"), "F8_E4M3"))
    assert "F8_E4M3" in refusal(folder)


@WAYS
@pytest.mark.parametrize("dtype", ["U8", "BOOL", "I32"])
def test_a_config_that_says_quantised_does_not_make_integers_weights(
    folder: Path, refusal: Callable[[Path], str], dtype: str
):
    edit_config(folder, quantization={"bits": 4, "group_size": 64})
    store(folder, {Q_PROJ: dtype})
    assert Q_PROJ in refusal(folder)


@WAYS
@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "quanto", "torchao", "aqlm", "eetq"])
def test_a_quantised_format_that_mlx_lm_does_not_know(
    folder: Path, refusal: Callable[[Path], str], method: str
):
    edit_config(folder, quantization_config={"quant_method": method, "load_in_4bit": True})
    said = refusal(folder)
    assert f"quantised by {method!r}" in said
    assert "--quantize" in said


@WAYS
@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {"quant_method": "gptq", "bits": 8},
        {"quant_method": "awq", "bits": 3},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_one_that_mlx_lm_knows_in_another_variant(
    folder: Path, refusal: Callable[[Path], str], settings: dict[str, Any]
):
    edit_config(folder, quantization_config=settings)
    store(
        folder,
        {Q_PROJ: "F8_E4M3"},
        **{f"{Q_PROJ}_scale_inv".replace(".", "__"): np.ones((1, 1), np.float32)},
    )
    said = refusal(folder)
    assert f"quantised by {settings['quant_method']!r}" in said
    assert "--quantize" in said


def test_masks_that_the_model_computes_itself_may_be_integers(tmp_path: Path):
    """GPT-2's files hold its causal mask."""
    folder = golden_folder(tmp_path / "source", "llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    store(folder, {name: "I8"}, **{name.replace(".", "__"): np.ones(4, np.float32)})
    model, _ = load(folder)
    assert model.model_type == "llama"


@pytest.mark.parametrize("bits", [4, 8])
def test_what_mlx_quantised_itself_is_loaded(folder: Path, tmp_path: Path, bits: int):
    from mlx_simul.checkpoints.convert import Quantization

    target = convert(folder, tmp_path / "target", quantization=Quantization(bits))
    model, _ = load(target)
    assert model.layers[0].self_attn.q_proj.weight.dtype == mx.uint32
    convert(target, tmp_path / "again")
