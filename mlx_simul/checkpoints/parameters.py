"""What a model takes from a checkpoint's files, compared with what is in them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_simul.checkpoints.loading import (
    ModelClasses,
    explained_format,
    load_folder,
    registered_classes,
)
from mlx_simul.checkpoints.stored import UNQUANTISED, StoredTensor, load_tensors, tied_pair
from mlx_simul.errors import ValidationError

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
                f"{first}{more} {problem}. Config and weights belong to different models, or the "
                "checkpoint is incomplete: fetch both together."
            )
    for name, shape in expected.items():
        if given[name] != shape:
            raise ValidationError(
                f"{name} has the shape {given[name]}, but config.json makes it {shape}. Config and "
                "weights belong to different models, or the config was edited: fetch both together."
            )


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
        model_class: Any
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
                return model_class.sanitize(self, weights)

            Recorder.sanitize = sanitize  # pyright: ignore
        return Recorder, args_class

    load_folder(folder, lazy=True, get_model_classes=recording)
    del seen["build"]
    return Parameters(**seen)


def _unused(build: Callable[[], Any], weights: dict[str, mx.array]) -> list[str]:
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


def _signature(build: Callable[[], Any], weights: dict[str, mx.array]) -> Any:
    """Shape and type of each parameter; None where the model cannot do with these weights."""
    try:
        made = build().sanitize(dict(weights))
    except Exception:  # a model raises anything over a weight that it needs
        return None
    return {name: (value.shape, value.dtype) for name, value in made.items()}


_MAY_BE_UNUSED = re.compile(
    # What the model computes itself: frequencies, positions, GPT-2's mask.
    r"rotary_emb|inv_freq|position_ids|attn\.(masked_)?bias$|attention\.(masked_)?bias$"
    # The other senses of multimodal models.
    r"|vision|visual|patch|audio|image|multi_?modal|mm_|projector"
    # Heads that predict tokens further ahead.
    r"|mtp|nextn|eh_proj|enorm|hnorm|shared_head"
    # Scales of activations and caches in quantised formats; mlx-lm computes with full ones.
    r"|(input|output|weight|activation|k|v|q)_(scale|max|zero_point|shape)"
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
            f"{name} is in the files, but mlx-lm's model has no use for it and would drop it. "
            "Config and weights belong to different models, or config.json lacks an entry that "
            "says what it is for: fetch both together."
        )


def _are_equal(stored: dict[str, StoredTensor], first: str, second: str) -> bool:
    one, other = (load_tensors(stored[name].file)[name] for name in (first, second))
    return bool(mx.array_equal(one, other).item())


def _is_floating(value: mx.array) -> bool:
    return mx.issubdtype(value.dtype, mx.floating)


def _shapes(tensors: Iterable[tuple[str, mx.array]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors}
