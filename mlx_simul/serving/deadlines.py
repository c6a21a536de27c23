"""Limits on how long a client may take; uvicorn's protocols would wait for it without end.

A client that sends its request byte by byte, or takes no output, costs its sender nothing and the
server a socket. So each of these clients is disconnected, without a word, which it would not read.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_S = 10.0
"""For a request, its body included, from the connection or the answer before it."""

STUCK_S = 30.0
"""For taking any output, while some waits."""

LINGER_S = 10.0
"""For closing a WebSocket that the server has closed."""


class _TakesOutput(asyncio.Protocol):
    """Disconnects a client that takes no output for too long."""

    stuck_s = STUCK_S
    _stuck: asyncio.TimerHandle | None = None
    loop: Any
    transport: Any

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.stuck_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)


class PunctualHttp(_TakesOutput, H11Protocol):
    """HTTP in which a request has to come in time."""

    request_s = REQUEST_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the clock run while a request is awaited, or a part of it has come."""
        is_ours = self.transport.get_protocol() is self  # and not a WebSocket's by now
        if not (is_ours and self.conn.their_state in (h11.IDLE, h11.SEND_BODY)):
            self._cancel()
        elif self._late is None:
            self._late = self.loop.call_later(self.request_s, self.transport.abort)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class PunctualWebSocket(_TakesOutput, WebSocketsSansIOProtocol):
    """A WebSocket that ends when it should, whether its client answers or not."""

    linger_s = LINGER_S

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(self.linger_s, self.transport.abort)
