"""The forms in which the turns of a stream are written down: subtitles, lines of text, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from mlx_simul.events import TurnEnd, as_plain
from mlx_simul.stream.subtitles import VTT_HEADER, CueMaker, Side, srt, vtt

Form: TypeAlias = Callable[[TurnEnd], str]
"""What a turn adds to a transcript; turns are given in order."""


def transcript_form(kind: str, side: Side = "target") -> tuple[str, Form]:
    """How a transcript begins, and what each turn adds to it.

    Args:
        kind: one of ``TRANSCRIPT_KINDS``.
        side: the text to write; JSON has both, whatever the side.

    Returns:
        The header and the form. A form counts subtitles, so each transcript needs a new one.
    """
    return _HEADERS.get(kind, ""), _FORMS[kind](side)


def _subtitles(cue_text: Callable[..., str], side: Side) -> Form:
    maker = CueMaker(side)
    return lambda end: "".join(map(cue_text, maker.cues(end)))


def _line(side: Side) -> Form:
    """A line for each turn; of both sides the source, a tab, and the target."""

    def text(end: TurnEnd) -> str:
        texts = {"source": (end.source_text,), "target": (end.target_text,)}
        shown = texts.get(side, (end.source_text, end.target_text))
        return "\t".join(" ".join(part.split()) for part in shown) + "\n"

    return text


def _json(side: Side) -> Form:
    return lambda end: json.dumps(as_plain(end), ensure_ascii=False) + "\n"


_FORMS: dict[str, Callable[[Side], Form]] = {
    "srt": lambda side: _subtitles(srt, side),
    "vtt": lambda side: _subtitles(vtt, side),
    "txt": _line,
    "jsonl": _json,
}
_HEADERS = {"vtt": VTT_HEADER}

TRANSCRIPT_KINDS = tuple(_FORMS)
