"""Turns that no model wrote."""

from mlx_simul.events import TurnEnd


def turn(target, source=(), *, times_ms=None, began_ms=0.0, first=(0, 0), delays=None):
    """A turn of some words, one of which is complete every 300 ms."""
    times_ms = times_ms or tuple(began_ms + 300.0 * (i + 1) for i in range(len(target)))
    return TurnEnd(
        turn=0,
        source_text=" ".join(source),
        target_text=" ".join(target),
        source_span_words=(first[0], first[0] + len(source)),
        target_span_words=(first[1], first[1] + len(target)),
        token_ids=(),
        delays=delays or tuple(first[0] + min(i + 1, len(source)) for i in range(len(times_ms))),
        ended_by="sentence",
        reason="end_of_turn",
        began_ms=began_ms,
        word_times_ms=times_ms,
        time_ms=max([began_ms, *times_ms]),
    )
