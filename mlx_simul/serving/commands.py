"""What streams ask of the thread that owns MLX, and what it answers besides a session's events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mlx_simul.events import Event


@dataclass(frozen=True)
class Open:
    """Begin a stream, or go on with one that a journal holds.

    Attributes:
        model: its name.
        options: of the session, by their flat names.
        journal: records the stream; None for one that ends with the process.
        n_turns: turns that were told to listeners, if the journal holds a stream: those after them
            are run again.
    """

    model: str
    options: Mapping[str, Any]
    journal: Path | None = None
    n_turns: int = 0


@dataclass(frozen=True)
class Push:
    """Take a piece of source."""

    text: str


@dataclass(frozen=True)
class EndTurn:
    """End the turn, and say when all before it has been written.

    Attributes:
        number: of this command in the stream, from 1.
    """

    number: int


@dataclass(frozen=True)
class Change:
    """Change options from the next turn on.

    Attributes:
        options: by their flat names.
        event_id: the client's name for its request, for an error.
    """

    options: Mapping[str, Any]
    event_id: str | None = None


@dataclass(frozen=True)
class Close:
    """The source has ended."""


@dataclass(frozen=True)
class Drop:
    """Forget the stream; nothing is said of it any more.

    Attributes:
        files: of the stream, to be deleted.
    """

    files: tuple[Path, ...] = ()


Command: TypeAlias = Open | Push | EndTurn | Change | Close | Drop


@dataclass(frozen=True)
class Opened:
    """A stream has begun.

    Attributes:
        session: how clients see its options (:func:`mlx_simul.serving.described.described`).
        source_chars: characters of source that its journal holds.
        n_turn_ends: how often its client has ended a turn, by the journal.
        source_closed: its source has ended, by the journal.
        source_words: all words of that source that have arrived whole.
        source_words_done: those of them in turns that have ended.
    """

    session: Mapping[str, Any]
    source_chars: int = 0
    n_turn_ends: int = 0
    source_closed: bool = False
    source_words: int = 0
    source_words_done: int = 0


@dataclass(frozen=True)
class Taken:
    """A command has been carried out; each but Open and Drop is answered so, in order.

    Attributes:
        source_words: all words that have arrived whole.
    """

    source_words: int


@dataclass(frozen=True)
class Changed:
    """Options have changed.

    Attributes:
        session: how clients see them now.
        event_id: of the request.
    """

    session: Mapping[str, Any]
    event_id: str | None = None


@dataclass(frozen=True)
class TurnEnded:
    """All before an :class:`EndTurn` has been written.

    Attributes:
        number: of the command.
    """

    number: int


@dataclass(frozen=True)
class Refused:
    """A command had no effect; the stream goes on.

    Attributes:
        message: what was refused, and what to do.
        param: the option that is wrong.
        event_id: of the request.
    """

    message: str
    param: str | None = None
    event_id: str | None = None


SERVER_FAULTS = frozenset({"internal_error", "journal_failed"})
"""Codes of failures that no client can help."""


@dataclass(frozen=True)
class Failed:
    """A stream has broken off, or could not begin.

    Attributes:
        message: why.
        code: ``"invalid_option"``, ``"server_full"``, ``"journal_failed"`` or ``"internal_error"``.
    """

    message: str
    code: str


Answer: TypeAlias = Event | Opened | Taken | Changed | TurnEnded | Refused | Failed
