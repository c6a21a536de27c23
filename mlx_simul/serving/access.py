"""Who a request comes from, and whether its page may make it."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from mlx_simul.serving.keys import Keys
from mlx_simul.serving.messages import ProtocolError

KEY_PROTOCOL = "openai-insecure-api-key."
"""A browser cannot set headers for a WebSocket, so its key comes as a subprotocol."""


def key_of(connection: HTTPConnection) -> str | None:
    """The key, secret or stream's secret that a request bears."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    for name in subprotocols(connection.headers):
        if name.startswith(KEY_PROTOCOL):
            return name.removeprefix(KEY_PROTOCOL)
    return None


def subprotocols(headers: Headers) -> list[str]:
    """Those that a WebSocket's client offers."""
    return [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]


def require_owner(connection: HTTPConnection, keys: Keys) -> str:
    """Whose key a request bears.

    Raises:
        ProtocolError: if it is nobody's.
    """
    owner = keys.owner(key_of(connection))
    if owner is None:
        raise ProtocolError(
            "invalid_api_key",
            "this server asks for a key: send the header Authorization: Bearer KEY, or the "
            f"subprotocols realtime and {KEY_PROTOCOL}KEY.",
        )
    return owner


def require_origin(connection: HTTPConnection, allowed: Collection[str]) -> None:
    """Check that a request comes from this server's own page, an allowed site, or no page.

    Browsers let any page open a WebSocket to any server, and say which page it was.

    Args:
        connection: the request.
        allowed: other sites whose pages may make requests.

    Raises:
        ProtocolError: if it comes from another page.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:
        return
    if origin.partition("://")[2] != connection.headers.get("host"):
        raise ProtocolError(
            "forbidden_origin",
            f"pages of {origin!r} may not use this server; its owner can allow them by --origins.",
        )
