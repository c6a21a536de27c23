"""The command ``demo``: somebody speaks, and the translation follows, live."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from types import TracebackType

from mlx_simul.console.arguments import utf8
from mlx_simul.console.destination import is_terminal
from mlx_simul.console.live import INCOMPLETE, Arrival, View, exit_code, run_session
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.latency import length_adaptive_average_lagging
from mlx_simul.events import Event, Finished, Read, Tail, TurnEnd, Write
from mlx_simul.machine.terminal import emit, harmless, say

PASSAGE = (
    "Can I ask you a question? I have never been to Paris. My brother lives there with his wife "
    "and two children. My train leaves at seven o'clock. What are you going to do tomorrow?"
)
"""Everyday sentences, as the packaged model knows them."""

PACE = 150.0
"""Words a minute of an unhurried speaker."""

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MIN_SOURCE_COLUMNS = 12


class Speech:
    """A source whose words, as a session counts them, arrive one by one as if they were spoken.

    Args:
        text: what is said.
        words_per_minute: how fast, in words of speech, which are equally long in any script; 0 for
            all at once, yet word by word.
        clock: seconds; any start.
        sleep: waits for a number of seconds.

    Attributes:
        has_pace: words take their time.
        word_times_s: when each word that was taken had been said, by the clock.
        said: how much is said with each number of words, from 0 on, in words of speech.
    """

    def __init__(
        self,
        text: str,
        words_per_minute: float,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from mlx_simul.evaluation.translate import live_chunks
        from mlx_simul.evaluation.units import said_by

        self._words = live_chunks(text)
        self.said = said_by(text)
        self._seconds = 60 / words_per_minute if words_per_minute else 0.0
        self.has_pace = bool(self._seconds)
        self._clock = clock
        self._sleep = sleep
        self._began_s: float | None = None
        self.word_times_s: list[float] = []

    def read(self, *, wait: bool = True) -> str | None:
        """The next word and its space; ``""`` if it is not yet said; ``None`` at the end."""
        now_s = self._clock()
        if self._began_s is None:
            self._began_s = now_s
        n_said = len(self.word_times_s)
        if n_said == len(self._words):
            return None
        due_s = self._began_s + self.said[n_said + 1] * self._seconds
        if now_s < due_s:
            if not wait:
                return ""
            self._sleep(due_s - now_s)
        # A listener who comes late hears a word that was said when it was due.
        self.word_times_s.append(due_s if self._seconds else self._clock())
        return self._words[n_said]


class Recorder:
    """Passes everything on to a view, and keeps what the figures at the end are made of.

    Args:
        view: what shows it.
        clock: that of the speech.
    """

    def __init__(self, view: View, clock: Callable[[], float] = time.perf_counter) -> None:
        self._view = view
        self._clock = clock
        self.words: list[str] = []
        self.times_s: list[float] = []
        self.delays: list[int] = []
        self.finished: Finished | None = None
        self._word = ""

    def __enter__(self) -> Recorder:
        self._view.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view.__exit__(kind, error, traceback)

    def arrived(self, piece: Arrival) -> None:
        """A piece of the source has arrived, or its end."""
        self._view.arrived(piece)

    def show(self, event: Event | Tail) -> None:
        """The session said this."""
        if isinstance(event, Write):
            self._word += event.text
            if event.word_complete:
                self.words.append(self._word.strip())
                self.times_s.append(self._clock())
                self._word = ""
        elif isinstance(event, TurnEnd | Finished):
            self.delays += event.delays
            self._word = ""  # a limit may have cut one
        if isinstance(event, Finished):
            self.finished = event
        self._view.show(event)

    def note(self, remark: str) -> None:
        """A warning."""
        self._view.note(remark)


class Staircase:
    """Plain lines: each source word as it is read, beside what was written because of it.

    Args:
        columns: of the source; longer words push the target to the right.
    """

    def __init__(self, columns: int) -> None:
        self._columns = max(columns, _MIN_SOURCE_COLUMNS)
        self._row: tuple[str, str] | None = None

    def __enter__(self) -> Staircase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or not issubclass(kind, BrokenPipeError):
            self._end_row()

    def arrived(self, piece: Arrival) -> None:
        """Shows nothing."""

    def show(self, event: Event | Tail) -> None:
        """A read ends the line before it; what is written goes on with its own."""
        if isinstance(event, Read):
            self._end_row()
            self._row = event.source.strip(), ""
        elif isinstance(event, Write):
            source, target = self._row or ("", "")
            self._row = source, target + event.text

    def note(self, remark: str) -> None:
        """Goes to standard error."""
        say(f"warning: {remark}")

    def _end_row(self) -> None:
        if self._row is not None and any(self._row):
            source, target = map(harmless, self._row)
            emit(f"{source:{self._columns}}  {target.strip()}".rstrip() + "\n")
        self._row = None


def with_delays(words: Sequence[str], delays: Sequence[int]) -> str:
    """Target words, each with the number of source words that had been read for it."""
    pairs = zip(words, delays, strict=True)
    return " ".join(f"{word}{str(delay).translate(_SUPERSCRIPTS)}" for word, delay in pairs)


def lag(recorder: Recorder, speech: Speech) -> str:
    """One sentence that says how far behind the translation was.

    Args:
        recorder: of a session that has finished.
        speech: its source.
    """
    finished = recorder.finished
    if finished is None or not recorder.delays:
        return "Nothing was written."
    words = length_adaptive_average_lagging(
        [speech.said[delay] for delay in recorder.delays], speech.said[finished.source_words]
    )
    said = (
        f"{finished.source_words} words read, {len(recorder.delays)} written, on average "
        f"{words:.1f} behind (LAAL)"
    )
    if not speech.has_pace:
        return f"{said}."
    waits_ms = [
        1000 * (time_s - speech.word_times_s[delay - 1])
        for time_s, delay in zip(recorder.times_s, recorder.delays, strict=True)
    ]
    return (
        f"{said}; a word appeared {median(waits_ms):.0f} ms after the last one it waited for "
        "(median)."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s [TEXT] [options]"
    parser.epilog = INCOMPLETE
    parser.add_argument(
        "text",
        nargs="?",
        type=utf8,
        default=PASSAGE,
        metavar="TEXT",
        help="what is said; by default some sentences",
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=PACE,
        metavar="N",
        help=f"words a minute (default: {PACE:.0f}; 0: as fast as possible)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="a line for each word, on a terminal too"
    )
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Speak and translate as the command line says; return the exit code.

    Raises:
        SimulError: for options or models that will not do.
        KeyboardInterrupt: Ctrl-C; the terminal is as it was.
    """
    from rich.console import Console

    options = session_options(args)
    if not 0 <= args.pace < float("inf"):
        raise InvalidOptionError(f"--pace must be a number from 0 on, got {args.pace}.")
    session = session_maker(args, options)()
    speech = Speech(args.text, args.pace)
    console = Console(highlight=False)
    is_plain = args.plain or not is_terminal(console)
    if is_plain:
        view: View = Staircase(max(map(len, args.text.split()), default=0))
    else:
        from mlx_simul.console.display import Display

        view = Display(console, *session.languages)
    recorder = Recorder(view)
    with recorder:
        finished = run_session(session, speech, recorder)
    if recorder.finished is not None and not is_plain:
        emit(harmless(with_delays(recorder.words, recorder.delays)) + "\n")
    emit(lag(recorder, speech) + "\n")
    return exit_code(finished)
