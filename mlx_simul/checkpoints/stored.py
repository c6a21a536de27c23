"""The tensors of a checkpoint as its files store them, told from their headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from safetensors import safe_open

from mlx_simul.errors import ModelLoadError

_WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")

_READ_BY_MLX_LM = (
    *("awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "mxfp8"),
)
"""Quantised formats of other libraries for which mlx-lm has code, for some families at least."""

UNQUANTISED = (
    "Begin from the full weights in bfloat16, float16 or float32 (most authors publish them beside "
    "the quantised ones), and quantise them with `mlx-simul convert --quantize`."
)


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors header says of one tensor; ``dtype`` is the format's own name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises:
        SafetensorError: if the header does not fit the file.
        OSError: if the file cannot be read.
    """
    with safe_open(path, framework="numpy") as tensors:
        names = tensors.keys()  # the file itself cannot be iterated over
        slices = {name: tensors.get_slice(name) for name in names}
        return {
            name: StoredTensor(path, tuple(part.get_shape()), part.get_dtype())
            for name, part in slices.items()
        }


def weight_paths(folder: Path) -> list[Path]:
    """The files from which mlx-lm takes the weights."""
    return sorted(folder.glob("model*.safetensors"))


def refuse_unreadable_formats(
    stored: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> None:
    """Refuse numbers that cannot be weights, and quantised formats that mlx-lm does not know.

    MLX loads 8-bit floating point as unsigned integers, and integers as they are; without a scale
    a model would compute with these.

    Raises:
        ModelLoadError: naming the first such tensor, or the format.
    """
    method = foreign_format(config)
    if method is not None and method not in _READ_BY_MLX_LM:
        raise ModelLoadError(
            f"config.json says that the weights are quantised by {method!r} "
            f"(quantization_config), which mlx-lm cannot read. {UNQUANTISED}"
        )
    is_quantised = method is not None or "quantization" in config
    scaled = _owners_of_scales(stored)
    for name, tensor in sorted(stored.items()):
        is_8_bit_float = tensor.dtype.startswith("F") and tensor.dtype not in _WEIGHT_TYPES
        is_integer = not tensor.dtype.startswith(("F", "BF"))
        is_weight = is_8_bit_float or (is_integer and name.endswith(".weight") and not is_quantised)
        if is_weight and "scale" not in name and name.removesuffix(".weight") not in scaled:
            raise ModelLoadError(
                f"{name} in {tensor.file.name} is stored as {tensor.dtype}, and no scale in the "
                f"files belongs to it, so its numbers cannot be used as weights. {UNQUANTISED}"
            )


def foreign_format(config: Mapping[str, Any]) -> str | None:
    """Who quantised the weights, where it was not MLX."""
    if "quantization" in config:
        return None
    parts = (config, config.get("text_config") or {})
    found = next(
        (part["quantization_config"] for part in parts if "quantization_config" in part), {}
    )
    return (found or {}).get("quant_method")


def load_tensors(path: Path) -> dict[str, mx.array]:
    """The tensors of a file by name, which stay on disk until they are computed with."""
    return dict(mx.load(str(path)))  # pyright: ignore


def tied_pair(stored: Mapping[str, StoredTensor]) -> tuple[str, str] | None:
    """The output head and the embeddings that it can be tied to, where the files hold both."""
    heads = [name for name in stored if f".{name}".endswith(".lm_head.weight")]
    embeddings = [name for name in stored if f".{name}".endswith(_EMBEDDINGS)]
    if len(heads) != 1 or len(embeddings) != 1:
        return None
    head, embedding = stored[heads[0]], stored[embeddings[0]]
    return (heads[0], embeddings[0]) if head.shape == embedding.shape else None


_EMBEDDINGS = tuple(
    f".{name}.weight"
    for name in ("embed_tokens", "tok_embeddings", "word_embeddings", "wte", "embed_in")
)


def _owners_of_scales(names: Iterable[str]) -> set[str]:
    """Names of tensors, without ``.weight``, that a scale stands beside."""
    return {
        name[: name.index(mark)].removesuffix(".weight")
        for name in names
        for mark in ("_scale", ".scale", ".SCB", ".absmax")
        if mark in name
    }
