"""One stream of a server, and those who hear it. They know no sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlx_simul.serving.commands import Changed, Refused
from mlx_simul.serving.messages import ended, refusal
from mlx_simul.serving.options import ServingLimits
from mlx_simul.serving.outbox import Outbox
from mlx_simul.serving.protocol import Protocol

BATCH_BYTES = 65_536
"""The most bytes of messages that a connection takes at once, in whole messages."""

MAX_PRIVATE_MESSAGES = 100
"""Errors that wait for one connection, about what it sent. A client that takes none while it sends
more loses the oldest; the metrics count all of them."""


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
        self._shown = ""
        self._awake = asyncio.Event()
        self._gone = asyncio.Event()
        self.wake()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something to this one alone."""
        self._private.append(msgspec.json.encode(message))
        self.wake()

    def show_tail(self, text: str, heard_ms: int | None = None) -> None:
        """Show what a recogniser may still change, in place of what it said before.

        Progress alone is for the speaker: it tells whether the recogniser keeps up.

        Args:
            text: that.
            heard_ms: how much audio has been listened to; None if there was none.
        """
        if text == self._shown and self.stream.speaker is not self:
            return
        self._shown = text
        message: dict[str, Any] = {"type": "session.input_transcript.tail", "text": text}
        if heard_ms is not None:
            message["heard_ms"] = heard_ms
        self._tail = msgspec.json.encode(message)
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
            n_bytes = 0
            for seq, data in self.stream.outbox.after(self.seq):
                found.append((seq, data))
                self.seq = seq
                n_bytes += len(data)
                if n_bytes >= BATCH_BYTES:
                    break  # what is taken at once does not count as a backlog
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
        waiting: requests of HTTP that wait until a number of commands have been carried out.
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
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.heard_s = time.monotonic()
        self.left_s: float | None = None
        self.closed_s: float | None = None

    def __str__(self) -> str:
        """Its name."""
        return self.name

    def knows(self, secret: str | None) -> bool:
        """Whether a secret is the one of this stream."""
        given = hash_of(secret or "")
        return hmac.compare_digest(given, self._secret_hash)

    def answer(self, answer: Changed | Refused) -> None:
        """Answer the request of HTTP that waits for this, if one does."""
        waiting = self.changes.get(answer.event_id or "")
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Changed):
            waiting.set_result(None)
        else:
            waiting.set_exception(refusal(answer))

    def answer_taken(self) -> None:
        """Answer the requests of HTTP whose commands have been carried out."""
        n_taken = self.protocol.backlog.n_taken
        while self.waiting and self.waiting[0][0] <= n_taken:
            request = self.waiting.popleft()[1]
            if not request.done():
                request.set_result(None)

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
            self.let_go()

    def let_go(self) -> None:
        """Write no more down, and answer the requests that wait: nothing will come of them."""
        self.outbox.close()
        for waiting in [*self.changes.values(), *(request for _, request in self.waiting)]:
            if not waiting.done():
                waiting.set_exception(ended())


def overdue(stream: Stream, capacity: ServingLimits, now_s: float) -> tuple[str, str] | None:
    """Why a stream that lives is to be closed: a code, and words; None if it may go on.

    Args:
        stream: to look at.
        capacity: how long it may wait, and live.
        now_s: by ``time.monotonic``.
    """
    if not stream.opened.done() or stream.protocol.closing:
        return None
    if stream.left_s is not None and now_s - stream.left_s > capacity.resume_s:
        return "speaker_left", "its speaker has not come back"
    if now_s - stream.heard_s > capacity.idle_s:
        return "idle", f"nothing was said for {capacity.idle_s:g} seconds"
    if time.time() - stream.began_s > capacity.max_session_s:
        return "too_long", f"it has lasted for {capacity.max_session_s:g} seconds"
    return None


def hash_of(secret: str) -> str:
    """By which a secret is remembered."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
