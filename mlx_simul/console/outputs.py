"""Files that a translation is written to, turn by turn, while it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_simul.console.arguments import require_writable
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.events import TurnEnd
from mlx_simul.stream.subtitles import Side
from mlx_simul.stream.transcripts import TRANSCRIPT_KINDS, transcript_form

ENDINGS = tuple(f".{kind}" for kind in TRANSCRIPT_KINDS)
"""The endings of the files that can be written."""


class OutputFile:
    """A file that turns are added to; what is in it is whole turns, whatever ends the process.

    A file that has some of them goes on: they are added again, and what is there already is
    compared with them and left as it is.

    Args:
        path: of one of the ``ENDINGS``.
        side: the text to write.
        overwrite: drop what the file holds.

    Raises:
        SimulError: if it cannot be written.
    """

    def __init__(self, path: Path, side: Side, *, overwrite: bool = False) -> None:
        self.path = path
        header, self._form = transcript_form(path.suffix.lower()[1:], side)
        self._end = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if overwrite else 0)
        try:
            # Unbuffered, since what a buffer holds is lost in a kill.
            self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise self._refused(error) from error
        try:
            self._put(header)
        except BaseException:
            self.close()
            raise

    def add(self, end: TurnEnd) -> None:
        """Write a turn, or find that it is there.

        Raises:
            SimulError: if it cannot be written, or something else is there.
        """
        self._put(self._form(end))

    def require_end(self) -> None:
        """Check that the file ends here.

        Raises:
            InvalidOptionError: if it goes on.
        """
        if self._file.read(1):
            raise self._differs()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _put(self, text: str) -> None:
        # A lone surrogate would be an error, and a file in UTF-8 cannot say it.
        data = text.encode("utf-8", "replace")
        try:
            held = self._file.read(len(data))
            if not data.startswith(held):
                raise self._differs()
            self._append(data[len(held) :])
        except OSError as error:
            raise self._refused(error) from error
        self._end += len(data)

    def _append(self, data: bytes) -> None:
        start = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(start)  # half a turn would spoil those after it
            raise

    def _refused(self, error: OSError) -> SimulError:
        return SimulError(f"the output {self.path} cannot be written: {error.strerror or error}.")

    def _differs(self) -> InvalidOptionError:
        return InvalidOptionError(
            f"{self.path} is not the output of this journal: it differs after byte {self._end}. "
            "Name another file, or give --overwrite."
        )


def require_outputs(
    paths: Sequence[Path],
    inputs: Iterable[Path],
    *,
    may_exist: bool,
    otherwise: str = "or give --overwrite",
) -> None:
    """Check that all can be written, as far as can be known before.

    Args:
        paths: what is to be written.
        inputs: files that must not be overwritten.
        may_exist: accept a file that exists already.
        otherwise: what else to do about a file that exists, besides naming another one.

    Raises:
        InvalidOptionError: if one cannot.
    """
    taken = {path.resolve() for path in inputs}
    for path in paths:
        if path.suffix.lower() not in ENDINGS:
            raise InvalidOptionError(
                f"--output writes {', '.join(ENDINGS)} files, got {path.name!r}."
            )
        require_writable(path)
        if path.exists() and not path.is_file():
            raise InvalidOptionError(f"--output {path} is not a regular file; name another one.")
        if path.exists() and not may_exist:
            raise InvalidOptionError(f"--output {path} exists; name another file, {otherwise}.")
        if path.resolve() in taken:
            raise InvalidOptionError(f"--output {path}: this file is named twice.")
        taken.add(path.resolve())
