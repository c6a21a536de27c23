"""HTTP beside the WebSocket: text in by requests, events out as server-sent events (PROTOCOL)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, get_args

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_simul.events import as_plain
from mlx_simul.serving.access import key_of, require_origin, require_owner
from mlx_simul.serving.answers import created_message, model_values, status_of
from mlx_simul.serving.keys import Keys
from mlx_simul.serving.messages import ProtocolError, settings_of
from mlx_simul.serving.outbox import TooLate
from mlx_simul.serving.protocol import Heard
from mlx_simul.serving.stream import Connection, Stream
from mlx_simul.serving.streams import Streams
from mlx_simul.stream.subtitles import Side
from mlx_simul.stream.transcripts import transcript_form

MAX_SECRET_S = 7200
STALLED_S = 30.0
"""A pass that takes this long makes no progress, as far as anybody can tell."""

_JSON = "application/json"
_MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt", "txt": "text/plain"}
_SIDES: tuple[str, ...] = get_args(Side)

Handler = Callable[["Http", Request], Awaitable[Response]]


class _Secret(msgspec.Struct):
    """What a client may say of a secret it asks for; of the session only the model counts."""

    expires_after: dict[str, Any] | None = None
    session: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    text: str


def _answering(handler: Handler) -> Handler:
    """Let pages of other sites do nothing, and answer an error as JSON."""

    @wraps(handler)
    async def answer(self: Http, request: Request) -> Response:
        try:
            require_origin(request, self.streams.options.address.origins)
            return await handler(self, request)
        except ProtocolError as error:
            self.streams.counts.refuse_client(error)
            return JSONResponse({"error": error.body()}, status_of(error))

    return answer


class Http:
    """The routes of HTTP.

    Args:
        streams: of the server.
        keys: of the server.
    """

    def __init__(self, streams: Streams, keys: Keys) -> None:
        self.streams, self._keys = streams, keys
        self._began = int(time.time())

    def routes(self) -> list[Route]:
        """All of them."""
        one = "/v1/streams/{name}"
        made: Sequence[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = (
            ("POST", "/v1/streams", self.open),
            ("GET", one, self.look),
            ("DELETE", one, self.close),
            ("POST", f"{one}/text", self.text),
            ("POST", f"{one}/tail", self.tail),
            ("POST", f"{one}/audio", self.audio),
            ("POST", f"{one}/commit", self.commit),
            ("POST", f"{one}/session", self.change),
            ("GET", f"{one}/events", self.events),
            ("GET", f"{one}/transcript.{{kind}}", self.transcript),
            ("GET", "/v1/models", self.models),
            ("POST", "/v1/realtime/translations/client_secrets", self.secret),
            ("GET", "/healthz", self.health),
        )
        return [Route(path, handler, methods=[method]) for method, path, handler in made]

    @_answering
    async def open(self, request: Request) -> Response:
        """Begin a stream."""
        owner = require_owner(request, self._keys)
        data = await self._body(request)
        settings, model = _opening(data)
        stream, secret = await self.streams.open(owner, model, settings)
        values = {
            "id": stream.name,
            "secret": secret,
            "session": dict(stream.protocol.session),
            "events": f"/v1/streams/{stream.name}/events",
            "captions": f"/captions/{stream.name}",
        }
        return JSONResponse(values, 201)

    @_answering
    async def look(self, request: Request) -> Response:
        """How a stream stands."""
        stream = await self.streams.find(request.path_params["name"])
        return JSONResponse(
            {
                "session": dict(stream.protocol.session),
                "last_seq": stream.outbox.seq,
                "source_chars": stream.protocol.source_chars,
                "commits": stream.protocol.commits,
                "audio_ms": stream.protocol.audio_ms,
                "listeners": len(stream.connections),
                "closed": stream.protocol.closed,
            }
        )

    @_answering
    async def text(self, request: Request) -> Response:
        """Take a piece of source; the answer means that a kill does not undo it."""
        stream = await self._own(request)
        data = await self._body(request)
        text = _plain_text(data) if _is_plain(request) else _decoded(data, _Text).text
        heard = stream.protocol.append(text)
        source_chars = stream.protocol.source_chars
        await self.streams.take(stream, [heard])
        return JSONResponse({"source_chars": source_chars}, 202)

    @_answering
    async def tail(self, request: Request) -> Response:
        """Show what a recogniser may still change."""
        stream = await self._own(request)
        text = _decoded(await self._body(request), _Text).text
        self._obey(stream, stream.protocol.show_tail(text))
        return JSONResponse({}, 202)

    @_answering
    async def audio(self, request: Request) -> Response:
        """Take a piece of speech: samples as they are, without base64."""
        stream = await self._own(request)
        self._obey(stream, stream.protocol.append_audio(await self._body(request)))
        return JSONResponse({"audio_ms": stream.protocol.audio_ms}, 202)

    @_answering
    async def commit(self, request: Request) -> Response:
        """End the turn."""
        stream = await self._own(request)
        heard = stream.protocol.commit()
        commits = stream.protocol.commits
        await self.streams.take(stream, [heard])
        return JSONResponse({"commits": commits}, 202)

    @_answering
    async def change(self, request: Request) -> Response:
        """Change options from the next turn on."""
        stream = await self._own(request)
        await self.streams.change(stream, settings_of(await self._body(request)))
        return JSONResponse({"session": dict(stream.protocol.session)})

    @_answering
    async def close(self, request: Request) -> Response:
        """End the source, or with ``now=1`` the stream."""
        stream = await self._own(request)
        if request.query_params.get("now") == "1":
            self.streams.drop(stream)
        else:
            await self.streams.take(stream, stream.protocol.close())
        return JSONResponse({}, 202)

    @_answering
    async def events(self, request: Request) -> Response:
        """All messages from one on, as they come; whoever knows the stream's name may listen."""
        stream = await self.streams.find(request.path_params["name"])
        after = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        if not (after.isascii() and after.isdecimal() and len(after) < 16):
            raise ProtocolError(
                "invalid_value", f"after must be a number, got {after[:40]!r}.", "after"
            )
        if stream.protocol.closed and int(after) == stream.outbox.seq:
            return Response(status_code=204)  # by which a browser knows not to come again
        connection = self.streams.connect(stream, int(after), speaks=False)
        return _Events(self.streams, connection)

    @_answering
    async def transcript(self, request: Request) -> Response:
        """What has been said so far, in turns that have ended."""
        stream = await self.streams.find(request.path_params["name"])
        kind, side = request.path_params["kind"], request.query_params.get("side", "target")
        if side not in _SIDES:
            raise ProtocolError(
                "invalid_value", f"side must be one of {', '.join(_SIDES)}.", "side"
            )
        named = {
            "Content-Disposition": f'attachment; filename="transcript.{kind}"',
            "X-Content-Type-Options": "nosniff",
        }
        if kind == "json":
            turns = [as_plain(end) for end in stream.outbox.turns()]
            values = {"session": dict(stream.protocol.session), "turns": turns}
            return Response(json.dumps(values, ensure_ascii=False), headers=named, media_type=_JSON)
        if kind not in _MEDIA_TYPES:
            raise ProtocolError(
                "unknown_session",
                f"a transcript's name must end in {', '.join([*_MEDIA_TYPES, 'json'])}.",
            )
        header, form = transcript_form(kind, side)  # pyright: ignore[reportArgumentType]
        pieces = (piece for piece in [header, *map(form, stream.outbox.turns())])
        return StreamingResponse(pieces, headers=named, media_type=_MEDIA_TYPES[kind])

    @_answering
    async def models(self, request: Request) -> Response:
        """What can be asked for."""
        require_owner(request, self._keys)
        data = [model_values(self.streams, name, self._began) for name in self.streams.models]
        return JSONResponse({"object": "list", "data": data})

    @_answering
    async def secret(self, request: Request) -> Response:
        """A secret that a page may have in place of a key."""
        owner = require_owner(request, self._keys)
        if self._keys.owner_of_key(key_of(request)) is None:
            # Else a page could renew its own for ever.
            raise ProtocolError("invalid_api_key", "a secret cannot make another; send a key.")
        asked = _decoded(await self._body(request) or b"{}", _Secret)
        lifetime_s = (asked.expires_after or {}).get("seconds", 600)
        if not isinstance(lifetime_s, int) or not 10 <= lifetime_s <= MAX_SECRET_S:
            raise ProtocolError(
                "invalid_value",
                f"a secret must last for 10 to {MAX_SECRET_S} seconds, got {lifetime_s!r}.",
                "expires_after.seconds",
            )
        model = (asked.session or {}).get("model") or self.streams.models[0]
        if model not in self.streams.models:
            known = ", ".join(self.streams.models)
            raise ProtocolError("unknown_model", f"unknown model {model!r}; known are {known}.")
        try:
            value, expires_at = self._keys.make_secret(owner, lifetime_s)
        except OverflowError as error:
            raise ProtocolError("too_many_secrets", f"{error}.", kind="rate_limit_error") from error
        values = model_values(self.streams, model, self._began)
        session = {
            "id": "sess_to_be",
            "type": "translation",
            "model": model,
            "expires_at": expires_at,
            "audio": values["audio"],
        }
        return JSONResponse({"value": value, "expires_at": expires_at, "session": session})

    async def health(self, request: Request) -> Response:
        """Whether passes make progress, and so does the recogniser."""
        threads = [self.streams.worker, self.streams.recognition]
        running = [thread for thread in threads if thread is not None]
        stalled_s = max(thread.stalled_s for thread in running)
        ok = stalled_s < STALLED_S and all(thread.is_alive for thread in running)
        values = {
            "status": "ok" if ok else "stalled",
            "sessions": len(self.streams),
            "seconds_since_progress": round(stalled_s, 3),
        }
        return JSONResponse(values, 200 if ok else 503)

    # Inside

    def _obey(self, stream: Stream, heard: Heard) -> None:
        self.streams.obey(stream, [heard])

    async def _own(self, request: Request) -> Stream:
        """The stream of a request that bears its secret, or its owner's key."""
        name, key = request.path_params["name"], key_of(request)
        owner = self._keys.owner(key)
        if owner is not None and (self._keys.needed or key is None):
            return await self.streams.find(name, owner)
        stream = await self.streams.find(name)
        if not stream.knows(key):
            raise ProtocolError("invalid_api_key", "this is not the secret of this session.")
        return stream

    async def _body(self, request: Request) -> bytes:
        most, data = self.streams.options.capacity.max_message_bytes, b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise ProtocolError(
                    "message_too_large",
                    f"a request may have at most {most} bytes; send it in smaller pieces.",
                    kind="rate_limit_error",
                )
        return data


class _Events(EventSourceResponse):
    """All messages that a connection hears; with the response the connection ends."""

    def __init__(self, streams: Streams, connection: Connection) -> None:
        super().__init__(self._heard(), ping=15, send_timeout=30)
        self._streams, self._connection = streams, connection

    async def __call__(self, *asgi: Any) -> None:
        try:
            await super().__call__(*asgi)
        finally:
            self._streams.disconnect(self._connection)

    async def _heard(self) -> AsyncIterator[ServerSentEvent]:
        first = created_message(self._connection.stream)
        yield ServerSentEvent(json.dumps(first, ensure_ascii=False))
        try:
            while messages := await self._connection.next():
                for seq, data in messages:
                    yield ServerSentEvent(data.decode(), id=None if seq is None else str(seq))
        except TooLate:
            return  # it comes again with Last-Event-ID, and is told


def _opening(data: bytes) -> tuple[Any, str | None]:
    """What the body of a request to begin a stream says: settings, and the model."""
    values = _decoded(data or b"{}", dict)
    model, session = values.get("model"), values.get("session", {})
    if model is not None and not isinstance(model, str):
        raise ProtocolError("invalid_value", f"model must be a name, got {model!r}.", "model")
    settings = settings_of(msgspec.json.encode(session))
    if model is None and settings.model is not msgspec.UNSET:
        model = settings.model
    return settings, model


def _decoded(data: bytes, kind: type) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"the body cannot be used: {error}."
        raise ProtocolError("invalid_value", message) from error


def _is_plain(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip() == "text/plain"


def _plain_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("invalid_value", f"the text is not UTF-8: {error}.", "text") from error
