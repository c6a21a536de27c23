"""What a session says: Read, Write, ToolCall, TurnEnd, Finished.

``text`` of any event is what it adds to the target, ``source`` what it adds to the source read: all
texts in a row are the translation.

Times are milliseconds since the session began and take no part in equality: the same text in any
chunks gives equal events (SPEC section 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

FinishReason: TypeAlias = Literal[
    "end_of_turn",
    "early_end_of_turn",
    "max_words",
    "max_tokens",
    "max_target_source_ratio",
    "drought",
    "empty_source",
    "stop_limit",
    "stop",
]


TurnReason: TypeAlias = Literal[
    "sentence", "max_turn_words", "blank_line", "end_turn", "source_end", "limit"
]


@dataclass(frozen=True)
class Read:
    """One source segment was read: a word, or the end of the source.

    Attributes:
        source: the word with the space before it; empty for the end of the source.
        n_tokens: tokens fed for it (the first one of a turn carries the prefix too).
        source_words_read: whole source words read so far, this one included.
        source_finished: this read said that the source, or the turn, has ended.
        text: empty: a read adds nothing to the target.
    """

    source: str
    n_tokens: int
    source_words_read: int
    source_finished: bool = False
    time_ms: float = field(default=0.0, compare=False)
    text: ClassVar[str] = ""


@dataclass(frozen=True)
class Write:
    """One target token was written; it will never be taken back.

    Attributes:
        token: its id.
        text: the text that became stable with it: whole characters, possibly none.
        word_complete: it is the last token of its target word.
        source_words_read: source words read when it was predicted, the delay of its word.
        target_words_generated: target words complete so far, this one included if it is.
        logprob: the natural logarithm of its probability in the model's own distribution, before
            processors and samplers (with beams, after the processors, since a search goes by those
            values); None unless ``logprobs`` asked for it. It takes no part in equality, for its
            last digits depend on what else a pass computed.
        source: empty: a write reads nothing.
    """

    token: int
    text: str
    word_complete: bool
    source_words_read: int
    target_words_generated: int
    time_ms: float = field(default=0.0, compare=False)
    logprob: float | None = field(default=None, compare=False)
    source: ClassVar[str] = ""


@dataclass(frozen=True)
class ToolCall:
    """The target has called a tool; :meth:`SimulSession.tool_result` answers it.

    Attributes:
        call: its number in the stream, from 0.
        name: of the function; empty if there was an error.
        arguments: by name; empty if there was an error.
        written: the call as the model wrote it.
        error: why mlx-lm's parser found no call in that; None if it found one.
        source_words_read: source words read when the call was complete.
        text: empty: no part of a call belongs to the target's text.
        source: empty: a call reads nothing.
    """

    call: int
    name: str
    arguments: Mapping[str, Any]
    written: str
    error: str | None = None
    source_words_read: int = 0
    time_ms: float = field(default=0.0, compare=False)
    text: ClassVar[str] = ""
    source: ClassVar[str] = ""


@dataclass(frozen=True)
class Tail:
    """The part of a recogniser's hypothesis that may still change (SPEC section 9).

    It is shown beside the source, and no session reads it or emits it.

    Attributes:
        unstable: its text; empty if all of the hypothesis is stable.
        text: empty: it adds nothing to the target.
        source: empty: nor to the source.
    """

    unstable: str
    text: ClassVar[str] = ""
    source: ClassVar[str] = ""


@dataclass(frozen=True)
class TurnEnd:
    """A turn has ended: one source sentence and its translation (SPEC section 8).

    Words are counted from the beginning of the stream. A span is ``(first, one past the last)``.

    Attributes:
        turn: its number, from 0.
        source_text: its source, white space normalised.
        target_text: its translation.
        source_span_words: which words of the source it holds.
        target_span_words: which words of the target.
        token_ids: the generated ids, the header not included.
        delays: for each target word, the source words read when it was emitted.
        ended_by: what ended its source: the ``sentence``, ``max_turn_words``, a ``blank_line``, the
            caller's ``end_turn``, the end of the source, or a ``limit`` on its target, so that the
            next turn goes on in the middle of this one's sentence.
        reason: why its target ended, as in :class:`Finished`.
        began_ms: when its first source word was read.
        word_times_ms: for each target word, when it was complete.
        time_ms: when it ended.
        stop: the stop that was found, as in :class:`Finished`.
    """

    turn: int
    source_text: str
    target_text: str
    source_span_words: tuple[int, int]
    target_span_words: tuple[int, int]
    token_ids: tuple[int, ...]
    delays: tuple[int, ...]
    ended_by: TurnReason
    reason: FinishReason
    began_ms: float = field(default=0.0, compare=False)
    word_times_ms: tuple[float, ...] = field(default=(), compare=False)
    time_ms: float = field(default=0.0, compare=False)
    stop: str | tuple[int, ...] | None = None
    text: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @property
    def is_complete(self) -> bool:
        """Whether the translation of the whole turn ended by itself, or at a stop."""
        is_stopped = self.reason == "stop" and self.ended_by != "limit"
        return is_stopped or self.reason in ("end_of_turn", "empty_source")


@dataclass(frozen=True)
class Finished:
    """The stream has ended; the last event of every session.

    A stream with turns keeps nothing that grows with it: there the ids, texts, delays and times are
    in each :class:`TurnEnd`, and only the counts are here.

    Attributes:
        reason: ``end_of_turn`` (the model was done), ``early_end_of_turn`` (it was done before the
            source, with ``early_eos="stop"``), a limit (``max_words``, ``max_tokens``,
            ``max_target_source_ratio``), ``drought`` (it was done, and left much of the source
            untranslated: :mod:`mlx_simul.loop.drought`), ``empty_source``, ``stop_limit``
            (reference mode: over 100 stops more than segments read), or ``stop`` (one that was
            asked for by ``stop`` or ``stop_after``). With turns, that of the first turn that is not
            complete, or ``end_of_turn``.
        token_ids: the generated ids, the header not included.
        target_text: the whole target.
        delays: for each target word, the source words read when it was emitted.
        source_words: source words read in all.
        target_words: target words written in all.
        turns: how many turns there were; 0 in a stream without turns.
        word_times_ms: for each target word, when it was complete.
        total_ms: when the stream ended.
        n_passes: passes asked of the model, reads and writes.
        source_finished: the source had ended, and all of it was read.
        stop: the stop that was found: a text, token ids, or ``sentence``, ``code_block`` or
            ``json``; None for another reason.
    """

    reason: FinishReason
    token_ids: tuple[int, ...]
    target_text: str
    delays: tuple[int, ...]
    source_words: int
    target_words: int = 0
    turns: int = 0
    word_times_ms: tuple[float, ...] = field(default=(), compare=False)
    total_ms: float = field(default=0.0, compare=False)
    n_passes: int = field(default=0, compare=False)
    source_finished: bool = True
    stop: str | tuple[int, ...] | None = None
    text: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @property
    def is_complete(self) -> bool:
        """Whether the translation of the whole source ended by itself, or at a stop."""
        is_stopped = self.reason == "stop" and self.source_finished
        return is_stopped or self.reason in ("end_of_turn", "empty_source")


Event: TypeAlias = Read | Write | ToolCall | TurnEnd | Finished

_TYPES = {
    Read: "read",
    Write: "write",
    ToolCall: "tool_call",
    Tail: "tail",
    TurnEnd: "turn_end",
    Finished: "finished",
}


def as_plain(event: Event | Tail) -> dict[str, Any]:
    """An event as plain values; a turn and the last event say whether they are complete."""
    values = {"type": _TYPES[type(event)], **asdict(event)}
    if isinstance(event, TurnEnd | Finished):
        values["complete"] = event.is_complete
    if isinstance(event, Write) and event.logprob is None:
        del values["logprob"]  # it was not asked for
    return values
