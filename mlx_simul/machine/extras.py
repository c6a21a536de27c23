"""Packages that only some commands need, and the extras that bring them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from mlx_simul.errors import InvalidOptionError


def require(package: str, extra: str, otherwise: str) -> ModuleType:
    """Import a package, or say how to get it.

    Args:
        package: to import.
        extra: of this package's own that brings it.
        otherwise: how to do without it.

    Raises:
        InvalidOptionError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise InvalidOptionError(
            f"{package} is not installed: pip install 'mlx-simul[{extra}]', or {otherwise}."
        ) from error
