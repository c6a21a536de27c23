"""Sources that arrive, views that show, and the loop between them and a session.

Nothing here knows MLX or a terminal.
"""

from __future__ import annotations

import codecs
import os
import select
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from mlx_simul.errors import SimulError, SimulWarning
from mlx_simul.events import Event, Finished, Read, Tail, TurnEnd, as_plain
from mlx_simul.loop.remarks import remark
from mlx_simul.machine.terminal import emit, emit_json, outputs_are_one, say
from mlx_simul.speech.json_lines import hypothesis_as_plain
from mlx_simul.speech.recogniser import Hypothesis

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession

READ_BYTES = 4096

LOOK_UP_S = 1.0
"""A signal that comes just before a wait begins does not end it, so no wait lasts longer than
this."""

MAX_AHEAD_CHARS = 16_384
"""Source text taken in before it is asked for; beyond this much, a fast producer has to wait."""

EXIT_INCOMPLETE = 3
"""Exit code of a command whose translation was cut off, dried up, or left source unread."""

INCOMPLETE = (
    f"The exit code is {EXIT_INCOMPLETE} if the translation is incomplete: a limit cut a sentence "
    "off, the model ended it long before the source did, or source was left unread. Standard error "
    "names each such sentence."
)
"""For the help of such commands."""


Arrival: TypeAlias = str | Hypothesis | None
"""What arrives: text, what a recogniser makes of speech, or the end of the source (None)."""


class View(Protocol):
    """Where a session is shown: the terminal, plain text or JSON."""

    def __enter__(self) -> View: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def arrived(self, piece: Arrival) -> None:
        """A piece of the source has arrived, or its end."""
        ...

    def show(self, event: Event | Tail) -> None:
        """The session said this, or a recogniser that it may still change this."""
        ...

    def note(self, remark: str) -> None:
        """A warning."""
        ...


class Source(Protocol):
    """Text or speech that arrives."""

    def read(self, *, wait: bool = True) -> Arrival:
        """The next piece; ``""`` if there is none without waiting; ``None`` at the end."""
        ...


class TextSource(Protocol):
    """Text that arrives; it may be used as a :class:`Source`."""

    def read(self, *, wait: bool = True) -> str | None:
        """As any source, with text in each piece."""
        ...


class WholeText:
    """A source that is there from the start.

    Args:
        *pieces: all of it.
    """

    def __init__(self, *pieces: str) -> None:
        self._pieces = iter(pieces)

    def read(self, *, wait: bool = True) -> str | None:
        """Each piece, then ``None``."""
        return next(self._pieces, None)


class LiveText:
    """Text from a pipe, a file or a terminal, as it arrives.

    Bytes that are not UTF-8 become U+FFFD, with one warning; a character that has half arrived is
    held back; a byte order mark at the start is dropped.

    Args:
        fd: the file descriptor to read.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._ended = False

    def read(self, *, wait: bool = True) -> str | None:
        """The next piece; ``""`` if there is none without waiting; ``None`` at the end.

        Raises:
            SimulError: if the file cannot be read.
        """
        while not self._ended:
            try:
                # A descriptor that another program left non-blocking is waited for all the same.
                is_ready = select.select([self._fd], [], [], LOOK_UP_S if wait else 0)[0]
                data = os.read(self._fd, READ_BYTES) if is_ready else b""
            except OSError as error:
                raise SimulError(f"the source cannot be read: {error.strerror}.") from error
            self._ended = bool(is_ready) and not data
            text = self._decode(data)
            if text or not (wait or self._ended):
                return text
        return None

    def _decode(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            warn_of_bad_bytes(error.object[error.start : error.end])
            # A decoder that has failed stands where it stood before.
            held = self._decoder.getstate()
            self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
            self._decoder.setstate(held)
            return self._decoder.decode(data, final=self._ended)


class TextView:
    """Writes the translation, without the space before its first word, as it is produced."""

    def __init__(self) -> None:
        self._has_begun = False
        self._has_ended_line = False

    def __enter__(self) -> TextView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._has_ended_line and (kind is None or not issubclass(kind, BrokenPipeError)):
            emit("\n")

    def arrived(self, piece: Arrival) -> None:
        """Shows nothing."""

    def show(self, event: Event | Tail) -> None:
        """Writes what became stable, and ends a line with a paragraph: programs read lines."""
        text = event.text if self._has_begun else event.text.lstrip()
        if text:
            # The next paragraph begins with the two line breaks between them.
            emit(text.removeprefix("\n") if self._has_ended_line else text)
            self._has_begun, self._has_ended_line = True, False
        ends = isinstance(event, TurnEnd) and event.ended_by == "blank_line"
        if ends and self._has_begun and not self._has_ended_line:
            emit("\n")
            self._has_ended_line = True

    def note(self, remark: str) -> None:
        """Goes to standard error; where that is standard output too, to a line of its own."""
        if self._has_begun and not self._has_ended_line and outputs_are_one():
            emit("\n")
        say(f"warning: {remark}")


class JsonView(TextView):
    """Writes one JSON object a line: the fields of an event or a hypothesis, and its ``type``."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves nothing after the last line."""

    def arrived(self, piece: Arrival) -> None:
        """Writes a hypothesis, with the times of its words."""
        if isinstance(piece, Hypothesis):
            emit_json(hypothesis_as_plain(piece))

    def show(self, event: Event | Tail) -> None:
        """Writes the event."""
        emit_json(as_plain(event))


def warn_of_bad_bytes(data: bytes) -> None:
    """Warn that some of the source is not text."""
    warnings.warn(
        f"the source holds bytes that are not UTF-8, first {data!r}; U+FFFD stands for them. "
        "Convert the source to UTF-8.",
        SimulWarning,
        stacklevel=2,
    )


def exit_code(finished: Finished | None) -> int:
    """What a command that translates ends with: 0, or ``EXIT_INCOMPLETE``."""
    return 0 if finished is not None and finished.is_complete else EXIT_INCOMPLETE


def run_session(
    session: SimulSession,
    source: Source,
    view: View,
    on_turn: Callable[[TurnEnd], None] = lambda _: None,
    timed: Callable[[Event], Event] = lambda event: event,
) -> Finished | None:
    """Run a session on a source to the end, whichever comes first.

    All MLX work happens on the calling thread. Between events it takes in what has arrived, up to
    ``MAX_AHEAD_CHARS``, so that a view can show what waits.

    Args:
        session: fresh, or resumed from a journal; it is fed and closed.
        source: where its text comes from.
        view: told of all that happens, and of an end that leaves something out.
        on_turn: called with each turn, before the view is told.
        timed: gives an event the times that are to be shown and written.

    Returns:
        The session's last event.
    """
    is_open, ahead_chars = True, 0
    finished: Finished | None = None

    def take(piece: Arrival) -> None:
        nonlocal is_open, ahead_chars
        if piece is None:
            is_open = False
            session.close()
        else:
            text = piece if isinstance(piece, str) else piece.text
            session.push(text)
            ahead_chars += len(text)
            if isinstance(piece, Hypothesis) and piece.pause and session.has_turns:
                session.end_turn()
        view.arrived(piece)

    while True:
        # What a journal held comes first. A new session encodes what stands before the source.
        for event in map(timed, session.events()):
            if isinstance(event, TurnEnd):
                on_turn(event)
            view.show(event)
            if isinstance(event, Read):
                ahead_chars -= len(event.source)
            if isinstance(event, Finished):
                finished = event
            if (said := remark(event)) is not None:
                view.note(said)
            if is_open and not session.finished and ahead_chars < MAX_AHEAD_CHARS:
                piece = source.read(wait=False)
                if piece != "":
                    take(piece)
        if session.finished:
            return finished
        ahead_chars = 0  # the session has read all it was given, but for half a word
        take(source.read())
