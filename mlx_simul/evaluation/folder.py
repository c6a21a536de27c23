"""Where an evaluation keeps its records: a line for each translation, as soon as it is there.

An evaluation that was stopped goes on from what its folder holds. It holds records of one setting:
one model, one test set, one way to translate. Policies may join.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date as Date
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.machine.files import read_object, write_whole

# Not in a file's name, or not at its beginning.
_UNSAFE = re.compile(r"[^A-Za-z0-9.,=+_-]|^\.")

# Suffixes of the files that a checkpoint is loaded from.
_PARTS = {".json", ".safetensors", ".jinja", ".model", ".txt"}


class _Line(Protocol):
    """A record that is a line."""

    @property
    def index(self) -> int:
        """The index of its source in the test set, from 0."""
        ...

    def to_json(self) -> str:
        """The line."""
        ...

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record of a line."""
        ...


AnyRecord = TypeVar("AnyRecord", bound=_Line)
"""A record of a translation, or of a talk."""


class ResultFolder(Generic[AnyRecord]):
    """The folder of one evaluation.

    Args:
        path: made if it is not there.
        setting: all that decides what a translation is, its policy excepted; as JSON has it.
        kind: the class of its records.
        date: what chat templates take for today, as in "2026-07-30"; by default the day on which
            the folder's first translation was made.
        rank: of this process among those that share the work; each adds to files of its own.

    Attributes:
        date: likewise.

    Raises:
        InvalidOptionError: if the folder holds records of another setting, is a file, or cannot be
            written.
    """

    def __init__(
        self,
        path: Path,
        setting: Mapping[str, Any],
        kind: type[AnyRecord],
        date: str | None = None,
        rank: int = 0,
    ) -> None:
        self.path, self.setting, self._kind, self._rank = path, setting, kind, rank
        if path.exists() and not path.is_dir():
            raise InvalidOptionError(f"{path} is a file; name a folder for the results.")
        told = json.loads(json.dumps(setting))
        settings = path / "setting.json"
        # A setting under which nothing could be translated does not bind the folder.
        holds_records = any(log.stat().st_size for log in path.glob("*/records*.jsonl"))
        begun = (
            read_object(settings, InvalidOptionError, "Remove the folder, or name another one.")
            if holds_records and settings.is_file()
            else {**told}
        )
        # One date for all, though the work go on for days.
        self.date: str = date or begun.get("date") or Date.today().isoformat()
        told["date"] = self.date
        begun.setdefault("date", self.date)
        for name in sorted(told.keys() | begun.keys()):
            if begun.get(name) != told.get(name):
                raise InvalidOptionError(
                    f"the translations in {path} were made with another setting of {name}: "
                    f"{begun.get(name)!r}, and now it is {told.get(name)!r}. Name another folder, "
                    "or remove this one."
                )
        text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
        try:
            # Where ranks share a disk, only the first of them writes.
            if not settings.is_file() or settings.read_text("utf-8") != text:
                write_whole(settings, text)
        except OSError as error:
            raise InvalidOptionError(
                f"{path} cannot be written: {error}; name another folder for the results."
            ) from error

    def of_policy(self, spec: str) -> Path:
        """Where the files of a policy are."""
        return self.path / _UNSAFE.sub("_", spec)

    def records(self, spec: str) -> dict[int, AnyRecord]:
        """What is recorded of a policy, by any rank, by index of the source.

        A last line that was cut off in writing is taken out.

        Raises:
            DataError: if another line is damaged.
        """
        found: dict[int, AnyRecord] = {}
        for path in self._logs(spec):
            for record in self._read(path):
                found.setdefault(record.index, record)
        return found

    def _read(self, path: Path) -> Iterator[AnyRecord]:
        held = path.read_bytes()
        whole = held[: held.rfind(b"\n") + 1]
        if len(whole) < len(held):
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.decode("utf-8").splitlines(), 1):
            try:
                yield self._kind.from_json(line)
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from error

    def in_order(self, spec: str, n_sources: int) -> list[AnyRecord]:
        """The records of a policy, of all sources in their order."""
        held = self.records(spec)
        return [held[index] for index in range(n_sources)]

    def append(self, spec: str, record: AnyRecord) -> None:
        """Add a record of a policy."""
        path = self._log(spec, self._rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")

    def join(self, spec: str, lines: Iterable[str] = ()) -> None:
        """Bring the records of all ranks into the file of rank 0, in the order of their sources.

        Args:
            spec: a policy.
            lines: records that no file here holds.
        """
        records = self.records(spec) | {
            record.index: record for record in map(self._kind.from_json, lines)
        }
        first = self._log(spec, 0)
        write_whole(first, "".join(records[index].to_json() + "\n" for index in sorted(records)))
        for path in self._logs(spec):
            if path != first:
                path.unlink()

    def _log(self, spec: str, rank: int) -> Path:
        return self.of_policy(spec) / (f"records.{rank}.jsonl" if rank else "records.jsonl")

    def _logs(self, spec: str) -> list[Path]:
        return sorted(self.of_policy(spec).glob("records*.jsonl"))

    def require_distinct(self, specs: Iterable[str]) -> None:
        """Check that each policy has files of its own.

        Raises:
            InvalidOptionError: if not.
        """
        taken: dict[Path, str] = {}
        for spec in specs:
            other = taken.setdefault(self.of_policy(spec), spec)
            if other != spec:
                raise InvalidOptionError(
                    f"the policies {other!r} and {spec!r} would share {self.of_policy(spec)}; "
                    "evaluate them into different folders."
                )


def files_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's files: config, weights, tokenizer, adapters.

    ``record.json`` says how the checkpoint was made, and decides no translation.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_part = path.suffix in _PARTS and path.name != "record.json"
        if not (is_part and path.is_file()):
            continue
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
