"""A model on its way from one format to another: read, checked, cast, quantised, saved."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf.constants import GGMLQuantizationType
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import quantize_model, save_config, save_model
from transformers import PreTrainedTokenizerBase

from mlx_simul import archs
from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.checkpoints import folder as contents
from mlx_simul.checkpoints.folder import Progress
from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_blocks import BITS, GROUP_SIZE, read_blocks
from mlx_simul.checkpoints.gguf_config import read_config
from mlx_simul.checkpoints.gguf_model import Stored, locate_weights, read_weights
from mlx_simul.checkpoints.gguf_split import open_gguf
from mlx_simul.checkpoints.gguf_tokenizer import read_tokenizer
from mlx_simul.checkpoints.loading import (
    load_folder,
    registered_classes,
    stock_classes,
)
from mlx_simul.checkpoints.parameters import check_parameters
from mlx_simul.checkpoints.stored import refuse_unreadable_formats
from mlx_simul.checkpoints.tokenizer_files import read_tokenizer as read_folder_tokenizer
from mlx_simul.errors import ConversionError, ModelLoadError, ValidationError

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A model with its weights, its Hugging Face config and its tokenizer."""

    model: nn.Module
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase


def read_folder(folder: Path, dtype: str | None, progress: Progress) -> Checkpoint:
    """Read a Hugging Face or MLX folder of safetensors; weights stay on disk until needed.

    Args:
        folder: config.json, model*.safetensors and a tokenizer.
        dtype: What to cast the weights to; None leaves them.
        progress: Shows which weights have been checked.

    Raises:
        ConversionError: if something is missing, damaged, contradictory, or not finite in
            ``dtype``; or if the weights are pickles, which are never opened.
    """
    with _conversion_errors():
        files = contents.weight_files(folder)
        stored = contents.read_headers(folder, files)
        n_tensors = len(stored)
        stored_config = contents.read_json(folder / "config.json")
        contents.check_layers(stored_config, n_tensors)
        refuse_unreadable_formats(stored, stored_config)
        contents.check_tokenizer_files(folder)
    tokenizer = _folder_tokenizer(folder, stored_config)
    for path, name, weight in progress(_stored_weights(files), "Checking", n_tensors):
        if mx.issubdtype(weight.dtype, mx.floating):
            _refuse_infinite(path, name, weight.astype(DTYPES[dtype]) if dtype else weight, dtype)
    streams = archs.is_registered(str(stored_config.get("model_type")))
    get_classes = registered_classes if streams else stock_classes
    with _conversion_errors():
        check_parameters(folder, stored_config, stored, get_classes)
        model, config = load_folder(folder, lazy=True, get_model_classes=get_classes)
    if dtype is not None:
        _cast(model, DTYPES[dtype])
        config.pop("dtype", None)
        config["torch_dtype"] = dtype
    return Checkpoint(model, config, tokenizer)


def read_gguf(
    path: Path, dtype: str | None, progress: Progress, keep_quantized: bool = False
) -> Checkpoint:
    """Read a GGUF file of one of the families of ``gguf_families``.

    Args:
        path: The file; of one in pieces, any piece.
        dtype: What to cast the weights to; None keeps the type most of them are stored in, and
            takes float16 for quantised ones, whose scales have that type.
        progress: Shows which weights have been read.
        keep_quantized: Leave the weights of Q4_0, Q4_1 and Q8_0 as they are stored, number by
            number, in MLX's quantised layers.

    Raises:
        ConversionError: if it cannot be read, its weights are not finite in ``dtype``, or none of
            them, or not in ``dtype``, can be kept as they are stored.
    """
    file = open_gguf(path)
    config = read_config(file)
    tokenizer = read_tokenizer(file)
    dtype = dtype or _stored_dtype(file)
    model = _fresh_model(config)
    shapes = {name: value.shape for name, value in _parameters(model)}
    kept = _keep_quantized(file, config, model, shapes, dtype) if keep_quantized else {}
    weights = []
    dense = read_weights(file, config, shapes, kept)
    for name, values in progress(dense, "Reading", len(shapes) - len(kept)):
        weights.append((name, _finite(path, name, values, dtype)))
    for name, stored in progress(kept.items(), "Keeping", len(kept)):
        affine = read_blocks(file, stored)
        layer = name.removesuffix(".weight")
        weights += [
            (name, mx.array(affine.weight)),
            (f"{layer}.scales", _finite(path, f"{layer}.scales", affine.scales, dtype)),
            (f"{layer}.biases", _finite(path, f"{layer}.biases", affine.biases, dtype)),
        ]
    model.load_weights(weights)
    config["torch_dtype"] = dtype
    return Checkpoint(model, config, tokenizer)


def quantise(checkpoint: Checkpoint, bits: int, group_size: int, progress: Progress) -> Checkpoint:
    """Quantise the model, in place, as mlx-lm does.

    Args:
        checkpoint: An unquantised model.
        bits: Bits per weight.
        group_size: Weights that share a scale.
        progress: Shows which weights are done.

    Raises:
        ConversionError: if it is quantised already, or no layer can be.
    """
    if {"quantization", "quantization_config"} & checkpoint.config.keys():
        raise ConversionError(
            "These weights are quantised already, and quantising them again would only lose "
            "accuracy. Leave out --quantize, or begin from the full weights."
        )
    with contextlib.redirect_stdout(io.StringIO()):  # mlx-lm prints where results may be read
        model, config = quantize_model(checkpoint.model, checkpoint.config, group_size, bits)
    parameters = _parameters(model)
    if not any(name.endswith(".scales") for name, _ in parameters):
        raise ConversionError(
            f"No layer's input size is a multiple of the group size {group_size}, so nothing "
            "would be quantised. Use a smaller --q-group-size."
        )
    for _, parameter in progress(parameters, "Quantising", len(parameters)):
        mx.eval(parameter)
    return Checkpoint(model, config, checkpoint.tokenizer)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write an MLX folder. The model gives its weights away in the process."""
    save_model(folder, checkpoint.model, donate_model=True)
    save_config(dict(checkpoint.config), folder / "config.json")
    checkpoint.tokenizer.save_pretrained(folder)
    with _conversion_errors():
        contents.check_tokenizer_files(folder)


def copy_generation_config(source: Path, folder: Path) -> None:
    """Keep the author's sampling defaults and end tokens, where there are any."""
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", folder / "generation_config.json")


def refuse_pickle(path: Path) -> None:
    """Raise if ``path`` is a pickle: opening one runs whatever code it contains.

    Raises:
        ConversionError: if its name says that it is.
    """
    with _conversion_errors():
        contents.refuse_pickle(path)


@contextlib.contextmanager
def _conversion_errors() -> Iterator[None]:
    """What makes a folder invalid makes its conversion fail."""
    try:
        yield
    except (ValidationError, ModelLoadError) as error:
        raise ConversionError(str(error)) from error


def _stored_weights(files: list[Path]) -> Iterator[tuple[Path, str, mx.array]]:
    """Yield each weight and let go of it, so that a large model need not fit into memory."""
    for path in files:
        weights: dict[str, mx.array] = dict(mx.load(str(path)))  # pyright: ignore
        while weights:
            name, weight = weights.popitem()
            yield path, name, weight


def _refuse_infinite(path: Path, name: str, weight: mx.array, dtype: str | None) -> None:
    if not mx.isfinite(weight).all().item():
        raise ConversionError(
            f"{path}: {name!r} holds NaN or infinite weights"
            + (f" in {dtype}. Try another --dtype; if" if dtype else ". If")
            + " the file itself is damaged, download it again."
        )


def _parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    return tree_flatten(model.parameters())  # pyright: ignore


def _cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """Cast the floating-point weights, but for those that mlx-lm's model wants left alone."""
    keep = getattr(model, "cast_predicate", lambda _: True)

    def cast(name: str, value: mx.array) -> mx.array:
        floating = mx.issubdtype(value.dtype, mx.floating)
        return value.astype(dtype) if floating and keep(name) else value

    model.update(tree_map_with_path(cast, model.parameters()))  # pyright: ignore


def _folder_tokenizer(folder: Path, config: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    try:
        # mlx-lm's wrapper is for use, not for writing.
        return read_folder_tokenizer(folder, config)._tokenizer
    except Exception as error:  # transformers has no error of its own for a damaged tokenizer
        raise ConversionError(
            f"{folder}: its tokenizer, or the config.json that names it, cannot be read: {error}"
        ) from error


def _stored_dtype(file: GGUFFile) -> str:
    n_bytes: Counter[GGMLQuantizationType] = Counter()
    for tensor in file.tensors.values():
        n_bytes[tensor.type] += tensor.n_bytes
    most = n_bytes.most_common(1)[0][0]
    exact = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.BF16: "bfloat16"}
    return exact.get(most, "float16")


def _finite(path: Path, name: str, values: np.ndarray, dtype: str) -> mx.array:
    weight = mx.array(np.ascontiguousarray(values)).astype(DTYPES[dtype])
    _refuse_infinite(path, name, weight, dtype)
    return weight


def _keep_quantized(
    file: GGUFFile,
    config: dict[str, Any],
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
) -> dict[str, Stored]:
    """Make layers quantised whose weights can be kept; say so in the config.

    Returns:
        Where the weights of these layers lie, by name.
    """
    if dtype == "bfloat16":
        raise ConversionError(
            f"{file.path}: bfloat16 cannot hold the float16 scales of quantised weights without "
            "loss. Use --dtype float16 or float32."
        )
    modules = dict(model.named_modules())
    kept = {
        name: stored
        for name, stored in locate_weights(file, config, shapes).items()
        if file.tensors[stored.tensor].type in BITS
        and hasattr(modules.get(name.removesuffix(".weight")), "to_quantized")
    }
    if not kept:
        raise ConversionError(
            f"{file.path} holds no layer of type {', '.join(kind.name for kind in BITS)}, so none "
            "can be kept as it is. Leave out --keep-quantized."
        )
    formats = {
        name.removesuffix(".weight"): {
            "group_size": GROUP_SIZE,
            "bits": BITS[file.tensors[stored.tensor].type],
            "mode": "affine",
        }
        for name, stored in kept.items()
    }
    nn.quantize(model, class_predicate=lambda path, _: formats.get(path, False))
    usual = Counter(one["bits"] for one in formats.values()).most_common(1)[0][0]
    config["quantization"] = {
        "group_size": GROUP_SIZE,
        "bits": usual,
        "mode": "affine",
        **{path: one for path, one in formats.items() if one["bits"] != usual},
    }
    config["quantization_config"] = config["quantization"]
    return kept


def _fresh_model(config: Mapping[str, Any]) -> nn.Module:
    """Return the model of a config, as mlx-lm's loader has it before it gets its weights."""
    classes: Any = registered_classes(dict(config))  # mlx-lm's, which have no types
    model_class, args_class = classes
    model = model_class(args_class.from_dict({**config, **overrides_for_mlx_lm(config)}))
    if config["tie_word_embeddings"] and hasattr(model, "sanitize"):  # as mlx-lm's loader asks
        # Some models learn only from the weights that there is not a head.
        given = dict(_parameters(model))
        given.pop("lm_head.weight", None)
        model.sanitize(given)
    return model
