"""The prefix of sessions that begin alike, encoded once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import date as Date
from typing import Any

from mlx_simul.errors import InvalidOptionError


@dataclass(frozen=True)
class EncodedPrefix:
    """What an engine holds after it has read a prefix, for any number of sessions to begin with.

    It is never written to: a session that goes on from it writes into arrays of its own.

    Attributes:
        token_ids: of the prefix.
        model: that encoded it.
        setting: how its engine keeps what it reads.
        state: of that engine.
        date: what a template that prints the date took for today.
    """

    token_ids: tuple[int, ...]
    model: Any = field(repr=False)
    setting: tuple[Any, ...]
    state: Any = field(repr=False)
    date: Date | None = None

    def require(self, token_ids: tuple[int, ...], model: Any, setting: tuple[Any, ...]) -> None:
        """Check that a session that begins so can go on from here.

        Raises:
            InvalidOptionError: if not.
        """
        if model is not self.model or setting != self.setting:
            raise InvalidOptionError(
                f"prefix= was encoded by another model, or in another setting: {self.setting}, and "
                f"this session has {setting}. To share one, sessions need the same model, mode, "
                "kv_bits and kv_group_size."
            )
        if token_ids != self.token_ids:
            raise InvalidOptionError(
                f"prefix= holds {len(self.token_ids)} tokens that are not the {len(token_ids)} "
                "with which this session begins. To share one, sessions need the same "
                "instruction, languages, context, glossary, frame and date."
            )


class PrefixPool:
    """The prefixes that sessions over one model encoded last, for those that begin alike.

    Args:
        size: how many to keep.
    """

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[Any, ...], EncodedPrefix] = OrderedDict()

    def find(self, prefix: EncodedPrefix) -> EncodedPrefix:
        """The same prefix with its state, if a session has encoded it; else the prefix as it is."""
        key = prefix.token_ids, prefix.setting
        if key not in self._kept:
            return prefix
        self._kept.move_to_end(key)
        return replace(prefix, state=self._kept[key].state)

    def keep(self, prefix: EncodedPrefix) -> None:
        """Keep a prefix that is now encoded, and drop the least recently used one."""
        self._kept[prefix.token_ids, prefix.setting] = prefix
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
