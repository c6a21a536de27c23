"""All streams of a server: who owns them, who listens, and when they end. It knows no sockets.

Everything here runs on the thread of an event loop; the thread that owns MLX is behind
:class:`~mlx_simul.serving.worker.Worker`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.events import Read, Tail, Write
from mlx_simul.serving.commands import (
    Answer,
    Changed,
    Close,
    Drop,
    Failed,
    Open,
    Opened,
    Refused,
)
from mlx_simul.serving.messages import ProtocolError, Settings
from mlx_simul.serving.options import ServingLimits, ServingOptions
from mlx_simul.serving.outbox import Outbox, TooLate, header_of
from mlx_simul.serving.protocol import Heard, Protocol, StreamLimits, Told, options_of, refusal
from mlx_simul.serving.worker import Loader, Said, Worker

log = logging.getLogger(__name__)

SWEEP_S = 1.0
MAX_PRIVATE_MESSAGES = 100


class Connection:
    """Somebody who hears a stream: its speaker, or a listener.

    Args:
        stream: that is heard.
        seq: the number of the last message that is known there.

    Attributes:
        seq: likewise, as messages are taken.
        closed_with: the code that a WebSocket is to be closed with, once it is to be.
    """

    def __init__(self, stream: Stream, seq: int) -> None:
        self.stream, self.seq = stream, seq
        self.closed_with: int | None = None
        self._private: deque[bytes] = deque(maxlen=MAX_PRIVATE_MESSAGES)
        self._tail: bytes | None = None
        self._awake = asyncio.Event()
        self._gone = asyncio.Event()
        self.wake()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something to this one alone."""
        self._private.append(msgspec.json.encode(message))
        self.wake()

    def show_tail(self, text: str) -> None:
        """Show what a recogniser may still change, in place of what it said before."""
        self._tail = msgspec.json.encode({"type": "session.input_transcript.tail", "text": text})
        self.wake()

    def wake(self) -> None:
        """Have :meth:`next` look again."""
        self._awake.set()

    def end(self, code: int) -> None:
        """Have the connection closed."""
        if self.closed_with is None:
            self.closed_with = code
        self._gone.set()
        self.wake()

    async def ended(self) -> int:
        """Wait until the connection is to be closed, for another reason than the stream's end."""
        await self._gone.wait()
        return self.closed_with or 1000

    async def next(self) -> list[tuple[int | None, bytes]]:
        """What is to be sent now, with numbers; empty once all has been, or nothing more will be.

        Raises:
            TooLate: if messages that were not sent yet have been given up.
        """
        while self.closed_with is None:
            found: list[tuple[int | None, bytes]] = [
                (None, self._private.popleft()) for _ in range(len(self._private))
            ]
            for seq, data in self.stream.outbox.after(self.seq):
                found.append((seq, data))
                self.seq = seq
            if self._tail is not None:
                found.append((None, self._tail))
                self._tail = None
            if found:
                return found
            if self.stream.protocol.closed:
                return []
            self._awake.clear()
            await self._awake.wait()
        return []


class Stream:
    """One stream of a server.

    Args:
        name: that nobody can guess.
        model: its name.
        owner: of the key that began it.
        secret_hash: of the secret by which its source is sent over HTTP.
        protocol: its conversation.
        outbox: its messages.
        began_s: when it began, in seconds since 1970.

    Attributes:
        opened: done once its session has begun, or could not.
        speaker: the connection that sends its source.
        connections: all who hear it, the speaker among them.
        changes: requests of HTTP for other options, that wait for the answer.
        heard_s: when its speaker last said something, by ``time.monotonic``.
        left_s: when its speaker's connection was lost; None while there is one, or never was.
        closed_s: when its last message was said.
    """

    def __init__(
        self,
        name: str,
        model: str,
        owner: str,
        secret_hash: str,
        protocol: Protocol,
        outbox: Outbox,
        began_s: float,
    ) -> None:
        self.name, self.model, self.owner = name, model, owner
        self._secret_hash = secret_hash
        self.protocol, self.outbox, self.began_s = protocol, outbox, began_s
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.speaker: Connection | None = None
        self.connections: set[Connection] = set()
        self.changes: dict[str, asyncio.Future[None]] = {}
        self.heard_s = time.monotonic()
        self.left_s: float | None = None
        self.closed_s: float | None = None

    def knows(self, secret: str | None) -> bool:
        """Whether a secret is the one of this stream."""
        given = _hash(secret or "")
        return hmac.compare_digest(given, self._secret_hash)

    def answer(self, answer: Changed | Refused | Failed) -> None:
        """Answer the request of HTTP that waits for this, if one does."""
        for name, waiting in self.changes.items():
            if waiting.done():
                continue
            if isinstance(answer, Failed):
                waiting.set_exception(ProtocolError(answer.code, answer.message))
            elif name == answer.event_id:
                if isinstance(answer, Changed):
                    waiting.set_result(None)
                else:
                    waiting.set_exception(refusal(answer))

    def say(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Give numbered messages to all who hear, and the others to the speaker alone."""
        numbered = [message for message in messages if "seq" in message]
        if numbered:
            self.outbox.add(numbered)
        for message in messages:
            if "seq" not in message and self.speaker is not None:
                self.speaker.tell(message)
        for connection in self.connections:
            connection.wake()
        if self.protocol.closed and self.closed_s is None:
            self.closed_s = time.monotonic()
            self.outbox.close()


class Streams:
    """All streams of a server, and the thread that runs them.

    Args:
        loaders: of the models, by name; the first one is the default.
        options: of the server.

    Attributes:
        worker: the thread.
        refusals: how often something was refused, by code.
        words_read: source words, of all streams.
        words_written: target words, likewise.
        n_opened: streams that have begun.
        on_lag: told, for each target word, how many source words it is behind.
    """

    def __init__(self, loaders: Mapping[str, Loader], options: ServingOptions) -> None:
        self.options, self.models = options, list(loaders)
        capacity = options.capacity
        self.worker = Worker(loaders, self._deliver, memory_limit_bytes(capacity))
        self._limits = StreamLimits(
            capacity.max_waiting_chars, capacity.max_words_per_s, capacity.max_prompt_chars
        )
        self._streams: dict[str, Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._requests = count()
        self.refusals: dict[str, int] = {}
        self.words_read = self.words_written = self.n_opened = 0
        self.on_lag: Callable[[int], None] | None = None

    # Life

    async def start(self) -> None:
        """Begin; the models are loaded already."""
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        """End: connections are closed, and what has a journal can be resumed."""
        self._stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for stream in self._streams.values():
            for connection in list(stream.connections):
                connection.end(1012)
        await asyncio.get_running_loop().run_in_executor(None, self.worker.stop)
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

    def trained(self, model: str) -> StreamingConfig:
        """What a model was trained for."""
        return self.worker.describe(model)

    async def find(self, name: str, owner: str | None = None) -> Stream:
        """A stream that is here, or that the journals of an earlier life of the server hold.

        Args:
            name: of the stream.
            owner: of the client's key, if the stream must be its own.

        Raises:
            ProtocolError: if there is none.
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
        stream_name, secret = f"sess_{secrets.token_urlsafe(16)}", secrets.token_urlsafe(24)
        began_s, secret_hash = time.time(), _hash(secret)
        path = self._path(stream_name, "messages")
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
            self._outbox(path, header),
            began_s,
        )
        try:
            await self._begin(stream, Open(name, options, self._path(stream_name, "journal")))
        except BaseException:
            if path is not None:
                path.unlink(missing_ok=True)  # nobody knows its name
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
        if len(stream.connections) > self.options.capacity.max_listeners:
            raise ProtocolError(
                "too_many_listeners",
                f"this session has {len(stream.connections)} listeners already.",
                kind="rate_limit_error",
            )
        connection = Connection(stream, after)
        if speaks:
            if stream.speaker is not None:
                stream.speaker.end(4003)
            stream.speaker, stream.left_s = connection, None
            stream.heard_s = time.monotonic()
        stream.connections.add(connection)
        if stream.protocol.tail:
            connection.show_tail(stream.protocol.tail)
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
        for item in heard:
            if isinstance(item, Tail):
                for connection in stream.connections:
                    connection.show_tail(item.unstable)
            else:
                self.worker.send(stream.name, item)

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
        self.worker.send(stream.name, Drop())
        self._said(stream, Failed("this session was ended by its owner.", "dropped"))

    def count_refusal(self, error: ProtocolError) -> None:
        """Count what a client was refused."""
        self.refusals[error.code] = self.refusals.get(error.code, 0) + 1

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

    async def _begin(self, stream: Stream, command: Open) -> None:
        self._streams[stream.name] = stream
        self.worker.send(stream.name, command)
        try:
            await asyncio.shield(stream.opened)
        except ProtocolError:
            self._forget(stream)
            raise
        except asyncio.CancelledError:  # the client has gone meanwhile
            self.worker.send(stream.name, Drop())
            self._forget(stream)
            raise

    async def _revive(self, name: str) -> Stream:
        path, journal = self._path(name, "messages"), self._path(name, "journal")
        if path is None or journal is None or not _is_name(name) or not path.exists():
            raise _unknown()
        try:
            header = header_of(path)
            if header["model"] not in self.models:
                raise _unknown()
            outbox, told = Outbox.resumed(self.options.capacity.keep_bytes, path)
            stream = Stream(
                name,
                header["model"],
                header["owner"],
                header["secret"],
                self._protocol(name, header["began"], told),
                outbox,
                header["began"],
            )
            options = header["options"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.exception("the messages of a stream cannot be read")
            message = "the records of this session are damaged; begin a new one."
            raise ProtocolError("journal_failed", message, kind="server_error") from error
        if told.closed:
            self._streams[name] = stream
            stream.opened.set_result(None)
            stream.closed_s = time.monotonic()
            return stream
        self._require_room(stream.owner)
        stream.left_s = time.monotonic()
        await self._begin(stream, Open(stream.model, options, journal, told.turns))
        return stream

    def _protocol(self, name: str, began_s: float, told: Told | None = None) -> Protocol:
        identity = {
            "id": name,
            "expires_at": int(began_s + self.options.capacity.max_session_s),
            "captions": f"/captions/{name}",
        }
        return Protocol(self._limits, told, identity)

    def _path(self, name: str, kind: str) -> Path | None:
        folder = self.options.records.journal
        return None if folder is None else Path(folder).expanduser() / f"{name}.{kind}"

    def _outbox(self, path: Path | None, header: Mapping[str, Any]) -> Outbox:
        try:
            return Outbox(self.options.capacity.keep_bytes, path, header)
        except OSError as error:
            log.error("the messages of a stream cannot be written: %s", error)
            message = "this session cannot be recorded; the server's disk may be full."
            raise ProtocolError("journal_failed", message, kind="server_error") from error

    def _deliver(self, said: Sequence[Said]) -> None:
        """Called by the thread that owns MLX."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, said)

    def _take(self, said: Sequence[Said]) -> None:
        by_stream: dict[str, list[Any]] = {}
        for name, answer in said:
            by_stream.setdefault(name, []).append(answer)
        for name, answers in by_stream.items():
            stream = self._streams.get(name)
            if stream is not None:  # else it was dropped while its pass was being run
                for answer in answers:
                    self._count(stream, answer)
                self._said(stream, *answers)

    def _count(self, stream: Stream, answer: Answer) -> None:
        if isinstance(answer, Read):
            self.words_read += bool(answer.source)
        elif isinstance(answer, Write) and answer.word_complete:
            self.words_written += 1
            if self.on_lag is not None:
                self.on_lag(stream.protocol.words_behind)

    def _said(self, stream: Stream, *answers: Any) -> None:
        messages = []
        for answer in answers:
            if not stream.opened.done():
                if isinstance(answer, Failed):
                    stream.opened.set_exception(self._as_error(answer))
                    return
                if isinstance(answer, Opened):
                    self.n_opened += 1
                    stream.opened.set_result(None)
            if isinstance(answer, Failed):
                self.refusals[answer.code] = self.refusals.get(answer.code, 0) + 1
            if isinstance(answer, Changed | Refused | Failed):
                stream.answer(answer)
            messages += stream.protocol.say(answer)
        try:
            stream.say(messages)
        except OSError as error:  # the disk of its records is full
            log.error("the messages of a stream cannot be written: %s", error)
            self.worker.send(stream.name, Drop())
            for connection in list(stream.connections):
                connection.end(1011)
            self._forget(stream)

    @staticmethod
    def _as_error(failed: Failed) -> ProtocolError:
        full, internal = failed.code == "server_full", failed.code == "internal_error"
        kind = "rate_limit_error" if full else "server_error" if internal else None
        return ProtocolError(failed.code, failed.message, kind=kind or "invalid_request_error")

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.name, None)
        stream.outbox.close()

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
                self.refusals["slow_reader"] = self.refusals.get("slow_reader", 0) + 1
                connection.end(4008)
        if stream.closed_s is not None:
            if now_s - stream.closed_s > capacity.resume_s and not stream.connections:
                self._forget(stream)
        elif not stream.opened.done() or stream.protocol.closing:
            return
        elif stream.left_s is not None and now_s - stream.left_s > capacity.resume_s:
            self._expire(stream, "speaker_left", "its speaker has not come back")
        elif now_s - stream.heard_s > capacity.idle_s:
            self._expire(stream, "idle", f"there was no text for {capacity.idle_s:g} seconds")
        elif time.time() - stream.began_s > capacity.max_session_s:
            self._expire(
                stream, "too_long", f"it has lasted for {capacity.max_session_s:g} seconds"
            )

    def _expire(self, stream: Stream, code: str, why: str) -> None:
        """Close a stream as its client would: what has arrived is translated."""
        stream.say(stream.protocol.notice(code, f"this session is closed, since {why}."))
        stream.protocol.close()
        self.worker.send(stream.name, Close())


def _unknown() -> ProtocolError:
    return ProtocolError(
        "unknown_session",
        "there is no such session: it has never been, or has ended some time ago.",
        "session",
    )


def memory_limit_bytes(capacity: ServingLimits) -> int:
    """What MLX's arrays may take: as the options say, or half of the machine's memory."""
    if capacity.memory_mb is not None:
        return capacity.memory_mb * 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _is_name(name: str) -> bool:
    """Whether it may be a stream's name, and so a part of a path."""
    rest = name.removeprefix("sess_")
    plain = rest.replace("-", "").replace("_", "")
    return rest != name and len(rest) == 22 and plain.isascii() and plain.isalnum()
