"""The options of a server, each defined once; the command line, TOML and the environment derive."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count

PREFIX = re.compile("[a-z0-9]{1,16}")
"""What may stand before the random part of a session's id."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class AddressOptions:
    """Address: where the server listens, and whom it answers.

    Attributes:
        host: the address to listen on. Any but a loopback address needs keys.
        port: the port to listen on; 0 takes a free one.
        names: host names by which clients may call this server, beside its address; behind a proxy
            that passes the Host header on, the proxy's.
        origins: other web sites whose pages may use this server, such as https://example.org.
        keys: a file of keys, a name and a key on each line.
        id_prefix: lower-case letters and digits that begin the ids of this server's sessions, by
            which a proxy before several servers knows where a session belongs.
    """

    host: str = field(default="127.0.0.1", metadata={"metavar": "ADDRESS"})
    port: int = field(default=8765, metadata={"metavar": "PORT"})
    names: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME"})
    origins: tuple[str, ...] = field(default=(), metadata={"metavar": "ORIGIN"})
    keys: str | None = field(default=None, metadata={"metavar": "FILE"})
    id_prefix: str | None = field(default=None, metadata={"metavar": "PREFIX"})

    def __post_init__(self) -> None:
        require_count("port", self.port, least=0)
        if self.port > 65535:
            raise InvalidOptionError(f"port must be at most 65535, got {self.port}.")
        if self.id_prefix is not None and not PREFIX.fullmatch(self.id_prefix):
            raise InvalidOptionError(
                "id_prefix must be 1 to 16 of the characters a to z and 0 to 9, got "
                f"{self.id_prefix!r}."
            )
        if self.host not in LOOPBACK and self.keys is None:
            raise InvalidOptionError(
                f"host={self.host!r} can be reached from other machines, so it needs --keys FILE: "
                "a name and a key on each line. Leave the host out to serve this machine only."
            )


@dataclass(frozen=True)
class ServingLimits:
    """Capacity: what the server takes on, and for how long.

    Attributes:
        max_sessions: live sessions in all.
        max_sessions_per_key: live sessions of each key.
        memory_mb: what MLX's arrays may take; a session that might need more is refused. By default
            half of the machine's memory.
        max_message_bytes: the largest message or request body; by default that is four seconds of
            audio.
        max_waiting_chars: characters of source of a session that have arrived and not been read.
        max_waiting_audio_s: audio of a session that has arrived and not been recognised.
        max_words_per_s: source words a second of a session, over ten seconds; "none" sets no
            limit.
        max_prompt_chars: instruction, context, glossary and pairs of a session together.
        max_backlog_bytes: output that a reader has not taken; one that is slower is disconnected,
            and may resume.
        keep_bytes: output of a session that is kept for those who resume or come late.
        max_listeners: listeners of one session.
        resume_s: how long a session waits for a speaker whose connection was lost, and is kept
            after it has ended.
        idle_s: a session without text or audio for this long is closed.
        max_session_s: a session as old as this is closed.
    """

    max_sessions: int = field(default=256, metadata={"metavar": "N"})
    max_sessions_per_key: int = field(default=64, metadata={"metavar": "N"})
    memory_mb: int | None = field(default=None, metadata={"metavar": "MB"})
    max_message_bytes: int = field(default=262_144, metadata={"metavar": "N"})
    max_waiting_chars: int = field(default=20_000, metadata={"metavar": "N"})
    max_waiting_audio_s: float = field(default=30.0, metadata={"metavar": "S"})
    max_words_per_s: float | None = field(default=None, metadata={"metavar": "N"})
    max_prompt_chars: int = field(default=8000, metadata={"metavar": "N"})
    max_backlog_bytes: int = field(default=1_000_000, metadata={"metavar": "N"})
    keep_bytes: int = field(default=2_000_000, metadata={"metavar": "N"})
    max_listeners: int = field(default=1000, metadata={"metavar": "N"})
    resume_s: float = field(default=60.0, metadata={"metavar": "S"})
    idle_s: float = field(default=1800.0, metadata={"metavar": "S"})
    max_session_s: float = field(default=43_200.0, metadata={"metavar": "S"})

    def __post_init__(self) -> None:
        for name in (
            "max_sessions", "max_sessions_per_key", "max_message_bytes", "max_waiting_chars",
            "max_prompt_chars", "max_backlog_bytes", "keep_bytes", "max_listeners",
        ):  # fmt: skip
            require_count(name, getattr(self, name))
        if self.memory_mb is not None:
            require_count("memory_mb", self.memory_mb)
        for name in (
            "resume_s",
            "idle_s",
            "max_session_s",
            "max_words_per_s",
            "max_waiting_audio_s",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidOptionError(f"{name} must be above 0, got {value!r}.")
        if self.keep_bytes < self.max_backlog_bytes:
            raise InvalidOptionError(
                f"keep_bytes={self.keep_bytes} must be at least "
                f"max_backlog_bytes={self.max_backlog_bytes}: a reader may be that far behind."
            )


@dataclass(frozen=True)
class SpeechOptions:
    """Speech: what the server hears.

    Attributes:
        recogniser: what recognises speech: a name, and a model after a colon, as in
            faster-whisper:tiny.en. Without one the server takes text only.
    """

    recogniser: str | None = field(default=None, metadata={"metavar": "NAME[:MODEL]"})


@dataclass(frozen=True)
class RecordOptions:
    """Records: what is written to the disk.

    Attributes:
        journal: a folder that records every session, its texts included; a client can resume a
            session that a crash ended.
        log_texts: write the texts of sessions into the log, too.
    """

    journal: str | None = field(default=None, metadata={"metavar": "FOLDER"})
    log_texts: bool = False


@dataclass(frozen=True)
class ServingOptions:
    """All options of a server, in groups.

    Attributes:
        address: where it listens.
        capacity: what it takes on.
        speech: what it hears.
        records: what it writes down.
    """

    address: AddressOptions = AddressOptions()
    capacity: ServingLimits = ServingLimits()
    speech: SpeechOptions = SpeechOptions()
    records: RecordOptions = RecordOptions()


def memory_limit_bytes(capacity: ServingLimits) -> int:
    """What MLX's arrays may take: as the options say, or half of the machine's memory."""
    if capacity.memory_mb is not None:
        return capacity.memory_mb * 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
