"""What the server says about streams and models, over WebSocket and HTTP alike."""

from __future__ import annotations

from typing import Any

from mlx_simul.serving.languages import audio_of
from mlx_simul.serving.messages import ProtocolError
from mlx_simul.serving.stream import Stream
from mlx_simul.serving.streams import Streams

_STATUS = {
    "invalid_api_key": 401,
    "forbidden_origin": 403,
    "unknown_session": 404,
    "unknown_model": 404,
    "session_closed": 409,
    "session_elsewhere": 421,  # by which a proxy knows to ask another server
    "too_late": 410,
    "message_too_large": 413,
    "server_full": 503,
    "no_recogniser": 501,
}


def status_of(error: ProtocolError) -> int:
    """The status of HTTP that stands for an error."""
    kinds = {"rate_limit_error": 429, "server_error": 500}
    return _STATUS.get(error.code) or kinds.get(error.kind, 400)


def created_message(
    stream: Stream, *, secret: str | None = None, resumed: bool = False
) -> dict[str, Any]:
    """The first message to everyone who connects.

    Args:
        stream: that is heard.
        secret: by which source is sent over HTTP, for the one who began the stream.
        resumed: the stream has been here before.
    """
    message = {
        "type": "session.created",
        "event_id": "event_0",
        "session": dict(stream.protocol.session),
        "resumed": resumed,
        "last_seq": stream.outbox.seq,
        "source_chars": stream.protocol.source_chars,
        "commits": stream.protocol.commits,
        "audio_ms": stream.protocol.audio_ms,
    }
    return message if secret is None else {**message, "secret": secret}


def model_values(streams: Streams, name: str, created: int) -> dict[str, Any]:
    """How clients see a model."""
    trained = streams.trained(name)
    source, target = trained.translates or (trained.source_language, trained.target_language)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "mlx-simul",
        "source_language": source,
        "target_language": target,
        "languages": "any" if trained.translates is None else "fixed",
        "audio": audio_of(source, target),
        "input_modalities": streams.input_modalities,
    }
