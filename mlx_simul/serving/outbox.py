"""The numbered messages of a stream: the newest for those who listen, all of them on the disk."""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from mlx_simul.events import TurnEnd
from mlx_simul.serving.told import Told

MAX_LINE_BYTES = 16 * 2**20


class TooLate(Exception):
    """Messages that are asked for have been given up."""


class Outbox:
    """Numbered messages, encoded once for all who listen.

    Args:
        keep_bytes: how much of the newest to keep in memory.
        path: a file to write all of them to, after one line that says whose they are; None for a
            stream that ends with the process. Each is written before it is sent, so a stream that
            is resumed knows all that anybody has heard.
        header: that line, if the file is new.
    """

    def __init__(
        self,
        keep_bytes: int,
        path: Path | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        self._keep_bytes = keep_bytes
        self._kept: deque[bytes] = deque()
        self._ends: deque[int] = deque()  # bytes of all messages up to each that is kept
        self._n_bytes = 0
        self._seq = 0
        self._turns: list[bytes] = []
        self._file: BinaryIO | None = None
        if path is not None:
            self._file = _locked(path)
            if header is not None:
                self._file.write(msgspec.json.encode(header) + b"\n")

    @classmethod
    def resumed(cls, keep_bytes: int, path: Path) -> tuple[Outbox, Told]:
        """That of a stream whose messages are in a file, and what they told.

        Raises:
            BlockingIOError: if another server writes to it.
            OSError: if the file cannot be read.
            ValueError: if it is damaged.
        """
        outbox = cls(keep_bytes)
        outbox._file = _locked(path)
        try:
            return outbox, outbox._read(path)
        except BaseException:
            outbox.close()
            raise

    @property
    def seq(self) -> int:
        """The number of the newest message."""
        return self._seq

    def add(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Take the next messages.

        Raises:
            OSError: if they cannot be written down.
        """
        lines = [msgspec.json.encode(message) for message in messages]
        if self._file is not None:
            data = b"".join(line + b"\n" for line in lines)
            n_written = self._file.write(data)
            if n_written != len(data):
                raise OSError(f"only {n_written} of {len(data)} bytes were written")
        for message, line in zip(messages, lines, strict=True):
            self._keep(message, line)

    def after(self, seq: int) -> Iterator[tuple[int, bytes]]:
        """The messages after one, with their numbers.

        Raises:
            TooLate: if the next one has been given up.
        """
        first = self._seq - len(self._kept)
        if seq < first:
            raise TooLate(f"message {seq + 1} is no longer kept; the first that is, is {first + 1}")
        return iter([(at + 1, self._kept[at - first]) for at in range(seq, self._seq)])

    def bytes_after(self, seq: int) -> int:
        """How many bytes of messages come after one; those given up count as well."""
        first = self._seq - len(self._kept)
        if seq >= self._seq:
            return 0
        return self._n_bytes - (self._ends[seq - first - 1] if seq > first else 0)

    def turns(self) -> Iterator[TurnEnd]:
        """All turns that have ended."""
        return map(_turn_end, self._turns)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path) -> Told:
        told, whole = Told(), 0
        for number, line in enumerate(_lines(path)):
            whole += len(line)
            if number:
                message = msgspec.json.decode(line)
                told.count(message)
                self._keep(message, line[:-1])
        os.truncate(path, whole)  # what a kill left of a line was not sent
        return told

    def _keep(self, message: Mapping[str, Any], line: bytes) -> None:
        if message["type"] == "session.turn.done":
            self._turns.append(line)
        self._seq = message["seq"]
        self._n_bytes += len(line)
        self._kept.append(line)
        self._ends.append(self._n_bytes)
        while self._n_bytes - (self._ends[0] - len(self._kept[0])) > self._keep_bytes:
            if len(self._kept) == 1:
                break
            self._kept.popleft()
            self._ends.popleft()


def _locked(path: Path) -> BinaryIO:
    """A file to append to; the operating system unlocks it when the process ends."""
    file = open(path, "ab", buffering=0)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def header_of(path: Path) -> dict[str, Any]:
    """What the first line of a file of messages says.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    header = msgspec.json.decode(next(_lines(path), b""))
    if not isinstance(header, dict):
        raise ValueError("the first line is not an object")
    return header


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            yield line


def _turn_end(line: bytes) -> TurnEnd:
    turn = msgspec.json.decode(line)
    names = ("turn", "source_text", "target_text", "began_ms", "time_ms", "ended_by", "reason")
    return TurnEnd(
        **{name: turn[name] for name in names},
        source_span_words=tuple(turn["source_span_words"]),
        target_span_words=tuple(turn["target_span_words"]),
        token_ids=(),
        delays=tuple(turn["delays"]),
        word_times_ms=tuple(turn["word_times_ms"]),
    )
