"""How far a session has got, as two panels: source and target."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlx_simul.events import Event, Finished, Read, Tail, TurnEnd, Write
from mlx_simul.machine.terminal import harmless
from mlx_simul.text.segmenter import SourceSegmenter

if TYPE_CHECKING:
    from mlx_simul.console.live import Arrival

MIN_SIDE_BY_SIDE_COLUMNS = 48
"""In a narrower terminal the target stands below the source."""

KEPT_CHARS = 16_384
"""How much of the end of each text is kept: a talk of hours takes no more memory and time than
this."""

KEPT_NOTES = 8

# Room after the panels for the "^C" that a terminal echoes: without it the cursor would be on
# another line than rich's Live believes.
_MARGIN_COLUMNS = 2
_BORDERS = 4  # columns of a panel that are not text
_FRAME_ROWS = 2  # rows likewise


class Progress:
    """How far a session has got, as text and as counts of words.

    Attributes:
        read_text: the source that was read; its last ``KEPT_CHARS``, as of the target.
        unread_text: the source that has arrived and was not read, a half word at its end included.
        tail_text: what a recogniser may still change, after the unread source.
        target_text: the target.
        words_read: source words read.
        words_waiting: whole source words that have arrived and were not read.
        words_written: target words complete.
        last_delay_words: source words read when the last target word was written.
        source_ended: no more source will come.
        finished: the session's last event.
        notes: remarks, such as warnings; the last ``KEPT_NOTES``.
    """

    def __init__(self) -> None:
        self.read_text = ""
        self.unread_text = ""
        self.tail_text = ""
        self.target_text = ""
        self.words_read = 0
        self.words_waiting = 0
        self.words_written = 0
        self.last_delay_words = 0
        self.source_ended = False
        self.finished: Finished | None = None
        self.notes: deque[str] = deque(maxlen=KEPT_NOTES)
        self._segmenter = SourceSegmenter()

    def arrive(self, piece: Arrival) -> None:
        """Take note of a piece of the source, or of its end (``None``)."""
        if piece is not None:
            text = piece if isinstance(piece, str) else piece.text
            self.unread_text += text
            self.words_waiting += len(self._segmenter.feed(text))
            if not isinstance(piece, str):
                self.tail_text = piece.tail
        elif not self.source_ended:
            self.source_ended = True
            self.words_waiting += len(self._segmenter.finish())

    def update(self, event: Event | Tail) -> None:
        """Take note of an event."""
        if isinstance(event, Read):
            self._read(event)
        elif isinstance(event, Tail):
            self.tail_text = event.unstable
        elif isinstance(event, Write):
            self.target_text = _joined(self.target_text, event.text)
            self.words_written = event.target_words_generated
            if event.word_complete:
                self.last_delay_words = event.source_words_read
        elif isinstance(event, TurnEnd):
            self.read_text = _ended(self.read_text)
            self.target_text = _ended(self.target_text)
        elif isinstance(event, Finished):
            self.finished = event

    def _read(self, event: Read) -> None:
        self.words_read = event.source_words_read
        if not event.source:
            return
        self.read_text = _joined(self.read_text, event.source)
        self.words_waiting = max(self.words_waiting - 1, 0)
        word, unread = event.source.strip(), self.unread_text.lstrip()
        # What stands before a word shows nothing. Of a word that a journal held, only the end has
        # arrived here, or nothing.
        if (at := unread.find(word)) >= 0:
            self.unread_text = unread[at + len(word) :]
        else:
            ends = (word[i:] for i in range(1, len(word) + 1))
            self.unread_text = unread[len(next(filter(unread.startswith, ends))) :]


def _joined(text: str, piece: str) -> str:
    """The end of a text and what is added to it, after a mark if a beginning is dropped."""
    if text.endswith("\n"):
        piece = piece.lstrip(" ").removeprefix("\n")  # a paragraph begins with two line breaks
    text += piece
    return text if len(text) <= KEPT_CHARS else f"… {text[-KEPT_CHARS // 2 :].lstrip()}"


def _ended(text: str) -> str:
    """A text after which the next turn has a line to itself."""
    return text if not text or text.endswith("\n") else f"{text}\n"


def render(
    progress: Progress,
    console: Console,
    labels: tuple[str, str] = ("Source", "Target"),
    max_rows: int | None = None,
) -> RenderableType:
    """Lays out source and target side by side, or one below the other in a narrow terminal.

    Args:
        progress: what to show.
        console: whose width to fit.
        labels: what stands above source and target.
        max_rows: rows to fit, by showing the end of each text and the start of what waits; by
            default both texts are shown whole.
    """
    width = max(console.width - _MARGIN_COLUMNS, _BORDERS + 1)
    is_stacked = width < MIN_SIDE_BY_SIDE_COLUMNS
    panel_width = width if is_stacked else width // 2
    notes = [Text(harmless(note), style="yellow") for note in progress.notes]

    columns, text_rows = panel_width - _BORDERS, None
    if max_rows is not None:
        rows = max_rows - len(notes)
        text_rows = max(rows // (2 if is_stacked else 1) - _FRAME_ROWS, 1)
    texts = (
        _source_text(progress, columns, text_rows),
        Text(harmless(_tail(progress.target_text, columns, text_rows).strip())),
    )
    wrapped = [list(text.wrap(console, columns, overflow="fold")) or [Text()] for text in texts]
    if text_rows is not None:
        wrapped = [lines[-text_rows:] for lines in wrapped]
    height = None if is_stacked else max(map(len, wrapped)) + _FRAME_ROWS
    panels = [
        Panel(
            Text("\n").join(lines),
            title=Text(harmless(label)),
            subtitle=_fitting(counts, columns - 2),
            width=panel_width,
            height=height,
        )
        for lines, label, counts in zip(
            wrapped, labels, (_source_counts(progress), _target_counts(progress)), strict=True
        )
    ]
    if is_stacked:
        return Group(*panels, *notes)
    grid = Table.grid()
    grid.add_row(*panels)
    return Group(grid, *notes)


def _source_text(progress: Progress, columns: int, rows: int | None) -> Text:
    unread = " ".join(progress.unread_text.split())
    unstable = " ".join(progress.tail_text.split())
    if rows is not None:
        # Otherwise what waits would push what is being read off the screen.
        room = max(rows * columns // 3, columns)
        unread = unread if len(unread) <= room else f"{unread[:room]} …"
        unstable = unstable if len(unstable) <= room else f"{unstable[:room]} …"
    read = _tail(progress.read_text, columns, rows)
    text = Text(harmless(read if unread or unstable else read.rstrip("\n")))
    if unread:
        is_apart = read and not read.endswith("\n") and progress.unread_text[:1].isspace()
        joint = " " if is_apart else ""
        text.append(harmless(joint + unread), style="dim")
    if unstable:
        joint = "" if not text or text.plain.endswith("\n") else " "
        text.append(harmless(joint + unstable), style="dim italic")
    return text


def _tail(text: str, columns: int, rows: int | None) -> str:
    # Wrapping a long session whole, for every token, would take longer and longer.
    return text if rows is None else text[-rows * columns :]


def _source_counts(progress: Progress) -> list[str]:
    waiting = [f"{progress.words_waiting} waiting"] if progress.words_waiting else []
    return [f"{progress.words_read} read", *waiting]


def _target_counts(progress: Progress) -> list[str]:
    counts = [f"{progress.words_written} written"]
    if progress.finished is not None and progress.finished.reason != "end_of_turn":
        counts.append(progress.finished.reason)
    if progress.words_written:
        counts.append(f"last after {progress.last_delay_words}")
    return counts


def _fitting(parts: list[str], columns: int) -> str:
    # A number cut short would be a wrong number.
    while parts and len(", ".join(parts)) > columns:
        parts = parts[:-1]
    return ", ".join(parts)
