"""Options from a TOML file and from the command line, each value checked against its type."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlx_simul.errors import InvalidOptionError
from mlx_simul.training.options import TrainOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

WHOLE = "whole"
"""Stands for "wait for the whole source" in a file, where there is no ``None``."""


def read_config(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InvalidOptionError: if there is no such file, or it is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidOptionError(f"{path} is no configuration that can be read: {error}") from error


def set_option(tables: dict[str, Any], assignment: str) -> None:
    """Change one entry in place.

    Args:
        tables: as :func:`read_config` gives them.
        assignment: ``table.key=value``, the value as in TOML; what is no TOML is taken for a text.

    Raises:
        InvalidOptionError: if it has another form.
    """
    name, equals, text = assignment.partition("=")
    *path, key = name.strip().split(".")
    if not equals or not path or not key:
        raise InvalidOptionError(f"an option is set by table.key=value, got {assignment!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidOptionError(f"{part} in {name} is no table but {table!r}.")
    table[key] = value


def make_options(tables: Mapping[str, Any]) -> TrainOptions:
    """Options of a run.

    Args:
        tables: a table for each group of options: data, model, layout, batches, optimiser, run.

    Raises:
        InvalidOptionError: for an unknown or missing entry, or a value of another type or range.
    """
    return _make(TrainOptions, tables, "")


def as_tables(options: Any) -> dict[str, Any]:
    """Options as plain JSON, the way :func:`make_options` takes them."""
    made = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            made[item.name] = as_tables(value)
        elif isinstance(value, Mapping):
            made[item.name] = json.loads(json.dumps(dict(value)))
        elif isinstance(value, tuple):
            made[item.name] = [WHOLE if entry is None else entry for entry in value]
        elif value is not None:
            made[item.name] = value
    return made


def _make(kind: type, table: Mapping[str, Any], prefix: str) -> Any:
    known = {item.name: item for item in fields(kind)}
    if unknown := sorted(table.keys() - known.keys()):
        raise InvalidOptionError(
            f"unknown option {prefix}{unknown[0]}; known here are {', '.join(known)}."
        )
    hints = get_type_hints(kind)
    values = {}
    for name, item in known.items():
        has_default = not item.default is item.default_factory is MISSING
        if name not in table and has_default:
            continue
        if name not in table and not is_dataclass(hints[name]):
            raise InvalidOptionError(f"{prefix}{name} is missing; it has no default.")
        values[name] = _value(hints[name], table.get(name, {}), f"{prefix}{name}")
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InvalidOptionError(f"{name} must be a table of options, got {value!r}.")
        return _make(hint, value, f"{name}.")
    made, fits = _fitted(hint, value)
    if not fits:
        raise InvalidOptionError(f"{name} must be {_described(hint)}, got {value!r}.")
    return made


def _fitted(hint: Any, value: Any) -> tuple[Any, bool]:
    """The value as the type wants it, and whether it can be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value == WHOLE and type(None) in arguments:
            return None, True
        for argument in arguments:
            made, fits = _fitted(argument, value)
            if fits:
                return made, True
        return value, False
    if origin is Literal:
        return value, value in arguments
    if origin is tuple:
        return _fitted_tuple(arguments, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    kind = origin or hint
    is_bool_for_int = isinstance(value, bool) and kind is not bool
    return value, isinstance(value, kind) and not is_bool_for_int


def _fitted_tuple(arguments: Sequence[Any], value: Any) -> tuple[Any, bool]:
    if not isinstance(value, list | tuple):
        return value, False
    if arguments[-1] is Ellipsis:
        arguments = [arguments[0]] * len(value)
    made = [_fitted(argument, entry) for argument, entry in zip(arguments, value, strict=False)]
    fits = len(arguments) == len(value) and all(entry_fits for _, entry_fits in made)
    return tuple(entry for entry, _ in made), fits


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return f'"{WHOLE}"'
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of ({_described(arguments[0])})"
        return f"a list of {len(arguments)} ({_described(arguments[0])})"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "a table")
