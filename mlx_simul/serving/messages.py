"""The messages of clients, checked, and what is wrong with those that fail (PROTOCOL)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mlx_simul.serving.commands import Refused

MAX_HISTORY_PAIRS = 16


class ProtocolError(Exception):
    """A message that is refused; the stream goes on.

    Args:
        code: for programs.
        message: what was refused, and what to do.
        param: the part of the message that is wrong.
        kind: ``invalid_request_error``, ``rate_limit_error`` or ``server_error``.
        event_id: the client's name for its message.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        event_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.kind, self.event_id = code, param, kind, event_id

    def body(self) -> dict[str, Any]:
        """As the ``error`` of a message or of an HTTP answer."""
        return {
            "type": self.kind,
            "code": self.code,
            "message": str(self),
            "param": self.param,
            "event_id": self.event_id,
        }


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


class Language(msgspec.Struct):
    """A side of the audio that OpenAI's clients describe; of it only the language counts here."""

    language: str | None = None


class Audio(msgspec.Struct):
    """Both sides."""

    input: Language | None = None
    output: Language | None = None


class Settings(msgspec.Struct, omit_defaults=True):
    """What a client may say of a session; what it leaves out stays as it is."""

    type: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    audio: Audio | msgspec.UnsetType = msgspec.UNSET
    source_language: str | msgspec.UnsetType | None = msgspec.UNSET
    target_language: str | msgspec.UnsetType | None = msgspec.UNSET
    instruction: str | msgspec.UnsetType | None = msgspec.UNSET
    context: str | msgspec.UnsetType | None = msgspec.UNSET
    glossary: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    policy: str | msgspec.UnsetType = msgspec.UNSET
    history: int | msgspec.UnsetType = msgspec.UNSET
    pairs: list[tuple[str, str]] | msgspec.UnsetType = msgspec.UNSET


class _Message(msgspec.Struct, tag_field="type"):
    event_id: str | None = None


class Update(_Message, tag="session.update"):
    """Change options from the next turn on."""

    session: Settings = msgspec.field(default_factory=Settings)


class Append(_Message, tag="session.input_text_buffer.append", kw_only=True):
    """A piece of source."""

    text: str


class Commit(_Message, tag="session.input_text_buffer.commit"):
    """A turn ends here."""


class TailOf(_Message, tag="session.input_text_buffer.tail", kw_only=True):
    """What a recogniser may still change."""

    text: str


class AppendAudio(_Message, tag="session.input_audio_buffer.append", kw_only=True):
    """A piece of speech, in base64."""

    audio: bytes


class CommitAudio(_Message, tag="session.input_audio_buffer.commit"):
    """The speech so far has ended."""


class CloseSession(_Message, tag="session.close"):
    """The source has ended."""


Message = Update | Append | Commit | TailOf | AppendAudio | CommitAudio | CloseSession
_decoder = msgspec.json.Decoder(Message)
_settings_decoder = msgspec.json.Decoder(Settings)
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")


def decoded(data: str | bytes) -> Message:
    """A client's message.

    Raises:
        ProtocolError: if it is not JSON, of an unknown type, or a part is missing or wrong.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _explained(error, data) from error


def settings_of(data: str | bytes) -> Settings:
    """What a body of HTTP says of a session.

    Raises:
        ProtocolError: as :func:`decoded`.
    """
    try:
        return _settings_decoder.decode(data or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _explained(error, data) from error


def _explained(error: Exception, data: str | bytes) -> ProtocolError:
    """Say which part of a message is wrong, in the client's own words for it."""
    if not isinstance(error, msgspec.ValidationError):
        return ProtocolError("invalid_json", f"the message is not JSON: {error}.")
    said = str(error)
    place = _PLACE.search(said)
    path = [place[1]] if place and place[1] else []
    if missing := _MISSING.search(said):
        path.append(missing[1])
    param = ".".join(path) or None
    event_id = _event_id(data)
    if param == "type":
        known = ", ".join(kind.__struct_config__.tag for kind in Message.__args__)  # pyright: ignore
        message = f"unknown or missing type; known are {known}."
        return ProtocolError("unknown_type", message, param, event_id=event_id)
    message = f"{param or 'the message'}: {_PLACE.sub('', said)}."
    code = "missing_field" if missing else "invalid_value"
    return ProtocolError(code, message, param, event_id=event_id)


def _event_id(data: str | bytes) -> str | None:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    name = found.get("event_id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None
