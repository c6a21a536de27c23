"""What a session says: Read, Write, Finished.

Times are milliseconds since the session began and take no part in equality: the same text in any
chunks gives equal events (SPEC section 7).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal[
    "end_of_turn",
    "early_end_of_turn",
    "max_words",
    "max_tokens",
    "max_target_source_ratio",
    "drought",
    "empty_source",
    "stop_limit",
]


@dataclass(frozen=True)
class Read:
    """One source segment was read: a word, or the end of the source.

    Attributes:
        text: the word with the space before it; empty for the end of the source.
        n_tokens: tokens fed for it (the first one carries the prefix too).
        source_words_read: whole source words read so far, this one included.
        source_finished: this read said that the source has ended.
    """

    text: str
    n_tokens: int
    source_words_read: int
    source_finished: bool = False
    time_ms: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Write:
    """One target token was written; it will never be taken back.

    Attributes:
        token: its id.
        text: the text that became stable with it: whole characters, possibly none.
        word_complete: it is the last token of its target word.
        source_words_read: source words read when it was predicted, the delay of its word.
        target_words_generated: target words complete so far, this one included if it is.
    """

    token: int
    text: str
    word_complete: bool
    source_words_read: int
    target_words_generated: int
    time_ms: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Finished:
    """The stream has ended; the last event of every session.

    Attributes:
        reason: ``end_of_turn`` (the model was done), ``early_end_of_turn`` (it was done before the
            source, with ``early_eos="stop"``), a limit (``max_words``, ``max_tokens``,
            ``max_target_source_ratio``), ``drought`` (it was done, and left much of the source
            untranslated: :mod:`mlx_simul.loop.drought`), ``empty_source``, or ``stop_limit``
            (reference mode: over 100 stops more than segments read).
        token_ids: the generated ids, the header not included.
        text: the whole target text.
        delays: for each target word, the source words read when it was emitted.
        source_words: source words read in all.
        word_times_ms: for each target word, when it was complete.
        total_ms: when the stream ended.
        n_passes: passes asked of the model, reads and writes.
        source_finished: the source had ended, and all of it was read.
    """

    reason: FinishReason
    token_ids: tuple[int, ...]
    text: str
    delays: tuple[int, ...]
    source_words: int
    word_times_ms: tuple[float, ...] = field(default=(), compare=False)
    total_ms: float = field(default=0.0, compare=False)
    n_passes: int = field(default=0, compare=False)
    source_finished: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether the model ended a translation of the whole source by itself."""
        return self.reason in ("end_of_turn", "empty_source")


Event: TypeAlias = Read | Write | Finished
