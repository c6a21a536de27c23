"""Packages that only some commands need, and how to get them."""

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
    return require_from(f"'mlx-simul[{extra}]'", package, otherwise)


def require_from(requirement: str, package: str, otherwise: str) -> ModuleType:
    """Import a package that no extra brings, or say how to get it.

    Args:
        requirement: what pip is to install.
        package: to import.
        otherwise: how to do without it.

    Raises:
        InvalidOptionError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise InvalidOptionError(
            f"{package} is not installed: pip install {requirement}, or {otherwise}."
        ) from error
