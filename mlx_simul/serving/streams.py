"""All streams of a server: who owns them, who listens, and when they end. It knows no sockets.

Everything here runs on the thread of an event loop; the thread that owns MLX is behind
:class:`~mlx_simul.serving.worker.Worker`, the one that owns the recogniser behind
:class:`~mlx_simul.serving.recognition.RecogniserThread`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.events import Tail
from mlx_simul.serving.audio import AudioAnswer, EndSpeech, Hear, RecogniserFailed
from mlx_simul.serving.backlog import StreamLimits
from mlx_simul.serving.commands import (
    SERVER_FAULTS,
    Changed,
    Drop,
    Failed,
    Open,
    Opened,
    Refused,
)
from mlx_simul.serving.counts import Counts
from mlx_simul.serving.logs import note
from mlx_simul.serving.messages import ProtocolError, Settings, refusal
from mlx_simul.serving.notes import note_end, note_opened
from mlx_simul.serving.options import ServingOptions, memory_limit_bytes
from mlx_simul.serving.outbox import TooLate
from mlx_simul.serving.protocol import Heard, Protocol
from mlx_simul.serving.recognition import AudioSaid, RecogniserThread
from mlx_simul.serving.records import (
    Files,
    is_name,
    kept_messages,
    new_name,
    new_outbox,
    note_not_written,
)
from mlx_simul.serving.settings import options_of
from mlx_simul.serving.stream import Connection, Stream, hash_of, overdue
from mlx_simul.serving.told import Told
from mlx_simul.serving.worker import Loader, Said, Worker
from mlx_simul.speech.recogniser import Recogniser

log = logging.getLogger(__name__)

SWEEP_S = 1.0


class Streams:
    """All streams of a server, and the threads that run them.

    Args:
        loaders: of the models, by name; the first one is the default.
        options: of the server.
        recogniser: loads what recognises speech; without it audio is refused.

    Attributes:
        worker: the thread that owns MLX.
        recognition: the thread that owns the recogniser, if there is one.
        counts: of words and refusals.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        options: ServingOptions,
        recogniser: Callable[[], Recogniser] | None = None,
    ) -> None:
        self.options, self.models = options, list(loaders)
        capacity = options.capacity
        self.worker = Worker(loaders, self._deliver, memory_limit_bytes(capacity))
        self.recognition = (
            None if recogniser is None else RecogniserThread(recogniser, self._deliver_audio)
        )
        self._limits = StreamLimits(
            capacity.max_waiting_chars,
            capacity.max_words_per_s,
            capacity.max_prompt_chars,
            capacity.max_waiting_audio_s,
        )
        self._streams: dict[str, Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._requests = count()
        self.counts = Counts(log)

    # Life

    def load(self) -> None:
        """Load the models and the recogniser, each on the thread that owns it.

        Raises:
            SimulError: if one of them will not do.
        """
        if self.recognition is not None:
            self.recognition.start()
        try:
            self.worker.start()
        except BaseException:
            if self.recognition is not None:
                self.recognition.stop()
            raise

    async def start(self) -> None:
        """Begin, once :meth:`load` has been called."""
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        """End: connections are closed, and what has a journal can be resumed."""
        self._stopping = True
        note(log, "stopping", sessions=len(self))
        if self._sweeper is not None:
            self._sweeper.cancel()
        for stream in self._streams.values():
            for connection in list(stream.connections):
                connection.end(1012)
        loop = asyncio.get_running_loop()
        if self.recognition is not None:
            await loop.run_in_executor(None, self.recognition.stop)
        await loop.run_in_executor(None, self.worker.stop)
        for stream in self._streams.values():
            stream.outbox.close()

    # Streams

    def __len__(self) -> int:
        """Streams that have not ended."""
        return sum(stream.closed_s is None for stream in self._streams.values())

    @property
    def n_connections(self) -> int:
        """Connections that hear a stream."""
        return sum(len(stream.connections) for stream in self._streams.values())

    @property
    def waiting_audio_s(self) -> float:
        """Seconds of audio that wait to be recognised."""
        talks = [stream.protocol for stream in self._streams.values()]
        inputs = [talk.audio for talk in talks if not talk.closed]
        return sum(audio.waiting_s for audio in inputs if audio is not None)

    @property
    def input_modalities(self) -> list[str]:
        """What a stream takes, as clients see it."""
        return ["text"] if self.recognition is None else ["text", "audio"]

    def trained(self, model: str) -> StreamingConfig:
        """What a model was trained for."""
        return self.worker.describe(model)

    async def find(self, name: str, owner: str | None = None) -> Stream:
        """A stream that is here, or that the journals of an earlier life of the server hold.

        Args:
            name: of the stream.
            owner: of the client's key, if the stream must be its own.

        Raises:
            ProtocolError: if there is none, or it cannot be resumed.
        """
        stream = self._streams.get(name)
        if stream is None:
            stream = await self._revive(name)
        await asyncio.shield(stream.opened)
        if owner not in (None, stream.owner):
            raise _unknown()
        return stream

    async def open(self, owner: str, model: str | None, settings: Settings) -> tuple[Stream, str]:
        """Begin a stream.

        Args:
            owner: of the client's key.
            model: its name; None for the first.
            settings: options in place of the server's own.

        Returns:
            The stream, and the secret by which source is sent to it over HTTP.

        Raises:
            ProtocolError: if it is refused.
        """
        name = self.models[0] if model is None else model
        if name not in self.models:
            raise ProtocolError(
                "unknown_model", f"unknown model {name!r}; known are {', '.join(self.models)}."
            )
        options = options_of(settings, self._limits)
        self._require_room(owner)
        self._forget_oldest()
        stream_name = new_name(self.options.address.id_prefix)
        secret = secrets.token_urlsafe(24)
        began_s, secret_hash = time.time(), hash_of(secret)
        files = Files.of(stream_name, self.options.records.journal)
        header = {
            "messages": 1,
            "stream": stream_name,
            "model": name,
            "owner": owner,
            "secret": secret_hash,
            "began": began_s,
            "options": options,
        }
        stream = Stream(
            stream_name,
            name,
            owner,
            secret_hash,
            self._protocol(stream_name, began_s),
            new_outbox(files.messages, header, self.options.capacity.keep_bytes),
            began_s,
        )
        try:
            await self._begin(stream, Open(name, options, files.journal))
        except BaseException:  # it was refused, or the client has left meanwhile
            # Only the server knows its name, so nothing could ever resume from its files.
            self.worker.send(stream, Drop(files.paths))
            self._forget(stream)
            raise
        return stream, secret

    def connect(self, stream: Stream, after: int, *, speaks: bool) -> Connection:
        """Begin to hear a stream.

        Args:
            stream: that is here.
            after: the number of the last message that is known there.
            speaks: whether it is the speaker, who takes the place of an earlier one.

        Raises:
            ProtocolError: if what follows is no longer kept, or too many listen.
        """
        try:
            stream.outbox.after(after)
        except TooLate as error:
            raise ProtocolError("too_late", f"{error}; read the transcript instead.") from error
        if not 0 <= after <= stream.outbox.seq:
            raise ProtocolError(
                "invalid_value",
                f"after must be from 0 to {stream.outbox.seq}, got {after}.",
                "after",
            )
        n_listeners = len(stream.connections) - (stream.speaker is not None)
        if not speaks and n_listeners >= self.options.capacity.max_listeners:
            raise ProtocolError(
                "too_many_listeners",
                f"this session has {n_listeners} listeners, as many as it may.",
                kind="rate_limit_error",
            )
        connection = Connection(stream, after)
        if speaks:
            if stream.speaker is not None:
                stream.speaker.end(4003)
            stream.speaker, stream.left_s = connection, None
            stream.heard_s = time.monotonic()
        stream.connections.add(connection)
        # A speaker who waits for the recogniser has to know that it has gone on meanwhile.
        if stream.protocol.tail or (speaks and stream.protocol.heard_ms is not None):
            connection.show_tail(stream.protocol.tail, stream.protocol.heard_ms)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Hear no more; a speaker may come back for a while."""
        stream = connection.stream
        stream.connections.discard(connection)
        if stream.speaker is connection:
            stream.speaker, stream.left_s = None, time.monotonic()

    def obey(self, stream: Stream, heard: Sequence[Heard]) -> None:
        """Do what a stream's client has asked for."""
        stream.heard_s = time.monotonic()
        if stream.speaker is None:
            stream.left_s = None  # it speaks by requests, which need no connection
        self._pass_on(stream, heard)

    async def take(self, stream: Stream, heard: Sequence[Heard]) -> None:
        """Do what a stream's client has asked for, and wait until the journal holds it.

        Raises:
            ProtocolError: if the stream ends before that.
        """
        self.obey(stream, heard)
        backlog = stream.protocol.backlog
        if backlog.n_taken < backlog.n_put:
            taken = asyncio.get_running_loop().create_future()
            stream.waiting.append((backlog.n_put, taken))
            await taken

    async def change(self, stream: Stream, settings: Settings) -> None:
        """Change a stream's options, and wait until they have been.

        Raises:
            ProtocolError: if they are refused.
        """
        name = f"request_{next(self._requests)}"
        heard = stream.protocol.change(settings, name)
        answer = asyncio.get_running_loop().create_future()
        stream.changes[name] = answer
        try:
            self.obey(stream, [heard])
            await answer
        finally:
            del stream.changes[name]

    def drop(self, stream: Stream) -> None:
        """End a stream at once; nothing more is translated."""
        self.worker.send(stream, Drop())
        self._said(stream, Failed("this session was ended by its owner.", "dropped"))

    # Inside

    def _require_room(self, owner: str) -> None:
        capacity = self.options.capacity
        live = [stream for stream in self._streams.values() if stream.closed_s is None]
        if self._stopping or len(live) >= capacity.max_sessions:
            raise ProtocolError(
                "server_full",
                f"this server has {len(live)} sessions and takes {capacity.max_sessions}; try "
                "again when others have ended.",
                kind="rate_limit_error",
            )
        n_own = sum(stream.owner == owner for stream in live)
        if n_own >= capacity.max_sessions_per_key:
            raise ProtocolError(
                "too_many_sessions",
                f"this key has {n_own} live sessions, as many as it may; close one first.",
                kind="rate_limit_error",
            )

    def _forget_oldest(self) -> None:
        """Keep of the streams that have ended as many as may be live."""
        ended = [each for each in self._streams.values() if each.closed_s and not each.connections]
        for stream in ended[: -self.options.capacity.max_sessions]:
            self._forget(stream)

    async def _begin(self, stream: Stream, command: Open) -> None:
        self._streams[stream.name] = stream
        self.worker.send(stream, command)
        await asyncio.shield(stream.opened)

    async def _revive(self, name: str) -> Stream:
        files = Files.of(name, self.options.records.journal)
        if files.messages is None or not is_name(name) or not files.messages.exists():
            raise _unknown()
        kept = kept_messages(files.messages, self.models, self.options.capacity.keep_bytes)
        if kept is None:
            raise _unknown()
        header, outbox, told = kept.header, kept.outbox, kept.told
        stream = Stream(
            name,
            header["model"],
            header["owner"],
            header["secret"],
            self._protocol(name, header["began"], told),
            outbox,
            header["began"],
        )
        if told.closed:
            self._streams[name] = stream
            stream.opened.set_result(None)
            stream.closed_s = time.monotonic()
            outbox.close()
            return stream
        try:
            self._require_room(stream.owner)
        except ProtocolError:
            outbox.close()
            raise
        stream.left_s = time.monotonic()
        await self._begin(stream, Open(stream.model, header["options"], files.journal, told.turns))
        return stream

    def _protocol(self, name: str, began_s: float, told: Told | None = None) -> Protocol:
        identity = {
            "id": name,
            "expires_at": int(began_s + self.options.capacity.max_session_s),
            "captions": f"/captions/{name}",
            "input_modalities": self.input_modalities,
        }
        return Protocol(self._limits, told, identity, hears=self.recognition is not None)

    def _pass_on(self, stream: Stream, heard: Sequence[Heard]) -> None:
        for item in heard:
            match item:
                case Tail():
                    for connection in stream.connections:
                        connection.show_tail(item.unstable, stream.protocol.heard_ms)
                case Hear() | EndSpeech():
                    if self.recognition is not None:
                        self.recognition.send(stream, item)
                case _:
                    self.worker.send(stream, item)

    def _deliver_audio(self, said: AudioSaid) -> None:
        """Called by the thread that owns the recogniser."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_audio, *said)

    def _take_audio(self, stream: Any, answer: AudioAnswer) -> None:
        if self._streams.get(stream.name) is not stream:
            return  # it was dropped meanwhile
        if isinstance(answer, RecogniserFailed):
            self.counts.refuse("recogniser_failed", session=stream.name)
        messages, heard = stream.protocol.hear(answer)
        # First the messages: what the journal has of these words is known by them.
        self._tell(stream, messages)
        self._pass_on(stream, heard)

    def _deliver(self, said: Sequence[Said]) -> None:
        """Called by the thread that owns MLX."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, said)

    def _take(self, said: Sequence[Said]) -> None:
        by_stream: dict[Any, list[Any]] = {}
        for stream, answer in said:
            by_stream.setdefault(stream, []).append(answer)
        for stream, answers in by_stream.items():
            if self._streams.get(stream.name) is stream:  # else it was dropped during its pass
                for answer in answers:
                    self.counts.answer(stream, answer)
                self._said(stream, *answers)

    def _said(self, stream: Stream, *answers: Any) -> None:
        messages = []
        for answer in answers:
            if not stream.opened.done():
                if isinstance(answer, Failed):
                    self._forget(stream)
                    stream.opened.set_exception(self._as_error(answer))
                    return
                if isinstance(answer, Opened):
                    self.counts.n_opened += 1
                    stream.opened.set_result(None)
                    note_opened(log, stream, answer)
            note_end(log, stream, answer, has_texts=self.options.records.log_texts)
            if isinstance(answer, Failed):
                self.counts.refusals[answer.code] += 1
            if isinstance(answer, Refused) and answer.event_id not in stream.changes:
                self.counts.refuse_client(refusal(answer), stream)  # others are answered over HTTP
            if isinstance(answer, Changed | Refused):
                stream.answer(answer)
            messages += stream.protocol.say(answer)
            stream.answer_taken()
        self._tell(stream, messages)

    def _tell(self, stream: Stream, messages: Sequence[Mapping[str, Any]]) -> None:
        try:
            stream.say(messages)
        except OSError as error:  # the disk of its records is full
            note_not_written(error)
            self.worker.send(stream, Drop())
            for connection in list(stream.connections):
                connection.end(1011)
            self._forget(stream)
        if stream.protocol.closed and self.recognition is not None:
            self.recognition.drop(stream)

    @staticmethod
    def _as_error(failed: Failed) -> ProtocolError:
        full, internal = failed.code == "server_full", failed.code in SERVER_FAULTS
        kind = "rate_limit_error" if full else "server_error" if internal else None
        return ProtocolError(failed.code, failed.message, kind=kind or "invalid_request_error")

    def _forget(self, stream: Stream) -> None:
        if self._streams.get(stream.name) is stream:
            del self._streams[stream.name]
        if self.recognition is not None:
            self.recognition.drop(stream)
        stream.let_go()

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for stream in list(self._streams.values()):
                self.sweep(stream, time.monotonic())

    def sweep(self, stream: Stream, now_s: float) -> None:
        """End what has waited too long: a stream, or a reader who is too slow.

        Args:
            stream: to look at.
            now_s: by ``time.monotonic``.
        """
        capacity = self.options.capacity
        for connection in list(stream.connections):
            behind = stream.outbox.bytes_after(connection.seq)
            if behind > capacity.max_backlog_bytes:
                self.counts.refuse("slow_reader", session=stream.name, bytes=behind)
                connection.end(4008)
        if stream.closed_s is not None:
            if now_s - stream.closed_s > capacity.resume_s and not stream.connections:
                self._forget(stream)
        elif (why := overdue(stream, capacity, now_s)) is not None:
            self._expire(stream, *why)

    def _expire(self, stream: Stream, code: str, why: str) -> None:
        """Close a stream as its client would: what has arrived is translated."""
        self.counts.refusals[code] += 1
        note(log, "session expired", session=stream.name, owner=stream.owner, reason=code)
        self._tell(stream, stream.protocol.notice(code, f"this session is closed, since {why}."))
        self._pass_on(stream, stream.protocol.close())


def _unknown() -> ProtocolError:
    return ProtocolError(
        "unknown_session",
        "there is no such session: it has never been, or has ended some time ago.",
        "session",
    )
