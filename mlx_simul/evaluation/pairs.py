"""Pairs of source and target from files, JSON lines or TSV, compressed or not, or from a dataset.

A line is a pair, or several of one source, checked as it is read; an error says which line of which
file is wrong.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.machine.files import expanded
from mlx_simul.text.characters import is_visible

MAX_LINE_CHARS = 1 << 16
"""A line with more characters than this is refused, compressed or not."""

_MAX_LINE_BYTES = 4 * MAX_LINE_CHARS
_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}


@dataclass(frozen=True)
class Pair:
    """A text and its translation; neither is empty."""

    source: str
    target: str


@dataclass(frozen=True)
class PairKeys:
    """Where a record holds the two texts.

    Attributes:
        source: key of the source text; dots go into nested records (``translation.en``).
        target: key of the target text, likewise; a list of texts makes a pair of each.
    """

    source: str = "source"
    target: str = "target"


def read_pairs(
    path_or_dataset: str | PathLike[str], keys: PairKeys | None = None, split: str = "train"
) -> Iterator[Pair]:
    """Read pairs one by one.

    Args:
        path_or_dataset: a file ``*.jsonl`` (one record a line) or ``*.tsv`` (source, tab, target),
            with ``.gz``, ``.xz`` or ``.bz2`` after it if compressed; otherwise the id of a Hugging
            Face dataset, which needs the package ``datasets``.
        keys: where a record holds the texts; ignored for TSV. split: which part of a Hugging Face
            dataset.

    Raises:
        InvalidOptionError: if there is no such file.
        DataError: if there is no such dataset, its format is unknown, or a line is not a pair.
    """
    keys = keys or PairKeys()
    path = expanded(path_or_dataset)
    if _parser(path, keys) is None:
        yield from _dataset_pairs(str(path_or_dataset), keys, split)
        return
    for _, _, pairs in read_lines(path, keys):
        yield from pairs


def read_lines(path: Path, keys: PairKeys) -> Iterator[tuple[int, str, list[Pair]]]:
    """Read the lines of a file that are not blank: number, text, and pairs.

    Args:
        path: ``*.jsonl`` or ``*.tsv``, perhaps compressed.
        keys: where a JSON record holds the texts; does not matter to TSV.

    Raises:
        InvalidOptionError: if there is no such file.
        DataError: if its format is unknown, or a line is not a pair.
    """
    parse = _parser(path, keys)
    if parse is None:
        raise InvalidOptionError(f"there is no file {path}; is the path right?")
    for number, line in text_lines(path):
        yield number, line, _explained(parse, line, f"{path}, line {number}")


def corpus_digest(pairs: Iterable[Pair]) -> str:
    """SHA-256 of pairs in their order, whatever file they came from."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.source}\t{pair.target}\n".encode())
    return digest.hexdigest()


def _parser(path: Path, keys: PairKeys) -> Callable[[str], list[Pair]] | None:
    """What turns a line of this file into pairs; nothing if this is not a file."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _OPENERS]
    match suffixes[-1:]:
        case [".jsonl"]:
            return lambda line: _pairs_of_record(json_record(line), keys)
        case [".tsv"]:
            return _pair_of_columns
    if path.exists():
        raise DataError(
            f"{path} is neither JSON lines (.jsonl) nor TSV (.tsv), with .gz, .xz or .bz2 after "
            "that if it is compressed; name it so, or convert it."
        )
    return None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1, each no longer than is allowed.

    Args:
        path: a text file, or a ``.gz``, ``.xz`` or ``.bz2`` of one.

    Raises:
        InvalidOptionError: if there is no such file.
        DataError: if it cannot be read, is not UTF-8, or a line is too long.
    """
    opener = _OPENERS.get(path.suffix, open)
    number = 0
    try:
        with opener(path, "rb") as file:
            while data := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                line = _decoded(data, number, path)
                if is_visible(line):
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise InvalidOptionError(f"there is no file {path}; is the path right?") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"{path}, after line {number}: the file cannot be read: {error}. Is the file whole, "
            "and of the kind that its name says?"
        ) from error


def _decoded(data: bytes, number: int, path: Path) -> str:
    """A line of a file as text.

    Raises:
        DataError: if it is too long, or not UTF-8.
    """
    where = f"{path}, line {number}:"
    too_long = DataError(
        f"{where} longer than {MAX_LINE_CHARS} characters; split the text into sentences or short "
        "passages."
    )
    if len(data) > _MAX_LINE_BYTES:  # and perhaps cut in the middle of a character
        raise too_long
    try:
        text = data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} not UTF-8: {error.reason}, {data[error.start : error.end]!r}; convert the "
            "file to UTF-8."
        ) from error
    if len(text) > MAX_LINE_CHARS:
        raise too_long
    if "\0" in text:
        raise DataError(
            f"{where} it holds a zero byte, as files in UTF-16 and files that are not text do; "
            "convert the file to UTF-8."
        )
    return text


def _explained(parse: Callable[[Any], list[Pair]], record: Any, where: str) -> list[Pair]:
    try:
        return parse(record)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def json_record(line: str) -> Any:
    """What a line of JSON holds.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}. Give one record a line.") from error


def _pair_of_columns(line: str) -> list[Pair]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(
            f"{len(columns)} columns where there must be two, source and target with a tab between."
        )
    return [checked_pair(*columns)]


def _pairs_of_record(record: Any, keys: PairKeys) -> list[Pair]:
    source, target = _lookup(record, keys.source), _lookup(record, keys.target)
    if target == []:
        raise ValueError("the list of targets is empty.")
    return [
        checked_pair(source, each) for each in (target if isinstance(target, list) else [target])
    ]


def _lookup(record: Any, key: str) -> Any:
    value = record
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"no key {key!r} here, only {known}; say which keys hold the texts.")
        value = value[part]
    return value


def checked_pair(source: Any, target: Any) -> Pair:
    """A pair, without white space around its texts.

    Raises:
        ValueError: if one is not a text, is empty, or holds half a character.
    """
    for name, text in (("source", source), ("target", target)):
        if not isinstance(text, str):
            raise ValueError(f"the {name} is not a text but {type(text).__name__}.")
        if not is_visible(text):
            raise ValueError(f"the {name} is empty: {text!r} shows no word.")
        if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"the {name} holds half a character (a lone surrogate).")
    return Pair(source.strip(), target.strip())


def _dataset_pairs(name: str, keys: PairKeys, split: str) -> Iterator[Pair]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InvalidOptionError(
            f"there is no file {name}; for a Hugging Face dataset of that id, install the "
            "package datasets (pip install mlx-simul[train])."
        ) from error
    try:
        rows = load_dataset(name, split=split)
    except Exception as error:  # a dataset's builder can fail in any way
        raise DataError(f"neither a file nor a dataset that loads: {name!r}: {error}") from error
    for number, record in enumerate(rows, 1):
        where = f"{name}, row {number}"
        yield from _explained(lambda row: _pairs_of_record(row, keys), record, where)
