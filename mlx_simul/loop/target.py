"""The target of a stream: its tokens, the word under way, and the Write events of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from copy import copy
from dataclasses import replace
from itertools import accumulate, islice
from typing import Protocol, runtime_checkable

from mlx_simul.events import ToolCall, Write
from mlx_simul.loop.progress import StreamingState
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.characters import is_visible
from mlx_simul.text.speech import speech
from mlx_simul.text.stops import Cut, Stop, StopWatch


class Detokenizer(Protocol):
    """Turns target tokens into stable text, as :mod:`mlx_simul.text.detokenizer` does."""

    def add(self, token: int) -> str:
        """Text that became stable with this token."""
        ...

    def flush(self) -> str:
        """All text still held back."""
        ...

    @property
    def is_holding(self) -> bool:
        """Whether text is held back."""
        ...


@runtime_checkable
class CallingDetokenizer(Detokenizer, Protocol):
    """One that keeps tool calls out of the text, as :mod:`mlx_simul.text.tools` does."""

    @property
    def is_in_call(self) -> bool:
        """Whether a call has begun and not ended."""
        ...

    def take_calls(self) -> list[ToolCall]:
        """The calls that have ended since the last time."""
        ...


class Target:
    """What one stream has written.

    The event of a token is held back until the next prediction tells whether the token ends its
    word, and for as long as the token or its text may belong to a stop. Without stops at most one
    event is held, that of the newest token, and every other one is out.

    Args:
        boundary: where a target word ends.
        detokenizer: fresh.
        state: how far the stream has got; words written are counted there.
        clock_ms: milliseconds since the stream began.
        watch: looks for stops; None if there are none.

    Attributes:
        boundary: as given.
        state: as given.
        token_ids: all tokens written. Passes refer to this very list, so it is only appended to,
            until the target is finished and no pass follows.
        word: those of them that no complete word holds yet, the newest; white space that precedes a
            word is among them.
        word_times_ms: when each word was complete.
        stop: the stop at which the target ends, once it is finished; None if it was not cut.
    """

    def __init__(
        self,
        boundary: WordBoundaryStoppingCriteria,
        detokenizer: Detokenizer,
        state: StreamingState,
        clock_ms: Callable[[], float],
        watch: StopWatch | None = None,
    ) -> None:
        self.token_ids: list[int] = []
        self.word: list[int] = []
        self.word_times_ms: list[float] = []
        self.boundary = boundary
        self.stop: Stop | None = None
        self._detokenizer = detokenizer
        self._calling = detokenizer if isinstance(detokenizer, CallingDetokenizer) else None
        # What the word under way says outside of calls.
        self._word_text = ""
        # To tell what a part of the tokens spells by itself.
        self._fresh = copy(detokenizer)
        self.state = state
        self._clock_ms = clock_ms
        self._watch = watch
        self._held: deque[Write] = deque()
        # For the events that are out: their texts in order, and how long these are together; how
        # many words they complete, and how many of their tokens these hold.
        self._texts: list[str] = []
        self._n_chars = self._n_words = self._n_in_words = 0

    @property
    def text(self) -> str:
        """The text of all events that are out."""
        return "".join(self._texts)

    @property
    def has_open_word(self) -> bool:
        """Whether the word under way shows anything yet."""
        return self.boundary.has_content(self.word)

    @property
    def n_words_out(self) -> int:
        """How many words the events that are out complete."""
        return self._n_words

    @property
    def may_stop(self) -> bool:
        """Whether a stop may take back what is written."""
        return self._watch is not None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop was found: nothing more is to be written."""
        return self._watch is not None and self._watch.cut is not None

    def ends_word(self, *tokens: int) -> tuple[bool, bool]:
        """Whether the word under way would end with the last of these tokens.

        Returns:
            ``(ends, is_look_ahead)``: it would; the token only shows that and does not belong to
            it.
        """
        if self.is_in_call:
            return False, False
        return self.boundary((*self.word, *tokens))

    # Calls of tools

    @property
    def is_in_call(self) -> bool:
        """Whether a call has begun and not ended; it is not cut into words."""
        return self._calling is not None and self._calling.is_in_call

    def take_calls(self) -> list[ToolCall]:
        """The calls that have ended since the last time."""
        return [] if self._calling is None else self._calling.take_calls()

    def end_call(self) -> None:
        """Let the call under way end, since the turn does."""
        self._flush()

    def leave_call(self) -> Iterator[Write]:
        """Give all events up to the end of a call, whose tokens belong to no word.

        What was written before it is a word by itself, and no stop reaches over it.
        """
        if is_visible(self._word_text):
            self._count(self._word_text)
        self.word.clear()
        self._word_text = ""
        if self._watch is not None:
            self._watch = self._watch.anew()
        yield from self._release(len(self._held))

    @property
    def may_call(self) -> bool:
        """Whether the target may hold tool calls."""
        return self._calling is not None

    # Words

    def write(self, token: int, logprob: float | None = None) -> Iterator[Write]:
        """Add a token to the word under way; give the events before it that are decided.

        Args:
            token: its id.
            logprob: of the token, if that was asked for.
        """
        self.word.append(token)
        self.token_ids.append(token)
        text = self._detokenizer.add(token)
        self._word_text += text
        self._held.append(
            Write(
                token=token,
                text=text,
                word_complete=False,
                source_words_read=self.state.delay_words,
                target_words_generated=self.state.target_words_generated,
                logprob=logprob,
            )
        )
        if self._watch is not None:
            self._watch.add(token, text)
        yield from self._release(self._n_decided())

    def complete_word(self, lagging: int | None = None) -> Generator[Write, object, str]:
        """Count the word under way as complete, and give its last event.

        Args:
            lagging: the delay to note; the source words read by default.

        Returns:
            The word's text.
        """
        text = self.boundary.text(self.word)
        self._count(text, lagging)
        yield from self.release_whole()
        return text

    def _count(self, text: str, lagging: int | None = None) -> None:
        self.state.mark_target_written(lagging, speech(text))
        self.word_times_ms.append(self._clock_ms())
        self.word.clear()
        self._word_text = ""
        if self._held:
            self._complete_newest()

    def _complete_newest(self) -> None:
        n_words = self.state.target_words_generated
        newest = self._held.pop()
        self._held.append(replace(newest, word_complete=True, target_words_generated=n_words))

    def release_whole(self) -> Iterator[Write]:
        """Give the events held back, unless the text ends within a character or may be a stop.

        The next token may complete the character, and then the text belongs to that one; so deltas
        concatenate to exactly what the tokenizer decodes.
        """
        if not self._detokenizer.is_holding:
            yield from self._release(self._n_decided(with_newest=True))

    def finish(self) -> Iterator[Write]:
        """Give the events held back with all text that is left, up to the stop if there is one."""
        if not self.is_stopped:
            self._flush()
        if self._watch is not None and self._watch.cut is not None:
            self._end_at(self._watch.cut)
        yield from self._release(len(self._held))

    # What is held back

    def _flush(self) -> None:
        if not self._held:
            return
        rest = self._detokenizer.flush()
        self._held[-1] = replace(self._held[-1], text=self._held[-1].text + rest)
        if self._watch is not None:
            self._watch.add(None, rest)

    def _n_decided(self, *, with_newest: bool = False) -> int:
        """How many of the events that are held are as they will stay, the oldest.

        Whether an event ends its word shows with the next one that stays.

        Args:
            with_newest: whether the newest one ends its word, or nothing will.
        """
        n_settled = self._n_settled()
        if not n_settled or (with_newest and n_settled == len(self._held)):
            return n_settled
        is_whole = self._held[n_settled - 1].word_complete and not self._detokenizer.is_holding
        return n_settled if is_whole else n_settled - 1

    def _n_settled(self) -> int:
        """How many of the events that are held no stop can take back, the oldest."""
        if self._watch is None:
            return len(self._held)
        if self.is_stopped:
            return 0
        n_tokens = self._watch.settled_tokens - (len(self.token_ids) - len(self._held))
        ends = accumulate((len(held.text) for held in self._held), initial=self._n_chars)
        n_chars = sum(end <= self._watch.settled_chars for end in islice(ends, 1, None))
        return min(n_tokens, n_chars)

    def _release(self, n_events: int) -> Iterator[Write]:
        for _ in range(n_events):
            held = self._held.popleft()
            self._texts.append(held.text)
            self._n_chars += len(held.text)
            if held.word_complete:
                self._n_words = held.target_words_generated
                self._n_in_words = len(self.token_ids) - len(self._held)
            yield replace(held, time_ms=self._clock_ms())

    # Where it is cut

    def _end_at(self, cut: Cut) -> None:
        """Drop what stands after a stop, as if it had never been written."""
        self.stop = cut.stop
        n_out = len(self.token_ids) - len(self._held)
        n_tokens = cut.n_tokens
        if n_tokens is None:
            n_tokens = self._fewest_tokens(cut.n_chars or 0, n_out)
        self.token_ids = self.token_ids[:n_tokens]
        self._held = deque(islice(self._held, n_tokens - n_out))
        self.word.clear()
        text = self._text_of(n_tokens)[: cut.n_chars]
        if self._held:
            # Its own text may have come with a token that is gone.
            n_chars = self._n_chars + sum(len(held.text) for held in self._held)
            last = self._held.pop()
            self._held.append(replace(last, text=text[n_chars - len(last.text) :]))
        self._count_words(n_out, text)

    def _fewest_tokens(self, n_chars: int, n_out: int) -> int:
        """How many tokens it takes to spell and to bring this much text; those that are out
        stay."""
        sizes = range(n_out + (n_chars > self._n_chars), len(self.token_ids))
        text = (self.text + "".join(held.text for held in self._held))[:n_chars]
        return next((n for n in sizes if self._text_of(n).startswith(text)), len(self.token_ids))

    def _count_words(self, n_out: int, text: str) -> None:
        """Count the words of what is left; the last may be the beginning of one."""
        n_words, n_in_words = self._n_words, self._n_in_words
        for i, held in enumerate(self._held, n_out + 1):
            if held.word_complete:
                n_words, n_in_words = held.target_words_generated, i
        lagging, times_ms = self.state.take_back(n_words), self.word_times_ms[n_words:]
        del self.word_times_ms[n_words:]
        rest = text[len(self._text_of(n_in_words)) :]
        if self._held and is_visible(rest):
            self.state.mark_target_written(next(iter(lagging), None), speech(rest))
            self.word_times_ms.append(next(iter(times_ms), self._clock_ms()))
            self._complete_newest()

    def _text_of(self, n_tokens: int) -> str:
        """What the first tokens spell by themselves."""
        detokenizer = copy(self._fresh)
        return "".join([*map(detokenizer.add, self.token_ids[:n_tokens]), detokenizer.flush()])
