"""What the user should know of how a session ended."""

from __future__ import annotations

from mlx_simul.events import Finished


def remark(finished: Finished) -> str | None:
    """A sentence on what a session left out; ``None`` if it left out nothing."""
    n_read, n_written = finished.source_words, len(finished.delays)
    match finished.reason:
        case "end_of_turn":
            return None
        case "empty_source":
            return "the source is empty: nothing in it is visible text. There is no translation."
        case "drought":
            return (
                f"the translation dried up: {n_read} source words were read and {n_written} target "
                "words written, and then the model ended its turn. Give it a sentence at a time."
            )
        case "early_end_of_turn":
            said = "the model ended its turn before the source had ended"
        case _:
            said = f"the translation was cut off by a limit, {finished.reason}"
    if finished.source_finished:
        return f"{said}."
    return f"{said}; the source after its first {n_read} words was left unread."
