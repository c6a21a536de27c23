"""Quantised weights of GGUF files in MLX's quantised layers, number by number."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import llama_cpp
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_checkpoints import write_tiny
from tiny_gguf import random_model

from mlx_simul.checkpoints.convert import Quantization, convert
from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_blocks import BITS, GROUP_SIZE, to_affine
from mlx_simul.checkpoints.loading import load_folder
from mlx_simul.console.validate import run
from mlx_simul.errors import ConversionError, InvalidOptionError

KINDS = sorted(BITS)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def from_mlx(blocks: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """What MLX makes of blocks in float32."""
    affine = to_affine(blocks, kind)
    scales, biases = (mx.array(part).astype(mx.float32) for part in (affine.scales, affine.biases))
    return np.array(mx.dequantize(mx.array(affine.weight), scales, biases, GROUP_SIZE, BITS[kind]))


@every_kind
@given(data=st.data())
def test_no_number_is_lost(kind: GGMLQuantizationType, data: st.DataObject) -> None:
    n_bytes = GGML_QUANT_SIZES[kind][1]
    blocks = data.draw(arrays.arrays(np.uint8, (3, 2, n_bytes)))
    scale = st.floats(-4, 4, width=16)
    n_halves = 2 if kind == GGMLQuantizationType.Q4_1 else 1
    halves = data.draw(arrays.arrays(np.float16, (3, 2, n_halves), elements=scale))
    blocks[..., : 2 * n_halves] = halves.view(np.uint8)
    rows = blocks.reshape(3, -1)
    assert np.array_equal(from_mlx(rows, kind), dequantize(rows, kind))


@every_kind
def test_the_order_within_a_block_matters(kind: GGMLQuantizationType) -> None:
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    blocks = quantize(values, kind)
    read = from_mlx(blocks, kind)
    assert np.array_equal(read, dequantize(blocks, kind))
    assert not np.array_equal(read, dequantize(blocks, kind)[:, ::-1])
    mixed = blocks.copy()
    mixed[:, -16:] = (mixed[:, -16:] << 4) | (mixed[:, -16:] >> 4)
    assert not np.array_equal(from_mlx(mixed, kind), dequantize(blocks, kind))


def write(path: Path, model_type: str, name: str, kind: GGMLQuantizationType) -> Path:
    _, config, weights = random_model(model_type, name)
    return llama_cpp.write_checkpoint(path, config, weights, kind)


def logits(folder: Path) -> np.ndarray:
    model, _ = load_folder(folder)
    return np.array(model(mx.array([[5, 17, 3, 80, 41, 2, 60]])))


@every_kind
@pytest.mark.parametrize(
    ("model_type", "name"),
    [("llama", "tied"), ("gemma2", "capped"), ("mixtral", "untied"), ("stablelm", "sequential")],
)
def test_a_converted_model_computes_the_same(
    tmp_path: Path, model_type: str, name: str, kind: GGMLQuantizationType
) -> None:
    path = write(tmp_path / "m.gguf", model_type, name, kind)
    dense = convert(path, tmp_path / "dense", dtype="float32")
    kept = convert(path, tmp_path / "kept", dtype="float32", keep_quantized=True)
    config = json.loads((kept / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": BITS[kind],
        "mode": "affine",
    }
    difference = abs(logits(kept) - logits(dense)).max() / abs(logits(dense)).max()
    assert difference < 1e-5
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (kept, dense)]
    assert sizes[0] < 0.5 * sizes[1]


def test_types_may_be_mixed(tmp_path: Path) -> None:
    _, config, weights = random_model("llama", "tied")
    tensors = llama_cpp.tensors_of(config, weights)
    metadata = llama_cpp.metadata_of(config) | llama_cpp.TOKENIZER
    types = dict.fromkeys(tensors, GGMLQuantizationType.Q4_0) | {
        "token_embd.weight": GGMLQuantizationType.Q8_0,
        "blk.0.attn_q.weight": GGMLQuantizationType.Q5_1,
        "blk.0.attn_k.weight": GGMLQuantizationType.Q4_1,
    }
    path = llama_cpp.write(tmp_path / "m.gguf", "llama", metadata, tensors, types)
    dense = convert(path, tmp_path / "dense", dtype="float32")
    kept = convert(path, tmp_path / "kept", dtype="float32", keep_quantized=True)
    assert np.allclose(logits(kept), logits(dense), atol=1e-5)
    quantization = json.loads((kept / "config.json").read_text())["quantization"]
    assert quantization["bits"] == 4
    assert quantization["model.embed_tokens"]["bits"] == 8
    model, _ = load_folder(kept)
    assert model.layers[0].self_attn.q_proj.weight.dtype == mx.float32
    assert model.layers[0].self_attn.k_proj.weight.dtype == mx.uint32


@every_kind
def test_the_scales_stay_float16(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    path = write(tmp_path / "m.gguf", "llama", "tied", kind)
    kept = convert(path, tmp_path / "kept", keep_quantized=True)
    layer = load_folder(kept)[0].layers[1].mlp.up_proj
    affine = to_affine(quantized(path, "blk.1.ffn_up.weight"), kind)
    for part in ("weight", "scales", "biases"):
        stored = layer[part]
        assert np.array_equal(np.array(stored), getattr(affine, part)), part
    assert layer.scales.dtype == mx.float16


def quantized(path: Path, name: str) -> np.ndarray:
    return GGUFFile(path).blocks(name)


def test_a_folder_of_kept_weights_is_valid(tmp_path: Path, capsys: Any) -> None:
    template = {
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    }
    kind = GGMLQuantizationType.Q4_0
    path = write_tiny(tmp_path / "m.gguf", "qwen2", kind, metadata=template)
    kept = convert(path, tmp_path / "kept", dtype="float32", keep_quantized=True)
    assert run(argparse.Namespace(folder=kept)) == 0, capsys.readouterr().out


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", "tied", GGMLQuantizationType.Q5_0)
    with pytest.raises(ConversionError, match="no layer of type Q4_0, Q4_1, Q8_0"):
        convert(path, tmp_path / "t", keep_quantized=True)
    path = write(tmp_path / "m.gguf", "llama", "tied", GGMLQuantizationType.Q8_0)
    with pytest.raises(ConversionError, match="bfloat16 cannot hold the float16 scales"):
        convert(path, tmp_path / "t", dtype="bfloat16", keep_quantized=True)
    with pytest.raises(InvalidOptionError, match="give one"):
        convert(path, tmp_path / "t", quantization=Quantization(), keep_quantized=True)
    folder = convert(path, tmp_path / "folder")
    with pytest.raises(ConversionError, match="is a folder, and --keep-quantized is for a GGUF"):
        convert(folder, tmp_path / "t", keep_quantized=True)
