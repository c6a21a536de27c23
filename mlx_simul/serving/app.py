"""The server as an ASGI application: WebSocket, HTTP, the page, figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlx_simul.serving.deadlines import PunctualHttp, PunctualWebSocket
from mlx_simul.serving.http import Http
from mlx_simul.serving.keys import Keys
from mlx_simul.serving.messages import ProtocolError
from mlx_simul.serving.metrics import Metrics
from mlx_simul.serving.options import LOOPBACK, ServingLimits
from mlx_simul.serving.streams import Streams
from mlx_simul.serving.websocket import serve_websocket

PAGE = Path(__file__).parent / "page"

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(self)",
}


def make_app(streams: Streams, keys: Keys) -> Starlette:
    """The application of a server.

    Args:
        streams: of the server, whose models are loaded.
        keys: likewise.
    """
    metrics, address = Metrics(streams), streams.options.address

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await streams.start()
        try:
            yield
        finally:
            await streams.stop()

    async def realtime(socket: WebSocket) -> None:
        await serve_websocket(socket, streams, keys)

    async def figures(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def captions(request: Request) -> Response:
        return FileResponse(PAGE / "captions.html")

    async def refused(request: Request, error: Exception) -> Response:
        code = HTTPStatus(getattr(error, "status_code", 500))
        message = f"{request.method} {request.url.path[:200]!r}: {code.phrase}."
        return JSONResponse({"error": ProtocolError(code.name.lower(), message).body()}, code)

    # The port is not looked at. Any name would let a page of another site, whose name leads here,
    # pass for our own.
    names = [*address.names, *LOOPBACK, "[::1]", address.host]
    any_name = "0.0.0.0" in names or "::" in names
    return Starlette(
        routes=[
            WebSocketRoute("/v1/realtime/translations", realtime),
            *Http(streams, keys).routes(),
            Route("/metrics", figures),
            Route("/", page),
            Route("/captions/{name}", captions),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[
            Middleware(
                TrustedHostMiddleware,
                allowed_hosts=["*"] if any_name and not address.names else names,
                www_redirect=False,
            ),
            Middleware(
                CORSMiddleware,
                allow_origins=address.origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            ),
            Middleware(_SafeHeaders),
        ],
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )


def server_config(app: ASGIApp, capacity: ServingLimits) -> uvicorn.Config:
    """How uvicorn is to serve the application.

    Args:
        app: from :func:`make_app`.
        capacity: what it takes on.
    """
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=PunctualHttp,
        ws=PunctualWebSocket,
        ws_max_size=capacity.max_message_bytes,
        ws_per_message_deflate=False,  # a small frame could become a very large message
        h11_max_incomplete_event_size=32_768,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


class _SafeHeaders:
    """Adds the headers that let a browser trust nothing but this server's own files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if "etag" in headers:
                    # A file: after an upgrade old modules must not meet new ones.
                    headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self._app(scope, receive, adding if scope["type"] == "http" else send)
