"""The log of a server: one line of JSON for each event, without what clients have said.

A line says nothing that lets its reader listen or speak: sessions are named by the beginning of
their ids, keys and secrets are left out. What people wrote is in it only if the owner asks for it.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from mlx_simul.serving.options import PREFIX

MAX_ALIKE = 20
"""Warnings of one kind that are written in one window."""

WINDOW_S = 10

_FIELDS = "mlx_simul_fields"
_TEXTS = "mlx_simul_texts"

# Anyone who knows a whole id can listen; six characters are enough to tell sessions apart.
_SESSION = re.compile(rf"(sess_(?:{PREFIX.pattern}_)?[\w-]{{6}})[\w-]{{16,}}")
_SECRET = re.compile(r"ek_[\w-]{32}|(?<=openai-insecure-api-key\.)[^\s,\"']+|(?<=Bearer )[^\s\"']+")


def note(
    logger: logging.Logger,
    event: str,
    *,
    level: int = logging.INFO,
    texts: dict[str, Any] | None = None,
    **known: Any,
) -> None:
    """Log an event.

    Args:
        logger: of the module where it happens.
        event: what happens, in a word or two.
        level: of :mod:`logging`.
        texts: what may hold the words of a client; written only if the owner asks for texts.
        known: other facts, as JSON has them; None is left out.
    """
    logger.log(level, event, extra={**fields(**known), _TEXTS: texts or {}})


def fields(**known: Any) -> dict[str, Any]:
    """What is known of an event, as ``extra`` of a logger's own methods."""
    return {_FIELDS: known}


@contextmanager
def logging_to(stream: TextIO, *, texts: bool = False) -> Iterator[None]:
    """Have everything that is logged or warned of written to a stream as lines of JSON.

    Args:
        stream: standard error, for example.
        texts: write what clients have said, too, and the messages of unexpected errors, which may
            quote it.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(texts=texts))
    handler.addFilter(Few())
    root, ours = logging.getLogger(), logging.getLogger("mlx_simul")
    levels = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


class Lines(logging.Formatter):
    """Writes a record as a line of JSON, in ASCII, so that nothing in it can steer a terminal.

    Args:
        texts: as in :func:`logging_to`.
    """

    def __init__(self, *, texts: bool = False) -> None:
        super().__init__()
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC)
        values: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if self._texts:
            values |= getattr(record, _TEXTS, {})
        if record.exc_info and record.exc_info[1] is not None:
            values["traceback"] = self._traceback(record.exc_info[1])
        said = {name: value for name, value in values.items() if value is not None}
        return _without_secrets(json.dumps(said))

    def _traceback(self, error: BaseException) -> str:
        if self._texts:
            return "".join(traceback.format_exception(error))
        # The message of an error may quote what a client wrote; where it happened does not.
        name = type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            name += f": {error.strerror}"
        own = "".join(traceback.format_tb(error.__traceback__)) + name
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return own if cause is None else f"{self._traceback(cause)}\nand then\n{own}"


class Few(logging.Filter):
    """Lets only a few warnings of one kind pass in a window, and the last of them says so.

    A flood of wrong messages must not fill a disk. The metrics count all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._window = 0
        self._counts: Counter[tuple[str, Any]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if record.levelno < logging.WARNING:
            return True
        window = int(record.created // WINDOW_S)
        if window != self._window:
            self._window = window
            self._counts.clear()
        known = getattr(record, _FIELDS, {})
        kind = (str(record.msg), known.get("code"))
        self._counts[kind] += 1
        if self._counts[kind] == MAX_ALIKE:
            more = f"more of this kind are not written for up to {WINDOW_S} seconds"
            setattr(record, _FIELDS, {**known, "note": more})
        return self._counts[kind] <= MAX_ALIKE


def _without_secrets(line: str) -> str:
    # JSON escapes all controls but this one.
    line = line.replace("\x7f", "\\u007f")
    return _SECRET.sub("[secret]", _SESSION.sub(r"\1...", line))
