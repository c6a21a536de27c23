"""An order as data: which method of which object is called with what, in plain integers.

Rank 0 decides, and the other ranks do the same to their shards. What they are told is the call of a
method that is marked with :func:`order`. Its annotations are the schema: an integer is a number; a
tuple, a text and what may be None have a number in front that says how many follow; a dataclass is
its fields. Nothing in a message says what kind of thing it is, so a message can only be the call
that the schema allows, and what does not fit is refused. No arrays, no pickles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Any, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from mlx_simul.errors import RanksError

MAX_NUMBERS = 2**22
"""The most that an order may take, 16 MB: a pass of 512 tokens of a thousand streams takes a
quarter of it."""

_INT32 = range(-(2**31), 2**31)

Call = TypeVar("Call", bound=Callable[..., Any])


class Leader(Protocol):
    """What tells other ranks what to do."""

    def lead(self, thing: Thing, name: str, args: tuple[Any, ...]) -> Any:
        """Have an order carried out by all ranks, this one included; return its result here."""
        ...


class Thing:
    """An object that all ranks have, each with its own arrays in it.

    Attributes:
        ranks: all of them; None if there is only this one.
        number: the number by which they know it.
    """

    ranks: Leader | None = None
    number: int = 0

    def arrays(self) -> Any:
        """What it holds, a tree of arrays, to be computed by all ranks after each order."""
        return ()


def order(method: Call) -> Call:
    """Mark a method whose call all ranks repeat, if there are several; else it is what it was.

    Its arguments are positional and made of what the schema knows. Inside an order, call the plain
    functions below it and not another order.
    """

    @wraps(method)
    def tell(self: Thing, *args: Any) -> Any:
        if self.ranks is None:
            return method(self, *args)
        return self.ranks.lead(self, method.__name__, args)

    vars(tell)["carry_out"] = method
    return cast(Call, tell)


def carry_out(thing: Thing, name: str, args: Sequence[Any]) -> Any:
    """Do an order on this rank."""
    return vars(getattr(type(thing), name))["carry_out"](thing, *args)


def encoded(thing: Thing, name: str, args: tuple[Any, ...]) -> list[int]:
    """An order as integers.

    Raises:
        RanksError: if an argument is not what the schema says, or they are too many.
    """
    names, kinds = _orders_of(type(thing)), _kinds(type(thing), name)
    numbers = [thing.number, names.index(name)]
    if len(args) != len(kinds):
        raise RanksError(f"the order {name!r} takes {len(kinds)} arguments, got {len(args)}.")
    for kind, value in zip(kinds, args, strict=True):
        _write(kind, value, numbers)
    if len(numbers) > MAX_NUMBERS:
        raise RanksError(
            f"the order {name!r} takes {len(numbers)} numbers, and at most {MAX_NUMBERS} are sent "
            "to other ranks at once; let fewer sessions share a pass."
        )
    return numbers


def decoded(numbers: Sequence[int], find: Callable[[int], Thing]) -> tuple[Thing, str, list[Any]]:
    """The order that integers stand for.

    Args:
        numbers: from :func:`encoded`, on another rank.
        find: the object with a number.

    Raises:
        RanksError: if they are not an order: too few, too many, or out of range.
    """
    reader = _Reader(numbers)
    thing = find(reader.number())
    names, which = _orders_of(type(thing)), reader.number()
    if not 0 <= which < len(names):
        raise RanksError(f"a {type(thing).__name__} has {len(names)} orders, got number {which}.")
    args = [reader.value(kind) for kind in _kinds(type(thing), names[which])]
    reader.end()
    return thing, names[which], args


@cache
def _orders_of(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if hasattr(getattr(kind, name, None), "carry_out"))


@cache
def _kinds(kind: type, name: str) -> tuple[Any, ...]:
    hints = get_type_hints(vars(getattr(kind, name))["carry_out"])
    hints.pop("return", None)
    return tuple(hints.values())


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _or_none(kind: Any) -> Any:
    """What a kind is when it is not None; None if it always is something."""
    if get_origin(kind) is not UnionType:
        return None
    (inner,) = (part for part in get_args(kind) if part is not NoneType)
    return inner


def _write(kind: Any, value: Any, numbers: list[int]) -> None:
    if kind is int or kind is bool:
        if type(value) not in (int, bool) or value not in _INT32:
            raise RanksError(f"{value!r} is not an integer of 32 bits, which an order holds.")
        numbers.append(int(value))
    elif kind is str:
        data = value.encode("utf-8", "surrogateescape")
        numbers += [len(data), *data]
    elif kind is slice:
        for end in (value.start, value.stop):
            _write(int | None, end, numbers)
    elif (inner := _or_none(kind)) is not None:
        numbers.append(int(value is not None))
        if value is not None:
            _write(inner, value, numbers)
    elif get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is ...:
            numbers.append(len(value))
            parts = parts[:1] * len(value)
        for part, each in zip(parts, value, strict=True):
            _write(part, each, numbers)
    elif is_dataclass(kind):
        for name, part in _fields(cast(type, kind)):
            _write(part, getattr(value, name), numbers)
    else:
        raise RanksError(f"an order cannot hold a {kind}.")


class _Reader:
    """Takes numbers one after another, as a schema says."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers, self._at = numbers, 0

    def number(self) -> int:
        if self._at == len(self._numbers):
            raise RanksError(f"an order ends too early, after {self._at} numbers.")
        self._at += 1
        return self._numbers[self._at - 1]

    def end(self) -> None:
        if left := len(self._numbers) - self._at:
            raise RanksError(f"an order goes on for {left} numbers past its end.")

    def value(self, kind: Any) -> Any:
        if kind is int:
            return self.number()
        if kind is bool:
            return bool(self._count(1))
        if kind is str:
            data = [self.number() for _ in range(self._count())]
            if not all(0 <= byte < 256 for byte in data):
                raise RanksError("a text in an order holds numbers that are not bytes.")
            return bytes(data).decode("utf-8", "surrogateescape")
        if kind is slice:
            return slice(self.value(int | None), self.value(int | None))
        if (inner := _or_none(kind)) is not None:
            return self.value(inner) if self._count(1) else None
        if get_origin(kind) is tuple:
            parts = get_args(kind)
            if parts[-1] is ...:
                parts = parts[:1] * self._count()
            return tuple(self.value(part) for part in parts)
        made = {name: self.value(part) for name, part in _fields(kind)}
        return kind(**made)

    def _count(self, most: int | None = None) -> int:
        """How many follow: no more than there are, or than ``most``."""
        left = len(self._numbers) - self._at - 1 if most is None else most
        count = self.number()
        if not 0 <= count <= left:
            raise RanksError(f"an order says that {count} follow, where at most {left} can.")
        return count
