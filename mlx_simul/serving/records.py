"""A stream's name, and the files of that name: its messages, and the journal of its source."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_simul.serving.logs import note
from mlx_simul.serving.messages import ProtocolError
from mlx_simul.serving.options import PREFIX
from mlx_simul.serving.outbox import Outbox, header_of
from mlx_simul.serving.told import Told

log = logging.getLogger(__name__)

HEADER = ("model", "owner", "secret", "began", "options")
"""What the first line of messages has to say."""

_NAME = re.compile(f"sess_(?:{PREFIX.pattern}_)?[A-Za-z0-9_-]{{22}}")


def new_name(prefix: str | None) -> str:
    """A name for a stream, which cannot be guessed.

    Args:
        prefix: by which a proxy knows the server, if there is one.
    """
    of_server = "" if prefix is None else f"{prefix}_"
    return f"sess_{of_server}{secrets.token_urlsafe(16)}"


def is_name(name: str) -> bool:
    """Whether it may be a stream's name, and so a part of a path."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Files:
    """Where the records of a stream are.

    Attributes:
        messages: that were said of it.
        journal: of its source and its turns.
    """

    messages: Path | None
    journal: Path | None

    @classmethod
    def of(cls, name: str, folder: str | None) -> Files:
        """Those of a stream by its name; without a folder it has none."""
        if folder is None:
            return cls(None, None)
        place = Path(folder).expanduser()
        return cls(place / f"{name}.messages", place / f"{name}.journal")

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that there are."""
        return tuple(path for path in (self.messages, self.journal) if path is not None)


@dataclass(frozen=True)
class Kept:
    """What the messages of a stream say of it.

    Attributes:
        header: the first line, as :meth:`Streams.open` wrote it.
        outbox: the messages.
        told: what they told.
    """

    header: Mapping[str, Any]
    outbox: Outbox
    told: Told


def new_outbox(path: Path | None, header: Mapping[str, Any], keep_bytes: int) -> Outbox:
    """Begin the messages of a stream.

    Raises:
        ProtocolError: if they cannot be written.
    """
    try:
        return Outbox(keep_bytes, path, header)
    except OSError as error:
        note_not_written(error)
        message = "this session cannot be recorded; the server's disk may be full."
        raise ProtocolError("journal_failed", message, kind="server_error") from error


def kept_messages(path: Path, models: Collection[str], keep_bytes: int) -> Kept | None:
    """Open the messages of a stream that an earlier life of the server began.

    Returns:
        Them, and what they say; None if its model is not served.

    Raises:
        ProtocolError: if another server writes them, or they are damaged.
    """
    try:
        first = header_of(path)
        header = {name: first[name] for name in HEADER}
        if header["model"] not in models:
            return None
        return Kept(header, *Outbox.resumed(keep_bytes, path))
    except BlockingIOError as error:
        message = "this session is live on another server that has the same journals."
        raise ProtocolError("session_elsewhere", message, "session") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.exception("the messages of a session cannot be read")
        message = "the records of this session are damaged; begin a new one."
        raise ProtocolError("journal_failed", message, kind="server_error") from error


def note_not_written(error: OSError) -> None:
    """Log that messages could not be written."""
    message = "the messages of a session cannot be written"
    note(log, message, level=logging.ERROR, error=error.strerror)
