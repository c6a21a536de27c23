"""The thread that owns the recogniser: it listens to the audio of all streams in turn.

Each stream that has audio waiting gets a piece of it recognised, and then queues after the others:
a client that sends a file at once does not hold them up. All the waiting audio of a stream, up to
the length of a piece, is handed over in one call, so a recogniser that falls behind has fewer calls
for more audio.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.serving.audio import (
    RATE_HZ,
    SAMPLE_BYTES,
    AudioAnswer,
    AudioCommand,
    Hear,
    Recognised,
    RecogniserFailed,
)
from mlx_simul.serving.logs import fields, note
from mlx_simul.serving.owner import Owner
from mlx_simul.serving.worker import Key
from mlx_simul.speech.audio import Resampler, from_pcm16
from mlx_simul.speech.recogniser import Hypothesis, Recogniser, Recognition, usable

log = logging.getLogger(__name__)

STOP_S = 10.0
"""How long a server that ends waits for a piece that is being recognised."""

MAX_PIECE_S = 5
"""The most audio of a stream that is recognised before another has its turn."""

_MAX_PIECE_BYTES = MAX_PIECE_S * RATE_HZ * SAMPLE_BYTES

AudioSaid: TypeAlias = tuple[Key, AudioAnswer]


@dataclass
class _Speech:
    """The audio of a stream.

    Attributes:
        waiting: audio in pieces, and None where it ends.
        is_due: it stands among those whose turn will come, or it is its turn.
        language: of the audio, by name, if it is known.
        has_failed: the recogniser broke off in it.
        listening: recognises the audio since the last end, at another rate; None before there is
            any.
    """

    waiting: deque[bytearray | None] = field(default_factory=deque)
    is_due: bool = False
    language: str | None = None
    has_failed: bool = False
    listening: tuple[Resampler, Recognition] | None = None

    def add(self, command: AudioCommand) -> None:
        """Let a command wait."""
        if not isinstance(command, Hear):
            self.waiting.append(None)
            return
        self.language = command.language
        if self.waiting and self.waiting[-1] is not None:
            self.waiting[-1] += command.audio
        elif command.audio:
            self.waiting.append(bytearray(command.audio))

    def next_piece(self) -> bytes | None:
        """What is to be recognised next; None for an end."""
        first = self.waiting.popleft()
        if first is None or len(first) <= _MAX_PIECE_BYTES:
            return first if first is None else bytes(first)
        piece = bytes(first[:_MAX_PIECE_BYTES])
        self.waiting.appendleft(first[_MAX_PIECE_BYTES:])
        return piece


@dataclass
class AudioFigures:
    """What the thread has done, written by it and read by others.

    Attributes:
        audio_s: seconds of audio that it has listened to.
        busy_s: seconds that this took.
    """

    audio_s: float = 0.0
    busy_s: float = 0.0


class RecogniserThread(Owner):
    """Recognises the audio of many streams on a thread of its own.

    Args:
        load: loads the recogniser; called by the thread itself.
        deliver: called by the thread with what became of each piece of audio.

    Attributes:
        figures: what it has done.
    """

    def __init__(
        self, load: Callable[[], Recogniser], deliver: Callable[[AudioSaid], None]
    ) -> None:
        super().__init__("recogniser")
        self._loader, self._deliver = load, deliver
        self._changed = threading.Condition()
        # Guarded by it:
        self._speeches: dict[Key, _Speech] = {}
        self._due: deque[Key] = deque()
        self._is_stopping = False
        self.figures = AudioFigures()

    # Called by other threads

    def send(self, stream: Key, command: AudioCommand) -> None:
        """Have a command carried out; what comes of it is delivered."""
        with self._changed:
            speech = self._speeches.setdefault(stream, _Speech())
            if speech.has_failed:
                return
            speech.add(command)
            if speech.waiting and not speech.is_due:
                speech.is_due = True
                self._due.append(stream)
                self._changed.notify()

    def drop(self, stream: Key) -> None:
        """Forget the audio of a stream; nothing more is delivered of it."""
        with self._changed:
            self._speeches.pop(stream, None)

    def stop(self) -> None:
        """End after the piece that is being recognised, or without it if that takes too long."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            note(log, "the recogniser did not end", level=logging.WARNING, stalled_s=self.stalled_s)

    # Called by its own thread

    def _load(self) -> None:
        Resampler(RATE_HZ)  # refuses now, and not with the first stream, what is not installed
        self._recogniser = self._loader()

    def _work(self) -> None:
        while (due := self._next()) is not None:
            stream, speech, piece = due
            began_s = self.busy_since_s = time.monotonic()
            answer = self._recognise(stream, speech, piece)
            self.figures.busy_s += time.monotonic() - began_s
            self.figures.audio_s += len(piece or b"") / SAMPLE_BYTES / RATE_HZ
            self._hand_over(stream, speech, answer)
        with self._changed:
            self._speeches.clear()

    def _next(self) -> tuple[Key, _Speech, bytes | None] | None:
        """Wait for the stream whose turn it is; None once the thread is to end."""
        with self._changed:
            while True:
                if self._is_stopping:
                    return None
                while self._due:
                    stream = self._due.popleft()
                    if (speech := self._speeches.get(stream)) is not None and speech.waiting:
                        return stream, speech, speech.next_piece()
                self.busy_since_s = None
                self._changed.wait()

    def _hand_over(self, stream: Key, speech: _Speech, answer: AudioAnswer) -> None:
        with self._changed:
            if self._speeches.get(stream) is not speech:
                return  # it was dropped meanwhile
            if isinstance(answer, RecogniserFailed):
                speech.has_failed = True
                speech.waiting.clear()
                speech.listening = None
            speech.is_due = bool(speech.waiting)
            if speech.is_due:
                self._due.append(stream)
        self._deliver((stream, answer))

    def _recognise(self, stream: Key, speech: _Speech, piece: bytes | None) -> AudioAnswer:
        try:
            if piece is None:
                return Recognised(0, self._ended(speech), ended=True)
            if speech.listening is None:
                speech.listening = Resampler(RATE_HZ), self._recogniser.begin(speech.language)
            resampler, recognition = speech.listening
            samples = from_pcm16(piece)
            return Recognised(len(samples), usable(recognition.hear(resampler.feed(samples))))
        except Exception as error:
            log.exception("speech recognition broke off", extra=fields(session=str(stream)))
            why = f" ({error})" if isinstance(error, InvalidOptionError) else ""
            return RecogniserFailed(
                f"speech recognition broke off{why}. This session goes on with text; begin a new "
                "one to speak."
            )

    def _ended(self, speech: _Speech) -> list[Hypothesis]:
        if speech.listening is None:
            return []
        (resampler, recognition), speech.listening = speech.listening, None
        return usable([*recognition.hear(resampler.finish()), *recognition.finish()])
