"""Every exchange of a class inside a model: done here, kept in a record, undone in one call.

mlx-lm's models know nothing of two groups of tokens, and some compute something other than what
their checkpoint was trained for. Only a few lines in a few modules are missing. So those modules
get another class, which lies over their own, and here and there another setting. The weights are
never touched.

A model that :func:`mlx_simul.load` built is changed in place. Any other model belongs to the
caller: a session runs a :func:`copy_of` it, which has modules of its own over the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import mlx.nn as nn

from mlx_simul.errors import InvalidOptionError

_RECORD = "_surgery"
_ABSENT: Any = object()


@dataclass(frozen=True)
class Change:
    """One class or attribute of a module, before and after.

    Attributes:
        module: whose it is; ``None`` for the model that was changed. Were it named here, the model
            would hold itself, and its weights would stay in memory until Python looks for cycles.
        name: of the attribute; ``None`` for the class.
        before: what it was; ``_ABSENT`` if there was none.
        after: what it became.
    """

    module: nn.Module | None
    name: str | None
    before: Any
    after: Any

    def stands(self, model: nn.Module) -> bool:
        """Whether it is unchanged since."""
        return _get(self.of(model), self.name) is self.after

    def revert(self, model: nn.Module) -> None:
        """Put back what was there."""
        _set(self.of(model), self.name, self.before)

    def of(self, model: nn.Module) -> nn.Module:
        # Not ``or``: a module without parameters, such as RoPE, is an empty dictionary.
        return model if self.module is None else self.module


class Surgery:
    """What was changed in one model, in order; it stays with the model.

    Args:
        model: to be changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._changes: list[Change] = []
        setattr(model, _RECORD, self)

    def exchange(self, module: nn.Module, kind: type) -> None:
        """Lay a class over the class of a module.

        A subclass that a user wrote stays on top: its methods call those of ``kind`` by ``super``.

        Args:
            module: of the model.
            kind: a mixin, or a direct subclass of the class in mlx-lm that it changes.

        Raises:
            InvalidOptionError: if the module is not one of those that ``kind`` changes.
        """
        own = type(module)
        if not issubclass(own, kind):
            self._change(module, None, _combined(own, kind))

    def put(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of a module."""
        self._change(module, name, value)

    def began_as(self, model: nn.Module, own: type[nn.Module]) -> None:
        """Say that the model, built from a class of ours, is one of mlx-lm's class ``own``."""
        self._changes.append(Change(None, None, own, type(model)))

    def undo(self, model: nn.Module) -> None:
        """Give every module of the model its own class and settings back.

        Raises:
            InvalidOptionError: if somebody has changed one of them since; then nothing is undone.
        """
        # Of several changes of the same thing only the last one can still stand.
        last = {(id(change.module), change.name): change for change in self._changes}
        for change in last.values():
            if not change.stands(model):
                what = "class" if change.name is None else f"attribute {change.name!r}"
                raise InvalidOptionError(
                    f"the {what} of a {type(change.of(model)).__name__} in this "
                    f"{type(model).__name__} was changed again after mlx_simul changed it, so it "
                    "cannot be put back; undo that first."
                )
        while self._changes:
            self._changes.pop().revert(model)

    def _change(self, module: nn.Module, name: str | None, value: Any) -> None:
        is_model = vars(module).get(_RECORD) is self
        change = Change(None if is_model else module, name, _get(module, name), value)
        _set(module, name, value)
        self._changes.append(change)


@dataclass(frozen=True)
class Repair:
    """What mlx-lm's model of a family computes wrongly, and how that is put right.

    Attributes:
        because: what mlx-lm does, in a sentence.
        operate: puts a model right: the surgery, the model, its config.
        reads: entries of config.json that ``operate`` needs and that mlx-lm's arguments drop.
        weights: mixed into the model's class while it is loaded: a ``sanitize`` that reads weights
            in more formats, or parameters that mlx-lm's model has no place for.
        lost_because: why a model that mlx-lm loaded cannot be put right any more, if it cannot.
        ignores: entries of config.json that mlx-lm's arguments would take for another family's.
        needed_in: the newest release of mlx-lm that is known to need it, which a test proves. The
            repair may go when the lowest release that pyproject.toml allows does without; the same
            test says when a newer one does.
        reported: an issue or pull request of mlx-lm about it, if there is one.
    """

    because: str
    operate: Callable[[Surgery, Any, Mapping[str, Any]], None] | None = None
    reads: tuple[str, ...] = ()
    weights: type | None = None
    lost_because: str | None = None
    ignores: tuple[str, ...] = ()
    needed_in: str = "0.32.2"
    reported: str | None = None


def is_prepared(model: nn.Module) -> bool:
    """Whether a model has been changed here, and not changed back."""
    return _RECORD in vars(model)


def undo(model: nn.Module) -> None:
    """Give a model that :func:`mlx_simul.load` or ``prepare`` changed its own classes back.

    Afterwards it is mlx-lm's model again, class by class, with the weights that it has by now.

    Args:
        model: is changed in place; one that was never changed stays as it is.

    Raises:
        InvalidOptionError: if somebody changed one of the classes since; then nothing is undone.
    """
    if is_prepared(model):
        vars(model)[_RECORD].undo(model)
        delattr(model, _RECORD)


def copy_of(model: nn.Module) -> nn.Module:
    """A second set of a model's modules, over the same arrays.

    Modules that occur twice do so in the copy, and methods that a module keeps are bound to its
    copy. Everything else is shared; the record of what was changed in the model is not copied.
    """
    return _copied(model, {})


def anatomy(model: nn.Module) -> list[Any]:
    """What a copy depends on: each class, array and setting of a model, to be compared by ``is``.

    Modules are not among them, so that keeping the list does not keep the model alive.
    """
    return list(_parts(model, set()))


def is_unchanged(model: nn.Module, known: list[Any]) -> bool:
    """Whether a model is still what :func:`anatomy` saw."""
    now = anatomy(model)
    return len(now) == len(known) and all(a is b for a, b in zip(now, known, strict=True))


def _copied(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, nn.Module):
        if id(value) not in seen:
            kind = type(value)
            twin: Any = kind.__new__(kind)
            seen[id(value)] = twin
            dict.update(twin, {name: _copied(part, seen) for name, part in value.items()})
            own = ((name, part) for name, part in vars(value).items() if name != _RECORD)
            vars(twin).update({name: _copied(part, seen) for name, part in own})
        return seen[id(value)]
    if type(value) in (list, tuple, set):
        return type(value)(_copied(part, seen) for part in value)
    if type(value) is dict:
        return {name: _copied(part, seen) for name, part in value.items()}
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _copied(value.__self__, seen))
    return value


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(value, nn.Module):
        if id(value) in seen:
            return
        seen.add(id(value))
        yield type(value)
        for held in (value, vars(value)):
            for name, part in held.items():
                if name != _RECORD:
                    yield name
                    yield from _parts(part, seen)
    elif type(value) in (list, tuple):
        for part in value:
            yield from _parts(part, seen)
    elif type(value) is dict:
        for name, part in value.items():
            yield name
            yield from _parts(part, seen)
    elif isinstance(value, MethodType):
        yield value.__func__
    elif type(value) is not set:  # the names of frozen parameters, which no pass depends on
        yield value


@cache
def _combined(own: type, kind: type) -> type:
    if not issubclass(kind, nn.Module):
        return type(f"{kind.__name__}{own.__name__}", (kind, own), {})
    changes = kind.__bases__[0]
    if own is changes:
        return kind
    if not issubclass(own, changes):
        raise InvalidOptionError(
            f"this model has a {own.__module__}.{own.__name__} in place of mlx-lm's "
            f"{changes.__module__}.{changes.__name__}, which mlx_simul has to correct before the "
            "model streams. Load it with `model, tokenizer = mlx_simul.load(...)`."
        )
    return type(own.__name__, (own, kind), {})


def _get(module: nn.Module, name: str | None) -> Any:
    if name is None:
        return type(module)
    return module[name] if name in module else vars(module).get(name, _ABSENT)


def _set(module: nn.Module, name: str | None, value: Any) -> None:
    if name is None:
        module.__class__ = value
    elif value is _ABSENT:
        delattr(module, name)
    else:
        setattr(module, name, value)
