"""Dataclasses of options from TOML, JSON and texts, each value checked against its field's type.

A field's metadata may say ``plain`` (the type of what a file can say, where Python takes more),
``python_only`` (a file cannot say it), ``flag`` and ``metavar`` (how a command line spells it).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mlx_simul.errors import InvalidOptionError

NONE = "none"
"""Stands for ``None`` in a file or on a command line."""

_Options = TypeVar("_Options")
_ROLE = re.compile(r":\w+:`~?([^`]*)`")  # as in :mod:`mlx_simul.options`
_ENTRY = re.compile(r"^ {4,8}(\w+): ", re.MULTILINE)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InvalidOptionError: if there is no such file, or it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidOptionError(f"the configuration {path} cannot be read: {error}.") from error


def set_option(tables: dict[str, Any], assignment: str) -> None:
    """Change one entry in place.

    Args:
        tables: as :func:`read_toml` gives them.
        assignment: ``table.key=value``, or ``key=value``; the value as in TOML, and a text if it is
            not TOML.

    Raises:
        InvalidOptionError: if it has another form.
    """
    name, equals, text = assignment.partition("=")
    *path, key = name.strip().split(".")
    if not equals or not all(path) or not key:
        raise InvalidOptionError(f"an option is set by table.key=value, got {assignment!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidOptionError(f"{part} in {name} is not a table but {table!r}.")
    table[key] = value


def make(kind: type[_Options], table: Mapping[str, Any], *, none: str = NONE) -> _Options:
    """Options from plain values.

    Args:
        kind: a dataclass, whose fields may be dataclasses too.
        table: a value for each field, a table for each dataclass; defaults stand for the rest.
        none: how the table spells None.

    Raises:
        InvalidOptionError: for an unknown or missing entry, or a value of another type or range.
    """
    return _make(kind, table, "", none)


def as_table(options: Any, *, none: str = NONE) -> dict[str, Any]:
    """Options as plain JSON, the way :func:`make` takes them, without what only Python can
    express."""
    made = {}
    for item in plain_fields(type(options)):
        value = getattr(options, item.name)
        if is_dataclass(value):
            made[item.name] = as_table(value, none=none)
        elif isinstance(value, Mapping):
            made[item.name] = json.loads(json.dumps(dict(value)))
        elif isinstance(value, tuple):
            made[item.name] = [none if entry is None else entry for entry in value]
        elif value is not None:
            made[item.name] = value
        elif item.default is not None:
            made[item.name] = none
    return made


def plain_fields(kind: type) -> list[Field[Any]]:
    """The fields of a dataclass that a file can say."""
    return [item for item in fields(kind) if not item.metadata.get("python_only")]


def flat_fields(kind: type) -> dict[str, str]:
    """The group of each option, of a dataclass whose fields are groups of options."""
    return {
        item.name: group.name
        for group in plain_fields(kind)
        for item in plain_fields(type_of(kind, group))
    }


def type_of(kind: type, item: Field[Any]) -> Any:
    """The type of a field, as a file can say it."""
    if (plain := item.metadata.get("plain")) is not None:
        return plain
    if not isinstance(item.type, str):
        return item.type
    # One by one, since the types of other fields may be known to type checkers only.
    return eval(item.type, vars(sys.modules[kind.__module__]))


def flag_of(item: Field[Any]) -> str:
    """How a command line spells a field."""
    return item.metadata.get("flag") or f"--{item.name.replace('_', '-')}"


def help_of(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each field, in one line."""
    text = inspect.getdoc(kind) or ""
    _, _, entries = text.partition("Attributes:\n")
    entries, _, _ = entries.partition("\nRaises:")
    starts = list(_ENTRY.finditer(entries))
    ends = [match.start() for match in starts[1:]] + [len(entries)]
    return {
        match[1]: _without_markup(" ".join(entries[match.end() : end].split()).rstrip("."))
        for match, end in zip(starts, ends, strict=True)
    }


def _without_markup(text: str) -> str:
    return _ROLE.sub(r"\1", text).replace("``", "")


def summary_of(kind: type) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")


def value_of(kind: type, item: Field[Any], value: Any, name: str, *, none: str = NONE) -> Any:
    """A plain value as a field wants it.

    Raises:
        InvalidOptionError: if it is of another type.
    """
    hint = type_of(kind, item)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InvalidOptionError(f"{name} must be a table of options, got {value!r}.")
        return _make(hint, value, f"{name}.", none)
    made, fits = _fitted(hint, value, none)
    if not fits:
        raise InvalidOptionError(f"{name} must be {described(hint, none=none)}, got {value!r}.")
    return made


def described(hint: Any, *, none: str = NONE) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return f'"{none}"'
    if origin in (Union, types.UnionType):
        return " or ".join(described(argument, none=none) for argument in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of ({described(arguments[0], none=none)})"
        return f"a list of {len(arguments)} ({described(arguments[0], none=none)})"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "a table")


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Check that an option is a whole number of at least ``least``.

    Raises:
        InvalidOptionError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidOptionError(
            f"{name} must be a whole number of at least {least}, got {value!r}."
        )


def parts_of(hint: Any) -> Iterator[Any]:
    """The types that a union holds, or the one type that it is."""
    if get_origin(hint) in (Union, types.UnionType):
        yield from get_args(hint)
    else:
        yield hint


def _make(kind: type, table: Mapping[str, Any], prefix: str, none: str) -> Any:
    known = {item.name: item for item in plain_fields(kind)}
    if unknown := sorted(table.keys() - known.keys()):
        raise InvalidOptionError(
            f"unknown option {prefix}{unknown[0]}; known here are {', '.join(known)}."
        )
    values = {}
    for name, item in known.items():
        has_default = not item.default is item.default_factory is MISSING
        if name not in table and has_default:
            continue
        if name not in table and not is_dataclass(type_of(kind, item)):
            raise InvalidOptionError(f"{prefix}{name} is missing; it has no default.")
        values[name] = value_of(kind, item, table.get(name, {}), f"{prefix}{name}", none=none)
    return kind(**values)


def _fitted(hint: Any, value: Any, none: str) -> tuple[Any, bool]:
    """The value as the type wants it, and whether it can be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value == none and type(None) in arguments:
            return None, True
        for argument in arguments:
            made, fits = _fitted(argument, value, none)
            if fits:
                return made, True
        return value, False
    if origin is Literal:
        return value, value in arguments
    if origin is tuple:
        return _fitted_tuple(arguments, value, none)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    kind = origin or hint
    is_bool_for_int = isinstance(value, bool) and kind is not bool
    return value, isinstance(value, kind) and not is_bool_for_int


def _fitted_tuple(arguments: Sequence[Any], value: Any, none: str) -> tuple[Any, bool]:
    if not isinstance(value, list | tuple):
        return value, False
    if arguments[-1] is Ellipsis:
        arguments = [arguments[0]] * len(value)
    made = [
        _fitted(argument, entry, none) for argument, entry in zip(arguments, value, strict=False)
    ]
    fits = len(arguments) == len(value) and all(entry_fits for _, entry_fits in made)
    return tuple(entry for entry, _ in made), fits
