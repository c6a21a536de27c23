"""Turns as subtitles: cues of two lines, timed by when their words were written.

The measures are those of Netflix's timed text style guide: two lines of 42 characters, 20
characters a second, from 5/6 of a second to 7 seconds a cue.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Literal

from mlx_simul.events import TurnEnd
from mlx_simul.text.segmenter import SourceSegmenter

Side = Literal["target", "source", "both"]

MAX_LINE_COLUMNS = 42
"""Columns of a line, of which a Chinese or Japanese character takes two."""

COLUMNS_PER_S = 20
MIN_CUE_MS, MAX_CUE_MS = 833, 7000

_VTT_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True)
class Cue:
    """One subtitle.

    Attributes:
        number: from 1.
        start_ms: when it appears, since the stream began.
        end_ms: when it goes; no later than the next one appears.
        lines: at most two; longer than ``MAX_LINE_COLUMNS`` only where a word is.
    """

    number: int
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


class CueMaker:
    """Makes the cues of a stream, turn by turn.

    A cue appears when its first word was complete, or once the cue before it has gone. It stays as
    long as its words took, and long enough to be read. So a translation that is written faster than
    one can read has cues that come later and later, and none that overlap.

    Args:
        side: the text to show; ``"both"`` has the source above the target.
    """

    def __init__(self, side: Side = "target") -> None:
        self._side: Side = side
        self._n_cues = 0
        self._free_ms = 0.0  # when the last cue has gone

    def cues(self, end: TurnEnd) -> list[Cue]:
        """The cues of the next turn; none if it has no text to show."""
        source = _Text(end.source_text, source_times_ms(end), end.time_ms)
        target = _Text(end.target_text, end.word_times_ms, end.time_ms)
        if self._side == "both":
            n_lines = max(source.n_lines, target.n_lines)
            groups = zip_longest(source.lines(n_lines), target.lines(n_lines))
        else:
            text = source if self._side == "source" else target
            lines = text.lines(text.n_lines + (text.n_lines > 1) * (text.n_lines % 2))
            groups = zip_longest(lines[::2], lines[1::2])
        return [self._cue([line for line in group if line is not None]) for group in groups]

    def _cue(self, lines: Sequence[_Line]) -> Cue:
        start_ms = max(min(line.first_ms for line in lines), self._free_ms)
        columns = [_columns(line.text) for line in lines]
        # Of two languages a reader reads one.
        n_columns = max(columns) if self._side == "both" else sum(columns)
        read_ms = 1000 * n_columns / COLUMNS_PER_S
        written_ms = max(line.last_ms for line in lines) - start_ms
        duration_ms = min(max(read_ms, written_ms, MIN_CUE_MS), MAX_CUE_MS)
        self._free_ms = start_ms + duration_ms
        self._n_cues += 1
        # Both ends are rounded down, so what did not overlap does not.
        return Cue(
            self._n_cues,
            int(start_ms),
            int(self._free_ms),
            tuple(line.text for line in lines),
        )


def source_times_ms(end: TurnEnd) -> tuple[float, ...]:
    """For each source word of a turn, when it had been read at the latest.

    A turn does not say when each was read, but a target word with a delay of d was written once d
    source words had been read.
    """
    first, behind = end.source_span_words
    times_ms = []
    written = list(zip(end.delays, end.word_times_ms, strict=True))
    for word in range(first, behind):
        times_ms.append(next((ms for delay, ms in written if delay > word), end.time_ms))
    return tuple(times_ms)


def srt(cue: Cue) -> str:
    """A cue in SubRip's format, which has no escapes: an arrow in the text loses its head."""
    lines = "\n".join(cue.lines).replace("-->", "--")
    return f"{cue.number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{lines}\n\n"


def vtt(cue: Cue) -> str:
    """A cue in WebVTT, to follow ``VTT_HEADER``."""
    lines = re.sub("[&<>]", lambda found: _VTT_ENTITIES[found[0]], "\n".join(cue.lines))
    return f"{cue.number}\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{lines}\n\n"


VTT_HEADER = "WEBVTT\n\n"


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


@dataclass(frozen=True)
class _Line:
    text: str
    first_ms: float  # when its first word was complete
    last_ms: float


class _Text:
    """The text of a turn, in units that a line is not broken within, with times.

    Args:
        text: of one side.
        times_ms: when each of its words was complete.
        end_ms: stands for them where there are none.
    """

    def __init__(self, text: str, times_ms: Sequence[float], end_ms: float) -> None:
        segmenter = SourceSegmenter()
        words = [*segmenter.feed(text), *segmenter.finish()]
        self._ends = list(accumulate(map(len, words)))
        self._times_ms = _spread(times_ms or (end_ms,), len(words))
        self._units = _units(words)
        self.n_lines = len(_wrapped(self._units, MAX_LINE_COLUMNS))

    def lines(self, n_most: int) -> list[_Line]:
        """The text in no more than this many lines, of about the same length."""
        widths = range(1, MAX_LINE_COLUMNS + 1)
        wrapped = (_wrapped(self._units, width) for width in widths)
        texts = next(lines for lines in wrapped if len(lines) <= n_most) if self._units else []
        made, at = [], 0
        for text in texts:
            first, at = at, at + len(text)
            last = next(i for i, end in enumerate(self._ends) if end >= at)
            begin = next(i for i, end in enumerate(self._ends) if end > first)
            made.append(_Line(text.strip(), self._times_ms[begin], self._times_ms[last]))
        return made


def _spread(times_ms: Sequence[float], n_words: int) -> list[float]:
    """A time for each word of a text, where the model may have counted its words otherwise.

    "3.5" is two words to a policy, for instance, since the point ends one.
    """
    n_times = len(times_ms)
    return [times_ms[-(-(i + 1) * n_times // n_words) - 1] for i in range(n_words)]


def _units(words: Sequence[str]) -> list[str]:
    """Words with the punctuation that stands by itself after or before them."""
    units: list[str] = []
    for word in words:
        kinds = _kinds(word)
        opens = bool(units) and _kinds(units[-1]) <= {"Ps", "Pi"}
        closes = bool(units) and all(kind[0] == "P" for kind in kinds) and not kinds & {"Ps", "Pi"}
        if opens or closes:
            units[-1] += word
        else:
            units.append(word)
    return units


def _columns(text: str) -> int:
    from rich.cells import cell_len  # only here, so that the command's help need not load it

    return cell_len(text)


def _kinds(text: str) -> set[str]:
    return {unicodedata.category(character) for character in text.strip()}


def _wrapped(units: Sequence[str], columns: int) -> list[str]:
    """The units in lines of at most this many columns, except for a unit that is longer."""
    lines: list[str] = []
    for unit in units:
        if lines and _columns((lines[-1] + unit).strip()) <= columns:
            lines[-1] += unit
        else:
            lines.append(unit)
    return lines
