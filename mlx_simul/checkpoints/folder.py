"""A checkpoint folder, looked at file by file: what it should hold, and what it does hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from mlx_simul.errors import ValidationError
from mlx_simul.loading import ModelClasses, load_folder, registered_classes

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")

_INDEX = "model.safetensors.index.json"

T = TypeVar("T")


class Progress(Protocol):
    """Passes items on while it shows how many are done."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]: ...


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors header says of one tensor."""

    file: Path
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parameters:
    """The shapes that the config asks for, and those that the loader found, by parameter name."""

    expected: dict[str, tuple[int, ...]]
    given: dict[str, tuple[int, ...]]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValidationError: if there is none.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValidationError(
            f"{path} is missing, so nothing says what model this is. Fetch the checkpoint again, "
            "or name the folder that holds config.json."
        ) from error
    except (OSError, ValueError) as error:
        raise ValidationError(f"{path} is not readable JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ValidationError(
            f"{path} holds a JSON {type(value).__name__} where an object belongs. Fetch it again."
        )
    return value


def refuse_pickle(path: Path) -> None:
    """Refuse a file that can run code when it is opened.

    Raises:
        ValidationError: if its name says that it is a pickle.
    """
    if path.suffix in PICKLES:
        raise ValidationError(
            f"{path} is a pickle, which can run code when it is opened and is never read. Use the "
            "model's safetensors; or, where you trust the file, transformers' "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes them."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        ValidationError: if there are none, or a shard that the index lists is missing.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        entries = sorted(folder.iterdir())
        for path in entries:
            refuse_pickle(path)
        gguf = next((path for path in entries if path.suffix == ".gguf"), None)
        raise ValidationError(
            f"{folder} holds no model*.safetensors. "
            + (f"Convert its GGUF file by name: {gguf}" if gguf else "Fetch the weights.")
        )
    missing = sorted({name for name in _index(folder).values() if not (folder / name).is_file()})
    if missing:
        raise ValidationError(
            f"{folder} lacks {', '.join(missing)}, which {_INDEX} lists, so part of the weights is "
            "missing. Fetch these files again."
        )
    return files


def read_headers(folder: Path, files: Iterable[Path]) -> dict[str, StoredTensor]:
    """What the files say they hold. A header that does not fit its file is found here.

    Raises:
        ValidationError: if a file is damaged or cut short, a tensor is in two files, or not in the
            one where the index puts it.
    """
    stored: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                names = tensors.keys()
                found = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            raise ValidationError(
                f"{path} is damaged or cut short ({error}). Fetch it again; an interrupted "
                "download is the usual cause."
            ) from error
        for name, shape in found.items():
            if name in stored:
                raise ValidationError(
                    f"{name} is both in {stored[name].file.name} and in {path.name}, so it is "
                    "chance which one is used. Remove the file that does not belong here."
                )
            stored[name] = StoredTensor(path, shape)
    for name, file in _index(folder).items():
        if name not in stored or stored[name].file.name != file:
            raise ValidationError(
                f"{_INDEX} says that {name} is in {file}, and it is not. The shards are of "
                "different versions, or one was renamed: fetch them together."
            )
    return stored


def read_parameters(folder: Path) -> Parameters:
    """Build the model that the config describes, as far as the moment before it gets its weights.

    All of mlx-lm's loader runs up to there: renaming, merging of shards, quantisation.

    Raises:
        ModelLoadError: if the config describes no model.
    """
    seen: dict[str, dict[str, tuple[int, ...]]] = {}

    def recording(config: dict[str, Any]) -> ModelClasses:
        model_class, args_class = registered_classes(config)

        class Recorder(model_class):
            def load_weights(self, file_or_weights: Any, strict: bool = True) -> nn.Module:
                seen["expected"] = _shapes(tree_flatten(self.parameters()))  # pyright: ignore
                seen["given"] = _shapes(file_or_weights)
                return self

        return Recorder, args_class

    load_folder(folder, lazy=True, get_model_classes=recording)
    return Parameters(**seen)


def check_layers(config: dict[str, Any], n_tensors: int) -> None:
    """Refuse a config that asks for more layers than there are tensors, before they are built.

    Raises:
        ValidationError: if it does.
    """
    for part in (config, config.get("text_config")):
        if not isinstance(part, dict) or "num_hidden_layers" not in part:
            continue
        layers = part["num_hidden_layers"]
        if not isinstance(layers, int) or not 0 < layers <= n_tensors:
            raise ValidationError(
                f"config.json asks for {layers!r} layers (num_hidden_layers), and the files hold "
                f"{n_tensors} tensors. The config belongs to another model: fetch both together."
            )


def check_shapes(parameters: Parameters) -> None:
    """Compare what the config asks for with what there is.

    Raises:
        ValidationError: naming the first parameter that is missing, superfluous or misshapen.
    """
    expected, given = parameters.expected, parameters.given
    for problem, names in (
        ("is missing from the files", expected.keys() - given.keys()),
        ("is in the files, but config.json leaves no place for it", given.keys() - expected.keys()),
    ):
        if names:
            first, more = min(names), f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValidationError(
                f"{first}{more} {problem}. Config and weights are of different models, or the "
                "checkpoint is incomplete: fetch both together."
            )
    for name, shape in expected.items():
        if given[name] != shape:
            raise ValidationError(
                f"{name} has the shape {given[name]}, and config.json makes it {shape}. Config and "
                "weights are of different models, or the config was edited: fetch both together."
            )


def check_tied_head(stored: dict[str, StoredTensor], given: dict[str, tuple[int, ...]]) -> None:
    """Refuse an output head that the config drops though it differs from the embeddings.

    Raises:
        ValidationError: if there is one.
    """
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if head not in stored or head in given or embedding not in stored:
        return
    weights, embeddings = (_load(stored[name].file)[name] for name in (head, embedding))
    if not mx.array_equal(weights, embeddings).item():
        raise ValidationError(
            f"config.json ties the output head to the embeddings (tie_word_embeddings), but {head} "
            f"differs from {embedding} and would be dropped. Set tie_word_embeddings to false."
        )


def check_values(stored: dict[str, StoredTensor], progress: Progress) -> int:
    """Look at every number.

    Returns:
        How many there are.

    Raises:
        ValidationError: naming the first tensor that holds NaN or infinity.
    """
    n_values = 0
    open_file, tensors = None, dict[str, mx.array]()
    for name, tensor in progress(
        sorted(stored.items(), key=lambda item: item[1].file), "Reading weights", len(stored)
    ):
        if tensor.file != open_file:
            open_file, tensors = tensor.file, _load(tensor.file)
        # Taken out, so that a large model need not fit into memory twice.
        values = tensors.pop(name)
        n_values += values.size
        if mx.issubdtype(values.dtype, mx.floating) and not mx.isfinite(values).all().item():
            n_bad = (~mx.isfinite(values)).sum().item()
            raise ValidationError(
                f"{name} in {tensor.file.name} holds {n_bad:,} values that are NaN or infinite, so "
                "every prediction would be. Fetch the file again; if the model was converted to "
                "float16, convert it to bfloat16 or float32 instead."
            )
    return n_values


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer.

    Raises:
        ValidationError: if there is none.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValidationError(
            f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}), so text cannot "
            "become tokens. Copy the tokenizer files of the model it was made from into it."
        )


def _index(folder: Path) -> dict[str, str]:
    """Tensor to file name, as the index says; empty where there is no index."""
    path = folder / _INDEX
    if not path.is_file():
        return {}
    listed = read_json(path).get("weight_map")
    names = listed.values() if isinstance(listed, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValidationError(
                f"{path} should map tensors to file names of this folder (weight_map), and has "
                f"{name!r}. Fetch it again."
            )
    return dict(listed or {})


def _load(path: Path) -> dict[str, mx.array]:
    return dict(mx.load(str(path)))  # pyright: ignore


def _shapes(tensors: Iterable[tuple[str, mx.array]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors}
