"""What the log says of a stream: how it began, and how it or its turns ended."""

from __future__ import annotations

import logging
from typing import Any

from mlx_simul.events import Finished, TurnEnd
from mlx_simul.serving.commands import Answer, Failed, Opened
from mlx_simul.serving.logs import note
from mlx_simul.serving.stream import Stream
from mlx_simul.serving.told import usage_of


def note_opened(log: logging.Logger, stream: Stream, opened: Opened) -> None:
    """Log that a stream has begun, or goes on."""
    note(
        log,
        "session opened",
        **_who(stream),
        model=stream.model,
        policy=opened.session.get("policy"),
        resumed=stream.outbox.seq > 0,
    )


def note_end(log: logging.Logger, stream: Stream, answer: Answer, *, has_texts: bool) -> None:
    """Log how a turn or a stream has ended, if that is what an answer says.

    Args:
        log: of the server.
        stream: of the answer.
        answer: any.
        has_texts: whether the log has what was said; turns are in it only then.
    """
    who = _who(stream)
    match answer:
        case TurnEnd() if has_texts:
            texts = {"source_text": answer.source_text, "target_text": answer.target_text}
            note(log, "turn", texts=texts, **who, turn=answer.turn)
        case Finished():
            note(log, "session closed", **who, reason=answer.reason, usage=usage_of(answer))
        case Failed():
            texts = {"message": answer.message}
            level = logging.INFO if answer.code == "dropped" else logging.WARNING
            note(log, "session closed", level=level, texts=texts, **who, reason=answer.code)


def _who(stream: Stream) -> dict[str, Any]:
    return {"session": stream.name, "owner": stream.owner}
