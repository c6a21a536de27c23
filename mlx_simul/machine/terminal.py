"""Standard output and standard error, whatever the locale is and whatever a text holds.

Text that a user, a file or a model wrote may steer a terminal: escape sequences, carriage returns,
bidirectional overrides. On a terminal such characters are made visible. In a pipe or a file a
translation stays as it is, and JSON says the same text with escapes of its own.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlx_simul.errors import SimulError

# Controls (C0, DEL, C1), line and paragraph separators, and what embeds, overrides or isolates a
# direction. Plain direction marks stay: Arabic and Hebrew need them, and they move nothing else.
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
# Half characters: file names in another encoding have them, and UTF-8 cannot say them.
_SURROGATES = "\ud800-\udfff"

_UNSAFE = re.compile(f"[{_STEERING}{_SURROGATES}]")
_SPACES = str.maketrans("\t\u2028\u2029", "   ")

_ESCAPING = "mlx_simul.escape"


def harmless(text: str) -> str:
    """The text for a terminal or a picture, as many characters as before.

    What could steer a terminal becomes U+FFFD; tabs and separators become spaces.
    """
    return _UNSAFE.sub("\ufffd", text.translate(_SPACES))


def emit(text: str) -> None:
    """Write to standard output and send it on its way, with all that was written before.

    On a terminal, what could steer it is made visible.

    Raises:
        BrokenPipeError: if the reader of the output has gone.
        SimulError: if it cannot be written.
    """
    if (stream := sys.stdout) is None:
        return
    shown = harmless(text) if stream.isatty() else text
    # Even of no text at all, UTF-16 would make a byte order mark.
    _write(lambda: shown and stream.write(shown))


def emit_json(value: Any, indent: int | None = None) -> None:
    """Write a value to standard output as JSON, in UTF-8 or in ASCII whatever the locale.

    Args:
        value: what :mod:`json` can write.
        indent: spaces a level; by default all stands on one line.

    Raises:
        BrokenPipeError: if the reader of the output has gone.
        SimulError: if it cannot be written.
    """
    if (stream := sys.stdout) is None:
        return
    encoding = getattr(stream, "encoding", None) or "ascii"
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    text = json.dumps(value, ensure_ascii=not is_utf8, indent=indent)
    text = _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n"
    if isinstance(stream, io.TextIOWrapper):
        # Past the text layer: UTF-16 or a byte order mark would not be JSON.
        stream.flush()
        _write(lambda: stream.buffer.write(text.encode("utf-8")))
    else:
        _write(lambda: stream.write(text))


def say(message: str) -> None:
    """Tell the user something on standard error, one line for the command that says it."""
    # print() would take standard output in place of a standard error that is closed.
    if sys.stderr is not None:
        print(f"mlx-simul: {escaped(message)}", file=sys.stderr)


def outputs_are_one() -> bool:
    """Whether standard output and standard error are the same terminal, pipe or file."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # one of them is closed, or not a file
        return False


def escaped(message: str) -> str:
    """The message with escapes in place of characters that could steer a terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), message)


@contextmanager
def losing_nothing() -> Iterator[None]:
    """Write what standard output's encoding lacks as backslash escapes, and say so at the end.

    An error handler that the user chose, as in ``PYTHONIOENCODING=ascii:replace``, is kept.
    """
    missing: list[str] = []

    def escape(error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError):
            missing.append(error.object[error.start])
        return codecs.backslashreplace_errors(error)

    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors not in (
        "strict",
        "surrogateescape",
    ):
        yield
        return
    before = stream.errors
    codecs.register_error(_ESCAPING, escape)
    stream.reconfigure(errors=_ESCAPING)
    try:
        yield
    finally:
        stream.reconfigure(errors=before)
        if missing:
            say(
                f"warning: standard output is in {stream.encoding}, which lacks "
                f"{missing[0]!a}; such characters are written as escapes. "
                "PYTHONIOENCODING=utf-8 writes all of them."
            )


@contextmanager
def ending_tidily() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that what it began is undone.

    A process that the signal ends by itself leaves a terminal without its cursor, and workers and
    half-written files behind. The exit code is the one that shells expect, 143.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def drop_stdout() -> None:
    """Let what is still buffered go nowhere, so that no later flush fails once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _write(write: Callable[[], object]) -> None:
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise SimulError(f"the output cannot be written: {error.strerror}.") from error
