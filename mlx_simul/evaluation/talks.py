"""Talks: documents of several sentences, heard as one stream, and when each word is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from os import PathLike
from pathlib import Path
from typing import Any

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.corpus import Item, read_corpus
from mlx_simul.evaluation.pairs import PairKeys, checked_pair, json_record, read_lines, text_lines
from mlx_simul.evaluation.units import said_by
from mlx_simul.machine.files import expanded

WORD_MS = 400.0
"""From one source word of speech to the next: 150 words a minute, a calm speaker."""


@dataclass(frozen=True)
class Sentence:
    """A source sentence of a talk, its translations, and when it was said.

    Times are milliseconds since the talk began.

    Attributes:
        source: one sentence.
        references: its translations, at least one.
        start_ms: when its first word began.
        said_ms: for each of its words, when it had been said. Words are those of a session, so that
            in a script without spaces each grapheme is one.
    """

    source: str
    references: tuple[str, ...]
    start_ms: float
    said_ms: tuple[float, ...]

    @property
    def duration_ms(self) -> float:
        """From its first word's beginning to its last word's end."""
        return self.said_ms[-1] - self.start_ms


@dataclass(frozen=True)
class Talk:
    """Sentences that follow each other in one stream.

    Attributes:
        sentences: at least one.

    Raises:
        DataError: if there is no sentence, or one has no references, not a time for each word,
            times that decrease, or no duration.
    """

    sentences: tuple[Sentence, ...]

    def __post_init__(self) -> None:
        if not self.sentences:
            raise DataError("a talk without sentences; leave it out.")
        end_ms = 0.0
        for number, sentence in enumerate(self.sentences, 1):
            _check(sentence, f"sentence {number} of a talk, {sentence.source!r:.80},", end_ms)
            end_ms = sentence.said_ms[-1]

    @property
    def source(self) -> str:
        """What a session is fed: all sentences, a space between them."""
        return " ".join(sentence.source for sentence in self.sentences)

    @cached_property
    def said_ms(self) -> tuple[float, ...]:
        """For each word of the talk, when it had been said."""
        return tuple(ms for sentence in self.sentences for ms in sentence.said_ms)

    @cached_property
    def said(self) -> tuple[float, ...]:
        """Words of speech in the first words of the talk, from none of them to all."""
        each = [said_by(sentence.source) for sentence in self.sentences]
        before = accumulate((said[-1] for said in each), initial=0)
        return (0, *(b + s for b, said in zip(before, each, strict=False) for s in said[1:]))


def talk_at_pace(items: Sequence[Item], word_ms: float = WORD_MS) -> Talk:
    """Sentences said one after another without pauses.

    Args:
        items: the sentences, with their references.
        word_ms: milliseconds from one source word of speech to the next.

    Raises:
        InvalidOptionError: for a pace that is not a positive number.
        DataError: as :class:`Talk`.
    """
    if not 0 < word_ms < math.inf:
        raise InvalidOptionError(f"word_ms must be a number above 0, got {word_ms}.")
    sentences: list[Sentence] = []
    before = 0.0
    for item in items:
        said = said_by(item.source)
        ends = tuple((before + each) * word_ms for each in said[1:])
        sentences.append(Sentence(item.source, item.references, before * word_ms, ends))
        before += said[-1]
    return Talk(tuple(sentences))


def read_talks(
    path: str | PathLike[str],
    references: Sequence[str | PathLike[str]] = (),
    keys: PairKeys | None = None,
    split: str = "test",
    sentences_per_talk: int | None = None,
    word_ms: float = WORD_MS,
) -> list[Talk]:
    """Read a test set of talks.

    A blank line ends a talk, unless ``sentences_per_talk`` is given. In a JSON record ``said_ms``
    may hold the time at which each word of the sentence had been said, since the beginning of the
    talk, and ``start_ms`` when its first word began (by default, when the word before it ended).

    Args:
        path: ``.jsonl`` or ``.tsv``, a sentence a line; a line that is a JSON record may hold
            several targets. With ``references``, a text file with a source sentence a line.
        references: text files with a translation a line, each with the blank lines of ``path``.
        keys: where a JSON record holds its texts.
        split: which part of a Hugging Face dataset.
        sentences_per_talk: cut an ordinary test set, as
            :func:`mlx_simul.evaluation.corpus.read_corpus` reads it, into talks of this many
            sentences, said at a pace; the last may be shorter.
        word_ms: the pace where no times are given, as :func:`talk_at_pace` takes it.

    Raises:
        InvalidOptionError: if there is no such file, or for a number that is not positive.
        DataError: if a file cannot be used, files have different lines, times do not fit, or there
            is nothing in them.
    """
    if sentences_per_talk is not None:
        if sentences_per_talk < 1:
            raise InvalidOptionError(
                f"sentences_per_talk must be at least 1, got {sentences_per_talk}."
            )
        items = read_corpus(path, references, keys, split)
        starts = range(0, len(items), sentences_per_talk)
        return [talk_at_pace(items[i : i + sentences_per_talk], word_ms) for i in starts]
    file = expanded(path)
    if references:
        lines = _aligned_lines(file, [expanded(each) for each in references])
    else:
        lines = _lines(file, keys or PairKeys())
    talks = [_talk(document, word_ms, file) for document in _documents(lines)]
    if not talks:
        raise DataError(f"{path} holds no sentences; there is nothing to evaluate.")
    return talks


@dataclass(frozen=True)
class _Line:
    """A sentence in a file, with the times that are given there."""

    number: int
    item: Item
    times: dict[str, Any]


def _lines(path: Path, keys: PairKeys) -> Iterator[_Line]:
    if not path.exists():
        raise InvalidOptionError(
            f"there is no file {path}. Talks are read from a file with blank lines between them; "
            "a dataset is cut into talks by a number of sentences (sentences_per_talk)."
        )
    is_json = ".jsonl" in path.suffixes
    for number, line, pairs in read_lines(path, keys):
        record = json_record(line) if is_json else {}
        times = {name: record[name] for name in ("start_ms", "said_ms") if name in record}
        targets = tuple(pair.target for pair in pairs)
        yield _Line(number, Item(pairs[0].source, targets), times)


def _aligned_lines(path: Path, references: Sequence[Path]) -> Iterator[_Line]:
    columns = [dict(text_lines(each)) for each in (path, *references)]
    for other, column in zip(references, columns[1:], strict=True):
        if odd := sorted(column.keys() ^ columns[0].keys()):
            raise DataError(
                f"line {odd[0]} is blank in only one of {path} and {other}; a line of one must "
                "translate the same line of the other, and blank lines end talks in both."
            )
    for number, source in columns[0].items():
        try:
            pairs = [checked_pair(source, column[number]) for column in columns[1:]]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        yield _Line(number, Item(pairs[0].source, tuple(pair.target for pair in pairs)), {})


def _documents(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Runs of lines without a blank one between them."""
    document: list[_Line] = []
    for line in lines:
        if document and line.number > document[-1].number + 1:
            yield document
            document = []
        document.append(line)
    if document:
        yield document


def _talk(document: Sequence[_Line], word_ms: float, path: Path) -> Talk:
    where = f"{path}, lines {document[0].number} to {document[-1].number}:"
    timed = [line for line in document if line.times]
    try:
        if not timed:
            return talk_at_pace([line.item for line in document], word_ms)
        sentences: list[Sentence] = []
        for line in document:
            before_ms = sentences[-1].said_ms[-1] if sentences else 0.0
            sentences.append(_timed_sentence(line, before_ms))
        return Talk(tuple(sentences))
    except DataError as error:
        raise DataError(f"{where} {error}") from error


def _timed_sentence(line: _Line, before_ms: float) -> Sentence:
    said_ms, start_ms = line.times.get("said_ms"), line.times.get("start_ms", before_ms)
    if not isinstance(said_ms, list) or not said_ms or not _are_times([start_ms, *said_ms]):
        raise DataError(
            f"line {line.number} has start_ms {start_ms!r:.40} and said_ms {said_ms!r:.80}; give "
            "each sentence of a talk a list of milliseconds, one for each word, or give none."
        )
    return Sentence(line.item.source, line.item.references, start_ms, tuple(said_ms))


def _check(sentence: Sentence, name: str, end_ms: float) -> None:
    """Check that a sentence can follow one that ended at ``end_ms``."""
    if not sentence.references:
        raise DataError(f"{name} has no references; give it at least one.")
    n_words = len(said_by(sentence.source)) - 1
    if not n_words or n_words != len(sentence.said_ms):
        raise DataError(
            f"{name} has {n_words} words and times for {len(sentence.said_ms)}; give one for each "
            "word, of which there must be one. Another version may have counted otherwise."
        )
    times = (end_ms, sentence.start_ms, *sentence.said_ms)
    if not _are_times(times) or any(later < earlier for earlier, later in pairwise(times)):
        raise DataError(
            f"{name} has times that decrease: {times!s:.200}. The first is the end of the sentence "
            "before, then come its start and its words; give them in milliseconds since the talk "
            "began, none earlier than the one before it."
        )
    if not sentence.duration_ms > 0:
        raise DataError(
            f"{name} takes no time: it begins and ends at {sentence.start_ms} ms. Give it an "
            "earlier start, or its words later times."
        )


def _are_times(values: Iterable[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        for value in values
    )
