"""A test set: sources, each with one or more reference translations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from mlx_simul.errors import DataError
from mlx_simul.evaluation.pairs import Pair, PairKeys, checked_pair, read_pairs, text_lines
from mlx_simul.machine.files import expanded


@dataclass(frozen=True)
class Item:
    """A source and its references, of which there is at least one."""

    source: str
    references: tuple[str, ...]


def read_corpus(
    path: str | PathLike[str],
    references: Sequence[str | PathLike[str]] = (),
    keys: PairKeys | None = None,
    split: str = "test",
    n_sources: int | None = None,
) -> list[Item]:
    """Read a test set.

    Args:
        path: pairs, as :func:`mlx_simul.evaluation.pairs.read_pairs` takes them, where those with
            the same source are its references; with ``references``, a text file, a source a line.
        references: text files with a translation a line, each in the order of the sources.
        keys: where a JSON record holds its texts.
        split: which part of a Hugging Face dataset.
        n_sources: take only this many sources, from the first.

    Raises:
        InvalidOptionError: if there is no such file.
        DataError: if a file cannot be used, the text files have different numbers of lines, or
            there is nothing in them.
    """
    if references:
        items = _aligned(expanded(path), [expanded(each) for each in references])
    else:
        items = group_by_source(read_pairs(path, keys, split))
    if not items:
        raise DataError(f"{path} holds no sentences; there is nothing to evaluate.")
    return items[:n_sources]


def group_by_source(pairs: Iterable[Pair]) -> list[Item]:
    """Distinct sources in their order, each with all its translations."""
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.source, []).append(pair.target)
    return [Item(source, tuple(targets)) for source, targets in references.items()]


def corpus_digest(items: Iterable[Item]) -> str:
    """SHA-256 of a test set, whatever files it came from."""
    digest = hashlib.sha256()
    for item in items:
        digest.update("\t".join((item.source, *item.references)).encode() + b"\n")
    return digest.hexdigest()


def _aligned(path: Path, references: Sequence[Path]) -> list[Item]:
    columns = [_all_lines(each) for each in (path, *references)]
    for other, column in zip(references, columns[1:], strict=True):
        if len(column) != len(columns[0]):
            raise DataError(
                f"{path} has {len(columns[0])} lines and {other} {len(column)}; a line of one must "
                "translate the same line of the other."
            )
    items = []
    for number, (source, *targets) in enumerate(zip(*columns, strict=True), 1):
        try:
            pairs = [checked_pair(source, target) for target in targets]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        items.append(Item(pairs[0].source, tuple(pair.target for pair in pairs)))
    return items


def _all_lines(path: Path) -> list[str]:
    lines = []
    for number, line in text_lines(path):
        if number != len(lines) + 1:
            raise DataError(
                f"{path}, line {len(lines) + 1} is empty, so lines of the files can no longer be "
                "matched. Put a sentence there, or take the line out of all files."
            )
        lines.append(line)
    return lines
