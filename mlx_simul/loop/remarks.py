"""What the user should know of how a turn or a session ended."""

from __future__ import annotations

from mlx_simul.events import Event, Finished, TurnEnd


def remark(event: Event) -> str | None:
    """A sentence on what a translation left out; ``None`` if it left out nothing."""
    if isinstance(event, TurnEnd):
        if event.is_complete:
            return None
        first, end = event.source_span_words
        n_read, n_written = end - first, len(event.delays)
        said = _said(event, n_read, n_written)
        goes_on = "; the rest of the sentence is the next turn" if event.ended_by == "limit" else ""
        return f"turn {event.turn + 1}, source words {first + 1} to {end}: {said}{goes_on}."
    if not isinstance(event, Finished):
        return None
    if event.reason == "empty_source":
        return "the source is empty: it has no visible text. There is no translation."
    if event.is_complete:
        return None
    if event.turns and event.source_finished:
        return None  # each turn has said so
    said = _said(event, event.source_words, event.target_words)
    if event.source_finished:
        return f"{said}."
    return f"{said}; the source after its first {event.source_words} words was left unread."


def _said(end: TurnEnd | Finished, n_read: int, n_written: int) -> str:
    if end.reason == "stop":
        return f"the translation ended at the stop {end.stop!r}"
    if end.reason == "drought":
        return (
            f"the translation dried up: {n_read} source words were read and {n_written} target "
            "words written, and then the model ended its turn"
        )
    if end.reason == "early_end_of_turn":
        return "the model ended its turn before the source had ended"
    return f"the output was cut off by a limit, {end.reason}"
