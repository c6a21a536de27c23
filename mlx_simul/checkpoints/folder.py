"""A checkpoint folder, looked at file by file: what it should hold, and what it does hold."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError

from mlx_simul.errors import ValidationError
from mlx_simul.loading import ModelClasses, explained_format, load_folder, registered_classes
from mlx_simul.stored import UNQUANTISED, StoredTensor, read_header, tied_pair, weight_paths
from mlx_simul.tokenizer_files import TOKENIZER_FILES

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_INDEX = "model.safetensors.index.json"

T = TypeVar("T")


class Progress(Protocol):
    """Passes items on while it shows how many are done."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]: ...


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Parameters:
    """What a model takes from a checkpoint.

    Attributes:
        expected: the shapes that the config asks for, by parameter name.
        given: those that the loader found.
        integers: parameters that should be floating-point numbers and are given as others.
        unused: names of stored tensors from which no parameter is made, one for each kind of layer.
    """

    expected: Shapes
    given: Shapes
    integers: list[str]
    unused: list[str]


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
    files = weight_paths(folder)
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
            found = read_header(path)
        except (SafetensorError, OSError) as error:
            raise ValidationError(
                f"{path} is damaged or cut short ({error}). Fetch it again; an interrupted "
                "download is the usual cause."
            ) from error
        for name in found:
            if name in stored:
                raise ValidationError(
                    f"{name} is both in {stored[name].file.name} and in {path.name}, so it is "
                    "chance which one is used. Remove the file that does not belong here."
                )
        stored |= found
    for name, file in _index(folder).items():
        if name not in stored or stored[name].file.name != file:
            raise ValidationError(
                f"{_INDEX} says that {name} is in {file}, and it is not. The shards are of "
                "different versions, or one was renamed: fetch them together."
            )
    return stored


def read_parameters(
    folder: Path, get_model_classes: Callable[[dict[str, Any]], ModelClasses] = registered_classes
) -> Parameters:
    """Build the model that the config describes, as far as the moment before it gets its weights.

    All of mlx-lm's loader runs up to there: renaming, merging of shards, quantisation.

    Raises:
        ModelLoadError: if the config describes no model, or the weights are not numbers that mlx-lm
            can read.
    """
    seen: dict[str, Any] = {"unused": []}

    def recording(config: dict[str, Any]) -> ModelClasses:
        model_class, args_class = get_model_classes(config)

        class Recorder(model_class):
            def __init__(self, args: Any) -> None:
                seen["build"] = lambda: model_class(copy.deepcopy(args))
                super().__init__(args)

            def load_weights(self, file_or_weights: Any, strict: bool = True) -> nn.Module:
                own: dict[str, mx.array] = dict(tree_flatten(self.parameters()))  # pyright: ignore
                seen["expected"] = _shapes(own.items())
                seen["given"] = _shapes(file_or_weights)
                floats = {name for name, value in own.items() if _is_floating(value)}
                seen["integers"] = [
                    name
                    for name, value in file_or_weights
                    if name in floats and not _is_floating(value)
                ]
                return self

        if hasattr(model_class, "sanitize"):

            def sanitize(self: Any, weights: dict[str, mx.array]) -> dict[str, mx.array]:
                seen["unused"] = _unused(seen["build"], weights)
                return super(Recorder, self).sanitize(weights)

            Recorder.sanitize = sanitize
        return Recorder, args_class

    load_folder(folder, lazy=True, get_model_classes=recording)
    del seen["build"]
    return Parameters(**seen)


def _unused(build: Callable[[], nn.Module], weights: dict[str, mx.array]) -> list[str]:
    """Names of weights that leave no trace in what a model makes of all of them.

    Two traces are looked for, in names, shapes and types alone, so that nothing is computed: what
    is missing without the weight, and what becomes complex when the weight does (where a model
    puts something else in the place of a missing weight). Weights that differ only in the number
    of their layer or expert are tried together.

    Args:
        build: Makes a fresh model, since renaming may change one.
        weights: As they are in the files.
    """
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    whole = _signature(build, weights)
    return [
        min(names)
        for names in kinds.values()
        if all(_signature(build, changed) == whole for changed in _changed(weights, names))
    ]


def _changed(weights: dict[str, mx.array], names: list[str]) -> Iterator[dict[str, mx.array]]:
    """The weights without some of them, and with these made complex."""
    yield {name: weight for name, weight in weights.items() if name not in set(names)}
    yield {**weights, **{name: weights[name].astype(mx.complex64) for name in names}}


def _signature(build: Callable[[], nn.Module], weights: dict[str, mx.array]) -> Any:
    """Shape and type of each parameter; None where the model cannot do with these weights."""
    try:
        made = build().sanitize(dict(weights))
    except Exception:  # a model raises anything over a weight that it needs
        return None
    return {name: (value.shape, value.dtype) for name, value in made.items()}


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


def check_parameters(
    folder: Path,
    config: dict[str, Any],
    stored: dict[str, StoredTensor],
    get_model_classes: Callable[[dict[str, Any]], ModelClasses] = registered_classes,
) -> Parameters:
    """Compare what the config asks for with what is in the files, as the loader reads both.

    Raises:
        ValidationError: if they do not fit each other.
        ModelLoadError: if the config describes no model, or the numbers cannot be weights.
    """
    parameters = read_parameters(folder, get_model_classes)
    with explained_format(config):
        check_shapes(parameters)
        check_unused(parameters, stored)
    if parameters.integers:
        name = min(parameters.integers)
        raise ValidationError(
            f"{name} would be integers once it is loaded, and no scale belongs to it, so its "
            f"numbers cannot be used as weights. {UNQUANTISED}"
        )
    return parameters


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


_MAY_BE_UNUSED = re.compile(
    r"rotary_emb|inv_freq|position_ids|attn\.(masked_)?bias$|attention\.(masked_)?bias$"  # computed
    r"|vision|visual|patch|audio|image|multi_?modal|mm_|embed_(vision|audio)|projector"  # other senses
    r"|mtp|nextn|eh_proj|enorm|hnorm|shared_head"  # heads that predict tokens further ahead
    r"|(input|output|weight|activation|k|v|q)_(scale|max|zero_point|shape)|k_scale|v_scale"
)
"""Tensors that a language model can do without."""


def check_unused(parameters: Parameters, stored: dict[str, StoredTensor]) -> None:
    """Refuse weights in the files that the model would drop without a word.

    Raises:
        ValidationError: naming the first of them.
    """
    pair = tied_pair(stored)
    for name in sorted(parameters.unused):
        if _MAY_BE_UNUSED.search(name):
            continue
        if pair is not None and name == pair[0] and _are_equal(stored, *pair):
            continue
        raise ValidationError(
            f"{name} is in the files, but mlx-lm's model makes nothing of it and would drop it. "
            "Config and weights are of different models, or config.json lacks an entry that says "
            "what it is for: fetch both together."
        )


def _are_equal(stored: dict[str, StoredTensor], first: str, second: str) -> bool:
    one, other = (_load(stored[name].file)[name] for name in (first, second))
    return bool(mx.array_equal(one, other).item())


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


def _is_floating(value: mx.array) -> bool:
    return mx.issubdtype(value.dtype, mx.floating)


def _shapes(tensors: Iterable[tuple[str, mx.array]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors}
