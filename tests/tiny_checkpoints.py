"""The golden tiny checkpoints as folders, and as GGUF files with llama.cpp's names and layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import MODEL_ARCH
from gguf.quants import quantize
from gguf.tensor_mapping import get_tensor_name_map
from repository import GOLDEN
from safetensors.numpy import load_file

GOLDEN = GOLDEN
ARCHS = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}
F32 = GGMLQuantizationType.F32


def golden_config(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{family}-tiny-0" / "config.json").read_text("utf-8"))


def golden_weights(family: str) -> dict[str, np.ndarray]:
    return load_file(GOLDEN / f"{family}-tiny-0" / "model.safetensors")


def llama_cpp_layout(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """The order in which llama.cpp stores the rows of a head: 0, D/2, 1, D/2 + 1, ..."""
    head_dim = len(rows) // n_heads
    order = np.arange(head_dim).reshape(2, -1).T.ravel()
    return rows.reshape(n_heads, head_dim, *rows.shape[1:])[:, order].reshape(rows.shape)


def tiny_tensors(family: str) -> dict[str, np.ndarray]:
    """The golden weights under llama.cpp's names, reordered as llama.cpp reorders them."""
    config = golden_config(family)
    names = get_tensor_name_map(ARCHS[family], config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors = {}
    for name, values in golden_weights(family).items():
        projection = name.split(".")[-2]
        if family == "llama" and projection in heads:
            values = llama_cpp_layout(values, heads[projection])
        gguf_name = names.get_name(name, (".weight", ".bias"))
        assert gguf_name is not None
        tensors[gguf_name] = values
    return tensors


def tiny_metadata(family: str) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for the golden checkpoint."""
    config = golden_config(family)
    spec = json.loads((GOLDEN / "tokenizer.json").read_text("utf-8"))
    vocab = spec["model"]["vocab"]
    return {
        f"{family}.block_count": config["num_hidden_layers"],
        f"{family}.context_length": config["max_position_embeddings"],
        f"{family}.embedding_length": config["hidden_size"],
        f"{family}.feed_forward_length": config["intermediate_size"],
        f"{family}.attention.head_count": config["num_attention_heads"],
        f"{family}.attention.head_count_kv": config["num_key_value_heads"],
        f"{family}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{family}.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.__getitem__),
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(vocab) - 3),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}",
    }


def write_gguf(
    path: Path,
    metadata: dict[str, Any],
    tensors: dict[str, np.ndarray] | None = None,
    kind: GGMLQuantizationType = F32,
    architecture: str = "llama",
) -> Path:
    """Write a GGUF file; tensors of two dimensions are stored as ``kind``, others as float32."""
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, values in (tensors or {}).items():
        stored = kind if values.ndim == 2 else F32
        writer.add_tensor(name, quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny(
    path: Path,
    family: str,
    kind: GGMLQuantizationType = F32,
    *,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
) -> Path:
    """Write the golden checkpoint; ``metadata`` and ``tensors`` replace entries, None drops one."""

    def replaced(values: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
        merged = values | (changes or {})
        return {key: value for key, value in merged.items() if value is not None}

    return write_gguf(
        path,
        replaced(tiny_metadata(family), metadata),
        replaced(tiny_tensors(family), tensors),
        kind,
        family,
    )


def golden_folder(folder: Path, family: str) -> Path:
    """Copy a golden checkpoint together with its tokenizer."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / f"{family}-tiny-0" / name, folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    return folder


def everything_in(folder: Path) -> list[str]:
    """All names in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())
