"""The WebSocket of a speaker: ``/v1/realtime/translations``. All that it means is in Protocol."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from mlx_simul.serving.access import require_origin, require_owner, subprotocols
from mlx_simul.serving.answers import created_message, status_of
from mlx_simul.serving.keys import Keys
from mlx_simul.serving.messages import ProtocolError, Settings, error_message
from mlx_simul.serving.outbox import TooLate
from mlx_simul.serving.stream import Connection
from mlx_simul.serving.streams import Streams

log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long a client may take to hear why it is disconnected."""

_REASONS = {
    1011: "the server could not go on",
    1012: "the server stops; resume by session and after",
    4003: "another connection speaks for this session now",
    4008: "output was not taken fast enough; resume by session and after",
}


async def serve_websocket(socket: WebSocket, streams: Streams, keys: Keys) -> None:
    """Let a client speak.

    Args:
        socket: not accepted yet.
        streams: of the server.
        keys: of the server.
    """
    try:
        require_origin(socket, streams.options.address.origins)
        owner = require_owner(socket, keys)
        connection, values = await _connected(socket, streams, owner)
    except ProtocolError as error:
        streams.counts.refuse_client(error)
        refusal = JSONResponse({"error": error.body()}, status_of(error))
        await socket.send_denial_response(refusal)
        return
    try:
        offered = subprotocols(socket.headers)
        await socket.accept("realtime" if "realtime" in offered else None)
        await socket.send_json(values)
        await _converse(socket, connection, streams)
    finally:
        streams.disconnect(connection)


async def _connected(
    socket: WebSocket, streams: Streams, owner: str
) -> tuple[Connection, dict[str, Any]]:
    query = socket.query_params
    name, secret = query.get("session"), None
    if name is None:
        stream, secret = await streams.open(owner, query.get("model"), Settings())
        after = 0
    else:
        stream = await streams.find(name, owner)
        after = _number(query.get("after", "0"))
    connection = streams.connect(stream, after, speaks=True)
    return connection, created_message(stream, secret=secret, resumed=name is not None)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise ProtocolError("invalid_value", f"after must be a number, got {text[:40]!r}.", "after")
    return int(text)


async def _converse(socket: WebSocket, connection: Connection, streams: Streams) -> None:
    """Listen and talk until one side, or the stream, comes to an end."""
    tasks = [
        asyncio.create_task(_listen(socket, connection, streams)),
        asyncio.create_task(_talk(socket, connection)),
        asyncio.create_task(connection.ended()),
    ]
    listening, talking, ended = tasks
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if listening in done and talking not in done and ended not in done:
        listening.result()  # the client has gone
        return
    code = 1000
    if ended in done:
        code = ended.result()
    elif isinstance(talking.exception(), TooLate):
        code = 4008
    elif (error := talking.exception()) is not None and not isinstance(error, WebSocketDisconnect):
        raise error
    await _close(socket, code)


async def _listen(socket: WebSocket, connection: Connection, streams: Streams) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if connection.closed_with is not None:
            continue  # another connection may speak for the stream by now
        data = message.get("text")
        if data is None:
            data = message.get("bytes") or b""
        try:
            streams.obey(connection.stream, connection.stream.protocol.receive(data))
        except ProtocolError as error:
            streams.counts.refuse_client(error, connection.stream)
            connection.tell(error_message(error))


async def _talk(socket: WebSocket, connection: Connection) -> None:
    while messages := await connection.next():
        for _, data in messages:
            await socket.send_text(data.decode())


async def _close(socket: WebSocket, code: int) -> None:
    if socket.client_state is WebSocketState.DISCONNECTED:
        return
    try:
        async with asyncio.timeout(CLOSE_S):
            await socket.close(code, _REASONS.get(code))
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        log.info("a client that was to be disconnected did not answer")
