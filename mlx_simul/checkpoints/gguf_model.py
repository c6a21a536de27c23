"""What a GGUF file says about a model, in the words of Hugging Face and mlx-lm: config and weights.

llama.cpp stores a checkpoint under its own names, and the query and key projections of the llama
family with the rows of each head reordered, because its rotary embedding pairs neighbouring rows
where Hugging Face and MLX pair the two halves of a head. Qwen2 keeps the halves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gguf.constants import MODEL_ARCH
from gguf.tensor_mapping import get_tensor_name_map

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.errors import ConversionError

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
ROPE_FREQS = "rope_freqs.weight"
# Llama 3.1 to 3.3 differ in the factor only; GGUF keeps the resulting factors, not these.
LLAMA3_SCALING = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def architecture(file: GGUFFile) -> str:
    """Return the file's architecture, one of ``ARCHITECTURES``.

    Raises:
        ConversionError: if it is not one of them, a mixture of experts, or one piece of several.
    """
    name = file.get("general.architecture", str)
    if name not in ARCHITECTURES:
        raise ConversionError(
            f"{file.path} holds the architecture {name!r}, which cannot be converted from GGUF. "
            f"Supported: {', '.join(sorted(ARCHITECTURES))}. Convert the safetensors checkpoint "
            "of this model instead."
        )
    if file.get(f"{name}.expert_count", int, 0):
        raise ConversionError(
            f"{file.path} holds a mixture of experts, which cannot be converted from GGUF. "
            "Convert the safetensors checkpoint of this model instead."
        )
    if file.get("split.count", int, 1) > 1:
        raise ConversionError(
            f"{file.path} is one piece of a split GGUF. Join the pieces first: "
            "llama-gguf-split --merge FIRST_PIECE WHOLE.gguf"
        )
    return name


def read_config(file: GGUFFile) -> dict[str, Any]:
    """Return the Hugging Face config that the file's metadata describes.

    Sizes are checked against the tensors, so that nothing built from the config is larger than
    the file warrants.

    Raises:
        ConversionError: if a value is missing, cannot be expressed, or contradicts a tensor.
    """
    arch = architecture(file)
    sizes = _sizes(file, arch)
    config: dict[str, Any] = {
        **sizes,
        "max_position_embeddings": _positive(file, f"{arch}.context_length"),
        "rms_norm_eps": _above_zero(file, f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": _above_zero(file, f"{arch}.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, arch, sizes["head_dim"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
    }
    model_type = arch
    if arch == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
    elif sizes["head_dim"] * sizes["num_attention_heads"] != sizes["hidden_size"]:
        raise _disagree(file, "attention.key_length", sizes["head_dim"], "blk.0.attn_q.weight")
    if f"{arch}.attention.sliding_window" in file.metadata:
        config["sliding_window"] = _positive(file, f"{arch}.attention.sliding_window")
        if arch == "llama":
            model_type = "mistral"
        else:
            config |= {"use_sliding_window": True, "max_window_layers": 0}
    config |= {"model_type": model_type, "architectures": [CLASSES[model_type]]}
    return config | _token_ids(file)


def read_weights(
    file: GGUFFile, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the model's weights as float32, by their Hugging Face names, rotary layout restored.

    Args:
        file: The file.
        config: What ``read_config`` made of it.
        shapes: The parameters that the model has, each with its shape.

    Raises:
        ConversionError: before the first weight, if a tensor is missing, left over or of another
            shape; later, if one cannot be dequantised or is not finite.
    """
    arch = architecture(file)
    names = get_tensor_name_map(ARCHITECTURES[arch], config["num_hidden_layers"])
    stored = {name: names.get_name(name, (".weight", ".bias")) or name for name in shapes}
    _match(file, stored, shapes)
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    for name, gguf_name in stored.items():
        values = file.read(gguf_name)
        projection = name.split(".")[-2]
        if arch == "llama" and projection in heads:
            values = restore_rotary_layout(values, heads[projection])
        yield name, values


def restore_rotary_layout(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of a query or key projection.

    Args:
        rows: A weight (n_heads * head_dim, hidden) or bias (n_heads * head_dim,) whose heads
            have the rows 0, D/2, 1, D/2 + 1, ...
        n_heads: Heads in it.

    Returns:
        The same rows, in each head 0, 1, 2, ...
    """
    pairs = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _sizes(file: GGUFFile, arch: str) -> dict[str, int]:
    """Return the sizes that decide the shapes, each proven by a tensor of the first layer."""
    hidden = _positive(file, f"{arch}.embedding_length")
    n_layers = _positive(file, f"{arch}.block_count")
    inner = _positive(file, f"{arch}.feed_forward_length")
    n_heads = _positive(file, f"{arch}.attention.head_count")
    n_kv_heads = _positive(file, f"{arch}.attention.head_count_kv", n_heads)
    head_dim = _positive(file, f"{arch}.attention.key_length", hidden // n_heads)
    vocab = file.shape("token_embd.weight")[0]
    for key, value, name, rows in (
        ("embedding_length", hidden, "token_embd", vocab),
        ("feed_forward_length", inner, "blk.0.ffn_up", inner),
        ("attention.head_count", n_heads, "blk.0.attn_q", n_heads * head_dim),
        ("attention.head_count_kv", n_kv_heads, "blk.0.attn_k", n_kv_heads * head_dim),
    ):
        if file.shape(f"{name}.weight") != (rows, hidden):
            raise _disagree(file, key, value, f"{name}.weight")
    if n_layers > len(file.tensors):
        raise ConversionError(
            f"{file.path} claims {n_layers} layers but has only {len(file.tensors)} tensors."
        )
    if n_heads % n_kv_heads:
        raise ConversionError(
            f"{file.path}: {n_heads} attention heads cannot share {n_kv_heads} key/value heads."
        )
    rotated = file.get(f"{arch}.rope.dimension_count", int, head_dim)
    if rotated != head_dim:
        raise ConversionError(
            f"{file.path} rotates {rotated} of {head_dim} dimensions in each head; "
            "mlx-lm's model of this family rotates all or none."
        )
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
    }


def _positive(file: GGUFFile, key: str, default: int | None = None) -> int:
    """Return a positive size; one value a layer is accepted where all layers agree."""
    per_layer = file.metadata.get(key)
    if isinstance(per_layer, np.ndarray) and len(np.unique(per_layer)) == 1:
        value = int(per_layer[0])
    else:
        value = file.get(key, int, default)
    if value < 1:
        raise ConversionError(f"{file.path}: {key!r} is {value}, but must be at least 1.")
    return value


def _above_zero(file: GGUFFile, key: str, default: float | None = None) -> float:
    value = file.get(key, float, default)
    if not 0 < value < math.inf:
        raise ConversionError(f"{file.path}: {key!r} is {value}, but must be finite and above 0.")
    return value


def _rope_scaling(file: GGUFFile, arch: str, head_dim: int) -> dict[str, Any] | None:
    """Return Hugging Face's ``rope_scaling``, or None where positions are not scaled."""
    if ROPE_FREQS in file.tensors:
        factors = file.read(ROPE_FREQS)
        if not np.allclose(factors, 1):
            theta = _above_zero(file, f"{arch}.rope.freq_base", 10000.0)
            return _llama3_scaling(file, factors, head_dim, theta)
    kind = file.get(f"{arch}.rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ConversionError(
            f"{file.path} scales positions by {kind!r}. Supported: none, linear, yarn, and "
            "llama3 as rope_freqs.weight."
        )
    scaling: dict[str, Any] = {
        "rope_type": kind,
        "factor": _above_zero(file, f"{arch}.rope.scaling.factor"),
    }
    if kind == "yarn":
        original = _positive(file, f"{arch}.rope.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = original
    return scaling


def _llama3_scaling(
    file: GGUFFile, factors: np.ndarray, head_dim: int, theta: float
) -> dict[str, Any]:
    """Recover Llama 3's scaling from the factor of each frequency, and prove it by recomputing."""
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3_SCALING}
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ConversionError(
            f"{file.path}: the factors in {ROPE_FREQS} are not those of Llama 3.1 to 3.3. "
            "Convert the safetensors checkpoint of this model instead."
        )
    return scaling


def _token_ids(file: GGUFFile) -> dict[str, Any]:
    """Return the ids that begin, end and pad a text; several may end one (SPEC 3, end-of-turn)."""
    prefix = "tokenizer.ggml."
    ids = {
        name: file.get(f"{prefix}{name}_token_id", int)
        for name in ("bos", "eos", "eot", "eom", "padding")
        if f"{prefix}{name}_token_id" in file.metadata
    }
    ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    return {
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.get("padding"),
    }


def _match(file: GGUFFile, stored: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise unless the file holds exactly the model's tensors, in the model's shapes."""
    missing = sorted(set(stored.values()) - file.tensors.keys())
    if missing:
        raise ConversionError(f"{file.path} lacks {_listed(missing)}. Download it again.")
    extra = sorted(file.tensors.keys() - set(stored.values()) - {ROPE_FREQS})
    if extra:
        raise ConversionError(
            f"{file.path} holds {_listed(extra)}, which the model it describes has no place for."
        )
    for name, gguf_name in stored.items():
        if file.shape(gguf_name) != shapes[name]:
            raise ConversionError(
                f"{file.path}: tensor {gguf_name!r} has the shape {file.shape(gguf_name)}, but "
                f"its metadata asks for {shapes[name]}. The file contradicts itself."
            )


def _disagree(file: GGUFFile, key: str, value: int, name: str) -> ConversionError:
    return ConversionError(
        f"{file.path}: {key} is {value}, which does not fit tensor {name!r} of shape "
        f"{file.shape(name)}. The file contradicts itself."
    )


def _listed(names: Iterable[str], shown: int = 3) -> str:
    """Name the first few of many tensors."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} tensors ({', '.join(names[:shown])}{more})"
