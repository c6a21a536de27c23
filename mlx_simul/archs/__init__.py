"""The registry: ``model_type`` -> how that family streams.

Entries are lazy ``"module:name"`` strings. Other packages add theirs through the entry point group
``mlx_simul.archs``, whose names are model types and whose values are of the same form.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from mlx_simul.errors import InvalidOptionError, UnknownArchitectureError

if TYPE_CHECKING:
    from mlx_simul.archs.base import Architecture

ENTRY_POINT_GROUP = "mlx_simul.archs"

_registry = {
    "llama": "mlx_simul.archs.llama:LLAMA",
    "mistral": "mlx_simul.archs.mistral:MISTRAL",
    "qwen2": "mlx_simul.archs.qwen2:QWEN2",
}


def register(model_type: str, target: str) -> None:
    """Add a family.

    Args:
        model_type: the config's ``model_type``.
        target: ``"module:name"`` of its :class:`~mlx_simul.archs.base.Architecture`.

    Raises:
        InvalidOptionError: if the type is registered already, or ``target`` has another form.
    """
    known = _known()
    if model_type in known:
        raise InvalidOptionError(
            f"model_type {model_type!r} is registered already, as {known[model_type]}; "
            "two rewrites of one family cannot both be right."
        )
    if target.count(":") != 1:
        raise InvalidOptionError(f"an architecture is named 'module:name', got {target!r}.")
    _registry[model_type] = target


def registered_types() -> list[str]:
    """All registered model types, plug-ins included, sorted."""
    return sorted(_known())


def remapped_types() -> dict[str, str]:
    """Types that mlx-lm runs as a registered one, by its own table."""
    import mlx_simul.before_mlx

    from mlx_lm.utils import MODEL_REMAPPING

    known = _known()
    return {
        alias: model_type
        for alias, model_type in sorted(MODEL_REMAPPING.items())
        if model_type in known and alias not in known
    }


def find(model_type: str) -> Architecture:
    """The architecture of a ``model_type``, or of the type that mlx-lm maps it onto.

    Raises:
        UnknownArchitectureError: if it is not registered.
    """
    known = _known()
    target = known.get(model_type) or known.get(remapped_types().get(model_type, ""))
    if target is None:
        raise UnknownArchitectureError(
            f"model_type {model_type!r} has no streaming architecture. Known: "
            f"{', '.join([*known, *remapped_types()])}. To add one, declare an Architecture "
            "(CONTRIBUTING.md, 'Add an architecture') and register it with "
            f"mlx_simul.archs.register or the entry point group {ENTRY_POINT_GROUP!r}."
        )
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _known() -> dict[str, str]:
    plug_ins = _plug_ins()
    twice = plug_ins.keys() & _registry.keys()
    if twice:
        raise InvalidOptionError(
            f"model_type {', '.join(sorted(twice))} is registered here and by an installed "
            "plug-in; uninstall one of them."
        )
    return _registry | plug_ins


@cache
def _plug_ins() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
