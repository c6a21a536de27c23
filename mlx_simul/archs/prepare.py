"""A model that streams correctly: the caller's own, changed in place, or a copy over its arrays.

:func:`mlx_simul.load` builds models of classes that are right from the start. A model from
anywhere else, such as ``mlx_lm.load``, computes what mlx-lm computes, and in some families that is
not what its checkpoint was trained for (:mod:`mlx_simul.archs.rewrites`). A session makes a copy of
its modules, which shares the weights, puts that right, and leaves the caller's model as it is. What
cannot be put right is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, ref

import mlx.nn as nn
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from mlx_lm.utils import load_config

from mlx_simul import archs
from mlx_simul.archs.base import Architecture
from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.archs.surgery import Surgery, anatomy, copy_of, is_prepared, is_unchanged, undo
from mlx_simul.errors import InvalidOptionError, ModelLoadError

_logger = logging.getLogger(__name__)

_LOAD_IT = "Load it with `model, tokenizer = mlx_simul.load(...)`"

# A loader may fill these in when it quantises.
_NOT_COMPARED = {"quantization", "quantization_config"}


@dataclass(frozen=True)
class _Origin:
    """Where a copy comes from, and what it was made of."""

    model: ref[nn.Module]
    anatomy: list[Any]
    config: Mapping[str, Any] | None


_copies: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""The copy of a caller's model, by that model's id, for as long as a session holds the copy."""


def prepare(model: nn.Module, config: Mapping[str, Any] | None = None) -> None:
    """Correct, in place, a model that ``mlx_simul.load`` did not build.

    Sessions do this with a copy of their own. In place it is needed to train such a model, or to
    have a session see each later change of its weights.

    Args:
        model: from ``mlx_lm.load``, or built from mlx-lm's classes. Some of its modules change
            their class and settings; :func:`mlx_simul.archs.surgery.undo` changes them back.
        config: what its config.json holds, as ``mlx_lm.utils.load_config`` reads it. Only needed
            if mlx-lm's model does not keep all that matters; the error says so.

    Raises:
        InvalidOptionError: if it cannot be put right.
        UnknownArchitectureError: if its type is not registered.
    """
    _require_model(model)
    if not is_prepared(model):
        architecture, settings = _described(model, config)
        prepare_as(model, architecture, settings)


def prepare_as(model: nn.Module, architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Let a model stream as an architecture says, in place.

    Args:
        model: as mlx-lm builds it.
        architecture: of the model.
        config: in mlx-lm's words.

    Raises:
        InvalidOptionError: if a module is not mlx-lm's; then the model is as it was.
    """
    surgery = Surgery(model)
    try:
        architecture.operate(surgery, model, config)
    except BaseException:
        undo(model)
        raise


def prepared(model: nn.Module, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a stream runs: this one if it is prepared, else a prepared copy.

    A copy shares the model's arrays and is shared by all streams that run at the same time. It
    keeps the weights that it was made with: a stream that begins after the model has changed gets
    a new copy.

    Args:
        model: from anywhere; never changed.
        config: as for :func:`prepare`.

    Raises:
        InvalidOptionError: if it cannot be put right.
        UnknownArchitectureError: if its type is not registered.
    """
    _require_model(model)
    if is_prepared(model):
        return model
    copy = _copies.get(id(model))
    if copy is None or not _is_current(copy, model, config):
        architecture, settings = _described(model, config)
        copy = prepared_copy(model, architecture, settings)
        vars(copy)["_origin"] = _Origin(ref(model), anatomy(model), config)
        _copies[id(model)] = copy
        _mention_adapters(model)
    return copy


def prepared_copy(
    model: nn.Module, architecture: Architecture, config: Mapping[str, Any] | None = None
) -> nn.Module:
    """A copy of a model that streams as an architecture says; nothing remembers it.

    Args:
        model: is not changed; possibly prepared for another architecture.
        architecture: of the copy.
        config: in mlx-lm's words; what the model keeps of it by default.
    """
    copy = copy_of(model)
    prepare_as(copy, architecture, _kept(model) if config is None else config)
    return copy


def adopt(model: Any, tokenizer: Any) -> nn.Module:
    """:func:`prepared`, with the config.json that lies beside the tokenizer.

    It is only taken if it describes this model. No network is used.

    Args:
        model: from anywhere; never changed.
        tokenizer: transformers', or mlx-lm's wrapper.

    Raises:
        SimulError: as :func:`prepared` does.
    """
    _require_model(model)
    if is_prepared(model):
        return model
    config = _config_beside(tokenizer)
    fits = config is not None and not _differing(model, archs.of(model), config)
    if config is not None and not fits:
        _refuse_misread(model, archs.of(model), config)
    return prepared(model, config if fits else None)


def _require_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidOptionError(
            f"expected an mlx-lm model, got {type(model).__module__}.{type(model).__name__}. "
            f"{_LOAD_IT}, and pass both in this order."
        )


def _is_current(copy: nn.Module, model: nn.Module, config: Mapping[str, Any] | None) -> bool:
    origin: _Origin = vars(copy)["_origin"]
    return (
        origin.model() is model
        and config in (None, origin.config)
        and is_unchanged(model, origin.anatomy)
    )


def _described(
    model: Any, config: Mapping[str, Any] | None
) -> tuple[Architecture, Mapping[str, Any]]:
    """How a model streams, and its config in mlx-lm's words.

    Raises:
        InvalidOptionError: if it cannot be put right.
    """
    architecture = archs.of(model)
    _refuse_lost(model, architecture)
    if config is not None:
        _refuse_misread(model, architecture, config)
        if differing := _differing(model, architecture, config):
            name, is_, should_be = differing[0]
            raise InvalidOptionError(
                f"config belongs to another model: it says {name}={should_be!r}, and this "
                f"{architecture.model_type!r} model has {is_!r}."
            )
        return architecture, _translated(config)
    kept = _kept(model)
    missing = [name for repair in architecture.repairs for name in repair.reads if name not in kept]
    if missing:
        because = " ".join(repair.because for repair in architecture.repairs)
        raise InvalidOptionError(
            f"this {architecture.model_type!r} model was built by mlx-lm's own classes, which do "
            f"not keep {' and '.join(missing)} of config.json, so it cannot be put right: "
            f"{because} {_LOAD_IT}, or call mlx_simul.prepare(model, config) with what its "
            "config.json holds."
        )
    return architecture, kept


def _refuse_lost(model: Any, architecture: Architecture) -> None:
    if architecture.rewrite is not None and not isinstance(model, architecture.rewrite[0]):
        raise InvalidOptionError(
            f"model_type {architecture.model_type!r} streams with a class of its own, "
            f"{architecture.rewrite[0].__module__}.{architecture.rewrite[0].__name__}, and this "
            f"model is a {type(model).__module__}.{type(model).__name__}. {_LOAD_IT}."
        )
    for repair in architecture.repairs:
        is_ours = repair.weights is not None and isinstance(model, repair.weights)
        if repair.lost_because is not None and not is_ours:
            raise InvalidOptionError(
                f"this {architecture.model_type!r} model was loaded by mlx-lm's own classes and "
                f"cannot be put right any more: {repair.lost_because}. {_LOAD_IT}."
            )


def _refuse_misread(model: Any, architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Refuse a model that mlx-lm built from a config whose words it does not all know."""
    if not (wrong := _differing(model, architecture, config)):
        return
    own = _args_of(model)
    try:
        misread = not _unlike(own, _as_built(architecture, config, own))
    except Exception:  # a config that mlx-lm cannot read is not the one that it read
        return
    if misread:
        told = ", ".join(f"{name}={is_!r} in place of {right!r}" for name, is_, right in wrong)
        raise InvalidOptionError(
            f"mlx-lm misread the config.json of this {architecture.model_type!r} model, and built "
            f"it with {told}. {_LOAD_IT}."
        )


def _differing(
    model: Any, architecture: Architecture, config: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """In which arguments a model is not what a config describes: name, its value, the config's."""
    own, args_class = _args_of(model), architecture.stock_classes[1]
    if not isinstance(own, args_class):
        return [("model_type", type(own).__module__, args_class.__module__)]
    try:
        return _unlike(own, _as_built(architecture, _translated(config), own))
    except Exception as error:  # arguments of another model's config may raise anything
        return [("model_type", architecture.model_type, f"{config.get('model_type')} ({error})")]


def _as_built(architecture: Architecture, config: Mapping[str, Any], own: Any) -> Any:
    """The arguments of mlx-lm's model for a config."""
    model_class, args_class = architecture.stock_classes
    args = args_class.from_dict(deepcopy(dict(config)))
    if _unlike(own, args):
        # Some models write into their arguments while they are built. Nothing is computed here:
        # random weights that are not used are never drawn.
        args = _args_of(model_class(args))  # pyright: ignore[reportCallIssue]
    return args


def _unlike(own: Any, other: Any) -> list[tuple[str, Any, Any]]:
    names = [f.name for f in fields(own) if f.name not in _NOT_COMPARED]
    pairs = ((name, getattr(own, name), getattr(other, name)) for name in names)
    return [(name, is_, should_be) for name, is_, should_be in pairs if is_ != should_be]


def _translated(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **overrides_for_mlx_lm(config)}


def _kept(model: Any) -> Mapping[str, Any]:
    """What a model keeps of its config."""
    args = _args_of(model)
    if isinstance(args, Mapping):
        return args
    return getattr(args, "whole_config", None) or (vars(args) if args is not None else {})


def _args_of(model: Any) -> Any:
    found = getattr(model, "args", None)
    return getattr(model, "config", None) if found is None else found


def _config_beside(tokenizer: Any) -> Mapping[str, Any] | None:
    """The config.json in the folder, or in the local cache of the repository, of a tokenizer."""
    name = getattr(tokenizer, "name_or_path", None)
    if not name or not isinstance(name, str):
        return None
    path: Any = Path(name) / "config.json"
    if not path.is_file():
        try:
            path = try_to_load_from_cache(name, "config.json")
        except HFValidationError:  # a folder that is gone is not the name of a repository
            return None
    if not isinstance(path, str | Path):
        return None
    try:
        found: Any = load_config(Path(path).parent)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}, beside the tokenizer, cannot be read: {error}") from error
    return found if isinstance(found, Mapping) else None


def _mention_adapters(model: nn.Module) -> None:
    if any(type(module).__name__.startswith(("LoRA", "DoRA")) for module in model.modules()):
        _logger.warning(
            "this model has adapters, and what their adapter_config.json says about streaming is "
            "not known here; mlx_simul.load(..., adapter_path=...) reads it."
        )
