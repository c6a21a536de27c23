"""The journal of a stream: text as it arrived and turns as they ended, in lines of JSON (SPEC 8).

Each line is written before what it records takes effect. So if the process is killed at any moment,
feeding the text of the journal again gives the same turns, of which the journal holds all but the
one that was under way.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import date as Date
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from mlx_simul.errors import JournalError, SimulWarning
from mlx_simul.events import TurnEnd
from mlx_simul.machine.files import expanded, replacing_file
from mlx_simul.stream.identity import difference

FORMAT = 1
MAX_LINE_BYTES = 64 * 2**20
_BEGINNING = b'{"journal": '


@dataclass(frozen=True)
class Entry:
    """A line after the first.

    Attributes:
        text: a piece of source that arrived.
        mark: ``"end_turn"`` or ``"close"``, if the caller said so.
        turn: a turn that ended.
        target_speech: words of speech written up to its end, as in "31/4"; the limit of words goes
            by them, and the texts do not tell where words were cut.
        update: options that changed, as plain values.
        from_turn: the first turn that they hold for.
    """

    text: str = ""
    mark: str = ""
    turn: TurnEnd | None = None
    target_speech: Fraction = Fraction(0)
    update: Mapping[str, Any] = field(default_factory=dict)
    from_turn: int = 0


class Journal:
    """Appends to a file what happens to a stream, and says what had happened before.

    ``close()`` lets go of the file, and so does the end of the journal's own life.

    Args:
        path: the file; it is made if there is none.
        identity: what decides the stream: a model's fingerprint and the options, as plain values.
        date: what templates take for today, if the journal is new.

    Attributes:
        path: of the file.
        date: what templates took for today when the stream began.

    Raises:
        JournalError: if the file is damaged or belongs to another stream, if another process writes
            it, or if it cannot be read or written.
    """

    def __init__(
        self, path: str | os.PathLike[str], identity: Mapping[str, Any], date: Date
    ) -> None:
        self.path = expanded(path)
        with _explained(self.path):
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        self.close = weakref.finalize(self, self._file.close)
        try:
            self._lock()
            # Nothing is cut off before the file is known to be this stream's journal.
            held = self._date_held(identity)
            self._end = self._drop_torn_line()
            self.date = date if held is None else held
            if held is None:
                self._append({"journal": FORMAT, "date": date.isoformat(), **identity})
        except BaseException:
            self.close()
            raise

    def entries(self) -> Iterator[Entry]:
        """All lines after the first, in order.

        Raises:
            JournalError: if one is damaged.
        """
        return read_entries(self.path)

    def add_text(self, text: str) -> None:
        """Note a piece of source that is about to be taken."""
        if text:
            self._append({"text": text})

    def add_mark(self, mark: str) -> None:
        """Note that the caller ends a turn, or the source."""
        self._append({"mark": mark})

    def add_update(self, options: Mapping[str, Any], from_turn: int) -> None:
        """Note options that are about to change."""
        self._append({"update": dict(options), "from_turn": from_turn})

    def add_turn(self, end: TurnEnd, target_speech: Fraction) -> None:
        """Note a turn that has ended, on the disk itself: a power cut does not undo it."""
        self._append({"turn": asdict(end), "target_speech": str(target_speech)})
        with _explained(self.path):
            os.fsync(self._file.fileno())

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise JournalError(
                f"a line of the journal {self.path} would have {len(line)} bytes, more than "
                f"{MAX_LINE_BYTES}; feed the text in smaller pieces."
            )
        try:
            with _explained(self.path):
                n_written = self._file.write(line)
                if n_written != len(line):
                    raise OSError(f"only {n_written} of {len(line)} bytes were written")
        except JournalError:
            # Half a line would spoil those after it.
            os.ftruncate(self._file.fileno(), self._end)
            raise
        self._end += len(line)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                f"the journal {self.path} is being written by another session; name another file, "
                "or end that session."
            ) from error

    def _drop_torn_line(self) -> int:
        """Cut off what a killed process left of its last line; return the bytes that are whole."""
        with _explained(self.path):
            size = self._file.seek(0, os.SEEK_END)
            start = max(0, size - MAX_LINE_BYTES)
            self._file.seek(start)
            tail = self._file.read(size - start)
            whole = start + tail.rfind(b"\n") + 1
            if whole == size:
                return size
            os.ftruncate(self._file.fileno(), whole)
        warnings.warn(
            f"the last line of the journal {self.path} was cut off while it was written; its "
            f"{size - whole} bytes are dropped, and the text in them has to be fed again.",
            SimulWarning,
            stacklevel=4,
        )
        return whole

    def _date_held(self, identity: Mapping[str, Any]) -> Date | None:
        """The date when the stream of the file began; None if its first line is yet to be written.

        Raises:
            JournalError: if the file is not a journal, or belongs to another stream.
        """
        with _explained(self.path), self.path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n") and _BEGINNING.startswith(line[: len(_BEGINNING)]):
            return None  # new, or its first line was cut off in writing
        if not line.startswith(_BEGINNING):
            raise JournalError(f"{self.path} is not a journal; name another file.")
        first = _parsed(self.path, 1, line)
        if first.pop("journal", None) != FORMAT:
            raise JournalError(f"{self.path} is not a journal of this version; name another file.")
        try:
            date = Date.fromisoformat(first.pop("date"))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.path, 1, error) from error
        if (found := difference(first, identity)) is not None:
            name, held, wanted = found
            raise JournalError(
                f"the journal {self.path} belongs to a stream with {name}={held!r}, and this one "
                f"has {name}={wanted!r}; give the same, or name another file."
            )
        return date


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """The lines of a journal after its first; it may belong to a session that is live.

    Raises:
        JournalError: if it cannot be read, or is damaged.
    """
    path = expanded(path)
    with _explained(path), path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            record = _parsed(path, number, line)
            if number == 1:
                continue
            try:
                if "turn" in record:
                    record["turn"] = _turn_end(record["turn"])
                    record["target_speech"] = Fraction(record["target_speech"])
                entry = Entry(**record)
            except (TypeError, KeyError, ValueError) as error:
                raise _damaged(path, number, error) from error
            yield entry


def read_turns(path: str | os.PathLike[str]) -> Iterator[TurnEnd]:
    """The turns that a journal holds, in order; it may belong to a session that is live.

    Raises:
        JournalError: if it cannot be read, or is damaged.
    """
    return (entry.turn for entry in read_entries(path) if entry.turn is not None)


def forget_turns(path: str | os.PathLike[str], first: int) -> None:
    """Drop from a journal that some turns have ended, so that a session runs them again.

    Args:
        path: of a journal that no session has open.
        first: the number of the first turn to drop; those after it go too.

    Raises:
        JournalError: if it cannot be read or written, or is damaged.
    """
    path = expanded(path)
    with (
        _explained(path),
        replacing_file(path) as partial,
        path.open("rb") as file,
        partial.open("wb") as kept,
    ):
        for number, line in enumerate(_lines(file), 1):
            record = _parsed(path, number, line)
            if "turn" not in record or _turn_end(record["turn"]).turn < first:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())


def fingerprint(model: Any) -> str:
    """A short hash of a model's type, its parameters' names, shapes and types, and some numbers.

    It distinguishes models that were trained separately, and reads almost none of their weights.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    digest = hashlib.sha256(str(model.model_type).encode())
    parameters: Any = sorted(tree_flatten(model.parameters()))
    for name, value in parameters:
        digest.update(f"{name} {value.shape} {value.dtype}".encode())
        some = value.reshape(-1)[:8].astype(mx.float32)
        digest.update(repr(some.tolist()).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say which journal an error of the operating system is about."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be used: {error}.") from error


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, error) from error
    if not isinstance(record, dict):
        raise _damaged(path, number, f"it holds {record!r}")
    return record


def _damaged(path: Path, number: int, why: object) -> JournalError:
    return JournalError(
        f"the journal {path} is damaged at line {number}: {why}. Remove the lines from there on, "
        "or name another file."
    )


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            return  # it is being written
        yield line


def _turn_end(record: Mapping[str, Any]) -> TurnEnd:
    # A stop was not written before there were stops.
    values: dict[str, Any] = {
        item.name: record[item.name]
        for item in fields(TurnEnd)
        if item.name != "stop" or item.name in record
    }
    lists: dict[str, Any] = {
        name: tuple(value) for name, value in values.items() if isinstance(value, list)
    }
    return TurnEnd(**(values | lists))
