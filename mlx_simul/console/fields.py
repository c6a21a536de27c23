"""Command-line arguments derived from dataclasses of options: flags, types, help and defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, is_dataclass
from typing import Any, Literal, get_args, get_origin

from mlx_simul.console.arguments import utf8
from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import (
    NONE,
    described,
    flag_of,
    help_of,
    parts_of,
    plain_fields,
    summary_of,
    type_of,
)

Types = Mapping[str, Callable[[str], Any]]


def add_options(
    parser: argparse._ActionsContainer,
    kind: type,
    *,
    skip: Collection[str] = (),
    types: Types | None = None,
) -> None:
    """Declare an argument for each field of a dataclass, in a group for each dataclass in it.

    Only what is given on the command line is in the parsed arguments: see :func:`chosen`.

    Args:
        parser: to extend.
        kind: the dataclass; its docstring is the help.
        skip: the fields to leave out.
        types: how some of them are read, by name, instead of by their type.
    """
    for item in plain_fields(kind):
        hint = type_of(kind, item)
        if is_dataclass(hint) and isinstance(hint, type):
            group = parser.add_argument_group(summary_of(hint).lower())
            add_options(group, hint, skip=skip, types=types)
        elif item.name not in skip:
            add_option(parser, kind, item.name, read=(types or {}).get(item.name))


def chosen(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """What the command line says of a dataclass's fields, by their flat names."""
    found: dict[str, Any] = {}
    for item in plain_fields(kind):
        hint = type_of(kind, item)
        if is_dataclass(hint) and isinstance(hint, type):
            found |= chosen(args, hint)
        elif hasattr(args, item.name):
            found[item.name] = getattr(args, item.name)
    return found


def add_option(
    parser: argparse._ActionsContainer,
    kind: type,
    name: str,
    *,
    flag: str | None = None,
    dest: str | None = None,
    read: Callable[[str], Any] | None = None,
) -> None:
    """Declare the argument of one field.

    Args:
        parser: to extend.
        kind: the dataclass of the field.
        name: of the field.
        flag: what it is called; by default as its metadata says, or its name.
        dest: where its value goes in the parsed arguments; by default its name.
        read: reads its value, instead of its type.
    """
    item = next(item for item in plain_fields(kind) if item.name == name)
    hint, text = type_of(kind, item), help_of(kind).get(name, "")
    default = None if item.default is MISSING else item.default
    about: dict[str, Any]
    if hint is bool:
        about = {"action": argparse.BooleanOptionalAction if default else "store_true"}
    else:
        about = _value_arguments(hint, read)
        if default is not None and default != ():
            text = f"{text} (default: {default})"
        if "choices" not in about:
            about.setdefault("metavar", item.metadata.get("metavar") or name.upper())
    parser.add_argument(
        flag or flag_of(item),
        dest=dest or name,
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
        **about,
    )


def _value_arguments(hint: Any, read: Callable[[str], Any] | None) -> dict[str, Any]:
    """How argparse is to read a value of a type."""
    if read is not None:
        read = _explaining(read)
        return {"type": _or_none(read) if type(None) in parts_of(hint) else read}
    if get_origin(hint) is tuple:
        return {"nargs": "+", **_value_arguments(get_args(hint)[0], None)}
    parts = list(parts_of(hint))
    if any(get_origin(part) is tuple for part in parts):
        return {"action": "append", "type": _reader(hint)}
    if all(part is type(None) or get_origin(part) is Literal for part in parts):
        names = [name for part in parts if part is not type(None) for name in get_args(part)]
        if type(None) not in parts:
            return {"choices": names}
        # argparse compares what was read with the choices, and shows them as they are.
        return {"type": _reader(hint), "metavar": f"{{{','.join([*map(str, names), NONE])}}}"}
    return {"type": _reader(hint)}


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == NONE else read(text)


def _explaining(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse say what the reader of a value says of one that it refuses."""

    def explained(text: str) -> Any:
        try:
            return read(text)
        except InvalidOptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return explained


def _reader(hint: Any) -> Callable[[str], Any]:
    """Reads a text as the first type of a union that it fits."""
    parts = list(parts_of(hint))

    def read(text: str) -> Any:
        for part in parts:
            if get_origin(part) is Literal and text in get_args(part):
                return text
            if part is type(None) and text == NONE:
                return None
            if part in (int, float):
                try:
                    return part(text)
                except ValueError:
                    continue
        if str in parts:
            return utf8(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {described(hint)}")

    return read
