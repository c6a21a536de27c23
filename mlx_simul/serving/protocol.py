"""The conversation of one stream as a state machine without I/O (PROTOCOL).

In: the messages of its client, and the answers of the thread that owns MLX. Out: commands for that
thread, and messages for all who listen. Both transports, WebSocket and HTTP, are thin over it.

States, each of which accepts what the arrows say::

    open ──close()──▶ closing ──Finished──▶ closed
      │                  │
      └──────Failed──────┴────────────────▶ closed

A *numbered* message has a ``seq``, belongs to the stream, and is said to the speaker and to every
listener. The others concern one connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from mlx_simul.events import Finished, Read, Tail, TurnEnd, Write
from mlx_simul.serving.audio import (
    AudioAnswer,
    AudioCommand,
    AudioInput,
    RecogniserFailed,
    Spoken,
)
from mlx_simul.serving.backlog import CHARS_PER_WORD, UPDATE_CHARS, Backlog, StreamLimits
from mlx_simul.serving.commands import (
    SERVER_FAULTS,
    Answer,
    Change,
    Changed,
    Close,
    Command,
    EndTurn,
    Failed,
    Opened,
    Push,
    Refused,
    Taken,
    TurnEnded,
)
from mlx_simul.serving.messages import (
    Append,
    AppendAudio,
    Commit,
    CommitAudio,
    ProtocolError,
    Settings,
    TailOf,
    Update,
    decoded,
    ended,
    error_message,
    refusal,
)
from mlx_simul.serving.settings import options_of
from mlx_simul.serving.told import Told, session_closed, turn_done

Heard: TypeAlias = Command | AudioCommand | Tail
Said: TypeAlias = dict[str, Any]

MAX_TAIL_CHARS = 2000


class Protocol:
    """The conversation of one stream.

    Args:
        limits: of the stream.
        told: what was said of it before it was resumed; nothing by default.
        identity: what clients see of the session besides its options.
        clock_s: seconds, to measure how fast words arrive.
        hears: whether there is a recogniser for its audio.

    Attributes:
        source_chars: characters of source that its client has sent; recognised ones do not count.
        commits: how often its client has ended a turn.
        backlog: its source that waits.
        audio: likewise; None without a recogniser.
        session: how clients see its options.
        tail: what a recogniser may still change.
        closing: its source has ended.
    """

    def __init__(
        self,
        limits: StreamLimits | None = None,
        told: Told | None = None,
        identity: Mapping[str, Any] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        hears: bool = False,
    ) -> None:
        self._limits = StreamLimits() if limits is None else limits
        self.told = Told() if told is None else told
        # What a resumed session runs again, and everybody has heard.
        self._n_reads_to_skip, self._n_writes_to_skip = self.told.reads, self.told.writes
        self.backlog = Backlog(self._limits, clock_s)
        self.audio = AudioInput(self._limits.max_waiting_audio_s) if hears else None
        self.session: Mapping[str, Any] = {} if identity is None else identity
        self.source_chars = self.commits = 0
        self._ends_with_space = True
        self.tail = ""
        self.closing = self.told.closed

    @property
    def closed(self) -> bool:
        """All has been said."""
        return self.told.closed

    @property
    def audio_ms(self) -> int:
        """The audio that its client has sent, but for what an earlier life has lost."""
        return self.told.mark.audio_ms if self.audio is None else self.audio.taken_ms

    @property
    def heard_ms(self) -> int | None:
        """The audio that has been listened to; None if there was none."""
        return None if self.audio is None else self.audio.heard_ms or None

    # From the client

    def receive(self, data: str | bytes) -> list[Heard]:
        """Take a message of the speaker's.

        Returns:
            What follows from it: commands, or a tail to show.

        Raises:
            ProtocolError: if it is refused; nothing has changed then.
        """
        message = decoded(data)
        try:
            match message:
                case Append(text=text):
                    return [self.append(text)]
                case Commit():
                    return [self.commit()]
                case TailOf(text=text):
                    return [self.show_tail(text)]
                case Update(session=settings, event_id=name):
                    return [self.change(settings, name)]
                case AppendAudio(audio=audio):
                    return [self.append_audio(audio)]
                case CommitAudio():
                    return self.commit_audio()
            return [*self.close()]
        except ProtocolError as error:
            error.event_id = message.event_id
            raise

    def append(self, text: str) -> Heard:
        """Take a piece of source.

        Raises:
            ProtocolError: if the source has ended, or too much of it waits or comes too fast.
        """
        self._require_open()
        self.backlog.require_room(len(text), "text")
        self.backlog.require_pace(len(text) / CHARS_PER_WORD, "text")
        self.source_chars += len(text)
        return self._push(text)

    def commit(self) -> Heard:
        """End the turn.

        Raises:
            ProtocolError: if the source has ended, or too much waits.
        """
        self._require_open()
        self.backlog.require_room(0, "type")
        self.commits += 1
        return self._queue(EndTurn(self.commits), 0)

    def show_tail(self, text: str) -> Heard:
        """Replace what a recogniser may still change.

        Raises:
            ProtocolError: if it is too long, or the source has ended.
        """
        self._require_open()
        if len(text) > MAX_TAIL_CHARS:
            raise ProtocolError(
                "tail_too_long",
                f"a tail may have at most {MAX_TAIL_CHARS} characters, got {len(text)}.",
                "text",
            )
        self.tail = text
        return Tail(text)

    def change(self, settings: Settings, event_id: str | None = None) -> Heard:
        """Change options from the next turn on.

        Raises:
            ProtocolError: if the source has ended, too much waits, or one of them cannot be.
        """
        self._require_open()
        self.backlog.require_room(UPDATE_CHARS, "type")
        options = options_of(settings, self._limits)
        model = self.session.get("model")
        if settings.model is not msgspec.UNSET and settings.model != model:
            raise ProtocolError(
                "invalid_value",
                f"the model of a session is fixed: {model}. Begin a new session for another one.",
                "session.model",
            )
        return self._queue(Change(options, event_id), UPDATE_CHARS)

    def append_audio(self, audio: bytes) -> Heard:
        """Take a piece of speech.

        Raises:
            ProtocolError: if there is no recogniser, or it broke off; if the source has ended, or
                too much of it waits; or if these are not whole samples.
        """
        self._require_open()
        recogniser = self._require_recogniser()
        # Its words will be taken in any case, so this is where they have to wait.
        self.backlog.require_room(0, "audio")
        self.backlog.require_pace(0, "audio")
        return recogniser.take(audio, self.session.get("source_language"))

    def commit_audio(self) -> list[Heard]:
        """Recognise all audio so far to its end, and end the turn there.

        Raises:
            ProtocolError: if there is no recogniser, or the source has ended.
        """
        self._require_open()
        end = self._require_recogniser().end()
        return [] if end is None else [end]

    def close(self) -> list[Heard]:
        """End the source; asked again, it changes nothing.

        Raises:
            ProtocolError: if the stream has ended.
        """
        if self.closed:
            raise ended()
        if self.closing:
            return []
        self.closing = True
        end = None if self.audio is None else self.audio.end()
        return [end] if end is not None else self._close_if_heard()

    def _close_if_heard(self) -> list[Heard]:
        """Close the session, unless words of its source are still to be recognised."""
        if self.audio is not None and self.audio.is_ending:
            return []
        return [self._queue(Close(), 0)]

    def _require_open(self) -> None:
        if self.closing or self.closed:
            raise ended()

    def _require_recogniser(self) -> AudioInput:
        if self.audio is None:
            raise ProtocolError(
                "no_recogniser",
                "this server has no speech recogniser: send text by "
                "session.input_text_buffer.append.",
                "type",
            )
        return self.audio

    def _push(self, text: str) -> Command:
        if text:
            self._ends_with_space = text[-1].isspace()
        return self._queue(Push(text), len(text))

    def _queue(self, command: Command, n_chars: int) -> Command:
        self.backlog.put(n_chars)
        return command

    # From the thread that owns the recogniser

    def hear(self, answer: AudioAnswer) -> tuple[list[Said], list[Heard]]:
        """What follows from audio that was listened to.

        Returns:
            Messages, to be recorded before the rest has an effect; and what there is to do.
        """
        audio = self.audio
        if audio is None or audio.failed or self.closed:
            return [], []
        messages: list[Said] = []
        heard: list[Heard] = []
        if isinstance(answer, RecogniserFailed):
            audio.fail()
            messages += self.notice("recogniser_failed", answer.message)
            self.tail = ""
            heard.append(Tail(""))
        else:
            for spoken in audio.hear(answer):
                heard += self._spoken(spoken, messages)
            if answer.ended:
                self.tail = ""  # what has become no word by now was none
            elif answer.hypotheses:
                self.tail = answer.hypotheses[-1].tail
            if audio.shows(answer):
                heard.append(Tail(self.tail))
        if self.closing and not audio.is_ending:
            heard += self._close_if_heard()
        return messages, heard

    def _spoken(self, spoken: Spoken, messages: list[Said]) -> list[Heard]:
        text = spoken.text(behind_space=self._ends_with_space)
        values = {
            "type": "session.input_audio_buffer.recognised",
            "text": text,
            "words": spoken.word_values(),
            "pause": spoken.pause,
            "audio_ms": spoken.audio_ms,
            "position_chars": self.source_chars + self.told.mark.spoken_chars + len(text),
        }
        messages.append(self._numbered(values))
        del self.told.marks[:-1]
        self.backlog.charge(len(text) / CHARS_PER_WORD)
        return [self._push(text)] if text else []

    # From the thread that owns MLX

    def say(self, answer: Answer) -> list[Said]:
        """The messages that follow from an answer; those with a ``seq`` are for all listeners."""
        if self.closed:
            return []
        match answer:
            case Taken():
                self.backlog.take(answer.source_words)
                return []
            case Opened():
                return self._opened(answer)
            case Refused():
                return [error_message(refusal(answer))]
            case Changed():
                self.session = {**self.session, **answer.session}
            case Read():
                self.backlog.words_read = answer.source_words_read
        return [self._numbered(values) for values in self._values(answer)]

    def _opened(self, opened: Opened) -> list[Said]:
        self.session = {**self.session, **opened.session}
        self.commits, self.closing = opened.n_turn_ends, opened.source_closed
        # Else all that an earlier life has translated would seem to wait.
        self.backlog.words_taken = opened.source_words
        self.backlog.words_read = opened.source_words_done
        is_lost = self.told.forget_behind(opened.source_chars)
        mark = self.told.mark
        self.source_chars = opened.source_chars - mark.spoken_chars
        self._ends_with_space = opened.source_chars == 0
        if self.audio is not None:
            self.audio.resume(mark.audio_ms)
        if not is_lost:
            return []
        # The process ended between the message about some words and their way to the journal.
        values = {
            "type": "session.input_audio_buffer.lost",
            "audio_ms": mark.audio_ms,
            "position_chars": opened.source_chars,
        }
        return [self._numbered(values)]

    def notice(self, code: str, message: str) -> list[Said]:
        """A numbered error: something happens to the stream that its client did not ask for."""
        error = ProtocolError(code, message, kind="server_error")
        return [self._numbered({"type": "error", "error": error.body()})]

    def _values(self, answer: Answer) -> list[Said]:
        """What is to be numbered, without its number."""
        match answer:
            case Changed():
                return [{"type": "session.updated", "session": dict(self.session)}]
            case TurnEnded():
                if answer.number <= self.told.commits:  # before the stream was resumed
                    return []
                return [
                    {"type": "session.input_text_buffer.committed", "commits": answer.number},
                ]
            case Read():
                return self._read(answer)
            case Write():
                return self._written(answer)
            case TurnEnd():
                self._n_reads_to_skip = self._n_writes_to_skip = 0
                self.backlog.words_read = answer.source_span_words[1]
                return [turn_done(answer)]
            case Finished():
                return [session_closed(answer)]
            case Failed():
                kind = "server_error" if answer.code in SERVER_FAULTS else None
                error = ProtocolError(answer.code, answer.message)
                error.kind = kind or error.kind
                return [
                    {"type": "error", "error": error.body()},
                    {"type": "session.closed", "reason": "failed", "usage": None},
                ]
        return []

    def _read(self, read: Read) -> list[Said]:
        if not read.source:
            return []
        if self._n_reads_to_skip:
            self._n_reads_to_skip -= 1
            return []
        return [
            {
                "type": "session.input_transcript.delta",
                "delta": read.source,
                "elapsed_ms": int(read.time_ms),
                "turn": self.told.turns,
                "source_words": read.source_words_read,
            }
        ]

    def _written(self, write: Write) -> list[Said]:
        if not write.text:
            return []
        if self._n_writes_to_skip:
            self._n_writes_to_skip -= 1
            return []
        return [
            {
                "type": "session.output_transcript.delta",
                "delta": write.text,
                "elapsed_ms": int(write.time_ms),
                "turn": self.told.turns,
                "source_words": write.source_words_read,
                "target_words": write.target_words_generated,
            }
        ]

    def _numbered(self, values: dict[str, Any]) -> dict[str, Any]:
        seq = self.told.seq + 1
        message = {"type": values.pop("type"), "event_id": f"event_{seq}", "seq": seq, **values}
        self.told.count(message)
        return message
