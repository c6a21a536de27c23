"""What a name stands for: ``"module:object"`` places of our own, and of other packages.

Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mlx_simul.errors import InvalidOptionError


def with_plug_ins(what: str, own: Mapping[str, str], group: str) -> dict[str, str]:
    """All places by name.

    Args:
        what: they are, for errors.
        own: our places.
        group: of the entry points by which other packages add theirs.

    Raises:
        InvalidOptionError: if a name is in both.
    """
    added = _plug_ins(group)
    if twice := own.keys() & added.keys():
        raise InvalidOptionError(
            f"{what} {', '.join(sorted(twice))} is registered here and by an installed plug-in; "
            "uninstall one of them."
        )
    return {**own, **added}


def imported(place: str) -> Any:
    """What lies in a place."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@cache
def _plug_ins(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}
