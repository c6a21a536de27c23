"""How a field of an option group looks outside Python."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, flag: str = "", metavar: str = "", plain: Any = None) -> Any:
    """A field, and how it looks outside Python.

    Args:
        default: its only default, in the library as on the command line.
        flag: on the command line, where its name would not do.
        metavar: what stands for its value there.
        plain: the type of what files and the command line can say of it, where Python takes more.
    """
    return field(default=default, metadata={"flag": flag, "metavar": metavar, "plain": plain})


def python_only(default: Any = None) -> Any:
    """A field that only a Python program can fill."""
    return field(default=default, metadata={"python_only": True})
