"""What a client may set, as options of a session."""

from __future__ import annotations

from typing import Any

import msgspec

from mlx_simul.serving.backlog import StreamLimits
from mlx_simul.serving.languages import language_name
from mlx_simul.serving.messages import MAX_HISTORY_PAIRS, Audio, ProtocolError, Settings


def options_of(settings: Settings, limits: StreamLimits) -> dict[str, Any]:
    """Options of a session, by their flat names, as a client says them.

    Raises:
        ProtocolError: if together they are longer than a prompt may be.
    """
    given = {
        name: value
        for name in Settings.__struct_fields__
        if (value := getattr(settings, name)) is not msgspec.UNSET
    }
    audio = given.pop("audio", Audio())
    for name in ("type", "model"):
        given.pop(name, None)
    for side, name in ((audio.input, "source_language"), (audio.output, "target_language")):
        if side is not None and side.language is not None:
            given.setdefault(name, side.language)
    for name in ("source_language", "target_language"):
        if given.get(name):
            given[name] = language_name(given[name])
    if not 0 <= given.get("history", 0) <= MAX_HISTORY_PAIRS:
        raise ProtocolError(
            "invalid_value",
            f"history must be from 0 to {MAX_HISTORY_PAIRS} pairs, got {given['history']}.",
            "session.history",
        )
    if (n_pairs := len(given.get("pairs", ()))) > MAX_HISTORY_PAIRS:
        # A template takes much longer for many short pairs than their characters tell.
        raise ProtocolError(
            "invalid_value",
            f"pairs must be at most {MAX_HISTORY_PAIRS}, got {n_pairs}.",
            "session.pairs",
        )
    texts = [given.get(name) or "" for name in ("instruction", "context", "policy")]
    texts += [given.get(f"{side}_language") or "" for side in ("source", "target")]
    texts += [text for pair in (given.get("glossary") or {}).items() for text in pair]
    texts += [text for pair in given.get("pairs", ()) for text in pair]
    n_chars = sum(map(len, texts))
    if n_chars > limits.max_prompt_chars:
        raise ProtocolError(
            "prompt_too_long",
            f"instruction, context, glossary and pairs have {n_chars} characters, more than "
            f"{limits.max_prompt_chars}; shorten them.",
            "session",
        )
    return given
