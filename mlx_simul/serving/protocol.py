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
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from mlx_simul.events import Finished, Read, Tail, TurnEnd, Write
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
from mlx_simul.serving.languages import language_name
from mlx_simul.serving.messages import (
    MAX_HISTORY_PAIRS,
    Append,
    AppendAudio,
    Audio,
    Commit,
    ProtocolError,
    Settings,
    TailOf,
    Update,
    decoded,
)

Heard: TypeAlias = Command | Tail

CHARS_PER_WORD = 6
"""About so many characters, a space among them, are a word of speech."""

UPDATE_CHARS = 300
"""Changing options keeps the thread that owns MLX about as busy as so many characters."""

MAX_TAIL_CHARS = 2000


@dataclass(frozen=True)
class StreamLimits:
    """What a client may ask of one stream.

    Attributes:
        max_waiting_chars: source that has been taken and not read. What is not text waits too: each
            command counts as a word at least, so that a flood of small ones is bounded.
        max_words_per_s: source words a second, over ten seconds; None sets no limit.
        max_prompt_chars: instruction, context, glossary and pairs together.
    """

    max_waiting_chars: int = 20_000
    max_words_per_s: float | None = None
    max_prompt_chars: int = 8000


@dataclass
class Told:
    """What listeners have been told of a stream; a stream that is resumed goes on from it.

    Attributes:
        seq: the number of the last message.
        turns: that have ended.
        reads: source deltas since then.
        writes: target deltas since then.
        commits: that were answered.
        closed: the last message was the last of all.
    """

    seq: int = 0
    turns: int = 0
    reads: int = 0
    writes: int = 0
    commits: int = 0
    closed: bool = False

    def count(self, message: Mapping[str, Any]) -> None:
        """Count a numbered message."""
        self.seq = message["seq"]
        match message["type"]:
            case "session.turn.done":
                self.turns, self.reads, self.writes = message["turn"] + 1, 0, 0
            case "session.input_transcript.delta":
                self.reads += 1
            case "session.output_transcript.delta":
                self.writes += 1
            case "session.input_text_buffer.committed":
                self.commits = message["commits"]
            case "session.closed":
                self.closed = True


class Protocol:
    """The conversation of one stream.

    Args:
        limits: of the stream.
        told: what was said of it before it was resumed; nothing by default.
        identity: what clients see of the session besides its options.
        clock_s: seconds, to measure how fast words arrive.

    Attributes:
        source_chars: characters of source that its client has sent.
        commits: how often its client has ended a turn.
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
    ) -> None:
        self._limits = StreamLimits() if limits is None else limits
        self.told = Told() if told is None else told
        # What a resumed session runs again, and everybody has heard.
        self._n_reads_to_skip, self._n_writes_to_skip = self.told.reads, self.told.writes
        self._clock_s = clock_s
        self.session: Mapping[str, Any] = {} if identity is None else identity
        self.source_chars = self.commits = 0
        self.tail = ""
        self.closing = self.told.closed
        self._queued: deque[int] = deque()  # what each command counts that was not carried out
        self._queued_chars = self._words_taken = self._words_read = 0
        self._allowance_words, self._allowed_at_s = 0.0, -1e9

    @property
    def closed(self) -> bool:
        """All has been said."""
        return self.told.closed

    @property
    def words_behind(self) -> int:
        """Source words that have arrived and not been read."""
        return max(0, self._words_taken - self._words_read)

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
                case AppendAudio():
                    raise ProtocolError(
                        "no_recogniser",
                        "this server has no speech recogniser: send text by "
                        "session.input_text_buffer.append.",
                        "type",
                    )
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
        self._require_room(len(text), "text")
        self._require_allowance(len(text) / CHARS_PER_WORD)
        self.source_chars += len(text)
        return self._queue(Push(text), len(text))

    def commit(self) -> Heard:
        """End the turn.

        Raises:
            ProtocolError: if the source has ended, or too much waits.
        """
        self._require_open()
        self._require_room(0, "type")
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
                f"a tail has at most {MAX_TAIL_CHARS} characters, got {len(text)}.",
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
        self._require_room(UPDATE_CHARS, "type")
        options = options_of(settings, self._limits)
        model = self.session.get("model")
        if settings.model is not msgspec.UNSET and settings.model != model:
            raise ProtocolError(
                "invalid_value",
                f"the model of a session is fixed: {model}. Begin a new session for another one.",
                "session.model",
            )
        return self._queue(Change(options, event_id), UPDATE_CHARS)

    def close(self) -> list[Command]:
        """End the source; asked again, it changes nothing.

        Raises:
            ProtocolError: if the stream has ended.
        """
        if self.closed:
            raise ended()
        if self.closing:
            return []
        self.closing = True
        return [self._queue(Close(), 0)]

    def _require_open(self) -> None:
        if self.closing or self.closed:
            raise ended()

    def _require_room(self, n_chars: int, param: str) -> None:
        waiting = self._queued_chars + CHARS_PER_WORD * self.words_behind
        most = self._limits.max_waiting_chars
        if waiting + n_chars > most:
            raise ProtocolError(
                "source_backlog_full",
                f"about {waiting} characters of source wait to be read, and {n_chars} more are "
                f"too many for a limit of {most}; this message had no effect. Send it again later "
                "or in smaller pieces.",
                param,
                kind="rate_limit_error",
            )

    def _queue(self, command: Command, n_chars: int) -> Command:
        """Count a command until it is carried out."""
        self._queued.append(max(n_chars, CHARS_PER_WORD))
        self._queued_chars += self._queued[-1]
        return command

    def _require_allowance(self, n_words: float) -> None:
        """Let words pass at the pace that is allowed, and those of ten seconds at once."""
        pace = self._limits.max_words_per_s
        if pace is None:
            return
        now_s = self._clock_s()
        most = 10 * pace
        gained = pace * (now_s - self._allowed_at_s)
        self._allowance_words = min(most, self._allowance_words + gained)
        self._allowed_at_s = now_s
        if n_words > self._allowance_words:
            raise ProtocolError(
                "too_fast",
                f"source comes faster than {pace:g} words a second; none of this text was taken. "
                "Send it again later or in smaller pieces.",
                "text",
                kind="rate_limit_error",
            )
        self._allowance_words -= n_words

    # From the thread that owns MLX

    def say(self, answer: Answer) -> list[dict[str, Any]]:
        """The messages that follow from an answer; those with a ``seq`` are for all listeners."""
        if self.closed:
            return []
        match answer:
            case Taken():
                self._queued_chars -= self._queued.popleft()
                self._words_taken = answer.source_words
                return []
            case Opened():
                self.session = {**self.session, **answer.session}
                self.source_chars, self.commits = answer.source_chars, answer.n_turn_ends
                self.closing = answer.source_closed
                # Else all that an earlier life has translated would seem to wait.
                self._words_taken = answer.source_words
                self._words_read = answer.source_words_done
                return []
            case Refused():
                return [error_message(refusal(answer))]
            case Changed():
                self.session = {**self.session, **answer.session}
            case Read():
                self._words_read = answer.source_words_read
        return [self._numbered(values) for values in self._values(answer)]

    def notice(self, code: str, message: str) -> list[dict[str, Any]]:
        """A numbered error: something happens to the stream that its client did not ask for."""
        error = ProtocolError(code, message, kind="server_error")
        return [self._numbered({"type": "error", "error": error.body()})]

    def _values(self, answer: Answer) -> list[dict[str, Any]]:
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
                self._words_read = answer.source_span_words[1]
                return [_turn_done(answer)]
            case Finished():
                return [_closed(answer)]
            case Failed():
                kind = "server_error" if answer.code in SERVER_FAULTS else None
                error = ProtocolError(answer.code, answer.message)
                error.kind = kind or error.kind
                return [
                    {"type": "error", "error": error.body()},
                    {"type": "session.closed", "reason": "failed", "usage": None},
                ]
        return []

    def _read(self, read: Read) -> list[dict[str, Any]]:
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

    def _written(self, write: Write) -> list[dict[str, Any]]:
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


def options_of(settings: Settings, limits: StreamLimits) -> dict[str, Any]:
    """Options of a session, by their flat names, as a client says them.

    Raises:
        ProtocolError: if together they are longer than a prompt may be.
    """
    given = {
        name: value
        for name in Settings.__struct_fields__
        if (value := getattr(settings, name)) is not msgspec.UNSET
    }
    audio = given.pop("audio", Audio())
    for name in ("type", "model"):
        given.pop(name, None)
    for side, name in ((audio.input, "source_language"), (audio.output, "target_language")):
        if side is not None and side.language is not None:
            given.setdefault(name, side.language)
    for name in ("source_language", "target_language"):
        if given.get(name):
            given[name] = language_name(given[name])
    if not 0 <= given.get("history", 0) <= MAX_HISTORY_PAIRS:
        raise ProtocolError(
            "invalid_value",
            f"history is from 0 to {MAX_HISTORY_PAIRS} pairs, got {given['history']}.",
            "session.history",
        )
    if (n_pairs := len(given.get("pairs", ()))) > MAX_HISTORY_PAIRS:
        # A template takes much longer for many short pairs than their characters tell.
        raise ProtocolError(
            "invalid_value",
            f"pairs are at most {MAX_HISTORY_PAIRS}, got {n_pairs}.",
            "session.pairs",
        )
    texts = [given.get(name) or "" for name in ("instruction", "context", "policy")]
    texts += [given.get(f"{side}_language") or "" for side in ("source", "target")]
    texts += [text for pair in (given.get("glossary") or {}).items() for text in pair]
    texts += [text for pair in given.get("pairs", ()) for text in pair]
    n_chars = sum(map(len, texts))
    if n_chars > limits.max_prompt_chars:
        raise ProtocolError(
            "prompt_too_long",
            f"instruction, context, glossary and pairs have {n_chars} characters, more than "
            f"{limits.max_prompt_chars}; shorten them.",
            "session",
        )
    return given


def error_message(error: ProtocolError) -> dict[str, Any]:
    """What one client is told of a message that was refused."""
    return {"type": "error", "event_id": "event_error", "error": error.body()}


def refusal(answer: Refused) -> ProtocolError:
    """A refusal of the thread that owns MLX, as clients hear it."""
    return ProtocolError("invalid_value", answer.message, answer.param, event_id=answer.event_id)


def ended() -> ProtocolError:
    """What a client hears who asks something of a stream whose source has ended."""
    return ProtocolError(
        "session_closed", "the source of this session has ended; begin a new session."
    )


def _turn_done(end: TurnEnd) -> dict[str, Any]:
    return {
        "type": "session.turn.done",
        "turn": end.turn,
        "source_text": end.source_text,
        "target_text": end.target_text,
        "source_span_words": list(end.source_span_words),
        "target_span_words": list(end.target_span_words),
        "delays": list(end.delays),
        "began_ms": round(end.began_ms),
        "word_times_ms": [round(time_ms) for time_ms in end.word_times_ms],
        "time_ms": round(end.time_ms),
        "ended_by": end.ended_by,
        "reason": end.reason,
    }


def _closed(finished: Finished) -> dict[str, Any]:
    return {
        "type": "session.closed",
        "reason": finished.reason,
        "usage": usage_of(finished),
    }


def usage_of(finished: Finished) -> dict[str, Any]:
    """What a stream has used, as clients and logs say it."""
    return {
        "source_words": finished.source_words,
        "target_words": finished.target_words,
        "turns": finished.turns,
        "passes": finished.n_passes,
        "total_ms": round(finished.total_ms),
    }
