"""The read/write loop: segments and predictions in, passes and events out. It knows no arrays.

The loop is a generator. It yields events for the user, and requests for whoever drives it:
:class:`SourcePass` and :class:`TargetPass`, to be run by an engine, and ``NEED_SOURCE`` when it can
go no further before more source arrives. A target pass is answered with the token it predicts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Event, Finished, FinishReason, Read, Write
from mlx_simul.policies import Action, Policy
from mlx_simul.state import StreamingState
from mlx_simul.words import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)


@dataclass(frozen=True)
class SourcePass:
    """Feed these tokens to the source."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TargetPass:
    """Forget the newest ``n_rewind`` target tokens, feed these, and predict the next one.

    Attributes:
        token_ids: what to feed.
        n_rewind: target tokens to roll back first.
        written: the target ids so far, header excluded, for logits processors.
    """

    token_ids: tuple[int, ...]
    n_rewind: int
    written: Sequence[int]


NEED_SOURCE: Final = "need source"

Step: TypeAlias = Event | SourcePass | TargetPass | Literal["need source"]
Steps: TypeAlias = Generator[Step, int | None, None]
# What a part of the loop returns: why the stream ends here, or None to go on.
WordSteps: TypeAlias = Generator[Step, int | None, FinishReason | None]


class Detokenizer(Protocol):
    """Turns target tokens into stable text, as :mod:`mlx_simul.detokenizer` does."""

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


@dataclass(frozen=True)
class Limits:
    """Where a session stops by itself.

    Attributes:
        max_words: target words.
        max_tokens: target tokens.
        max_target_source_ratio: target words per source word read; a session that has reached it
            reads on, and ends when there is nothing left to read.

    Raises:
        InvalidOptionError: if one is not positive.
    """

    max_words: int | None = None
    max_tokens: int = 1024
    max_target_source_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name != "max_tokens":
                continue
            kind = float | int if name == "max_target_source_ratio" else int
            if not isinstance(value, kind) or not 0 < value < math.inf:
                raise InvalidOptionError(f"{name} must be a positive number, got {value!r}.")


class SimulLoop:
    """One session's loop under the semantics of SPEC sections 2 and 3.

    Args:
        policy: when to read and when to write.
        header: the target's header, at least one token.
        boundary: where a target word ends.
        end_of_turn_ids: tokens that end the turn.
        detokenizer: fresh, for this session's target.
        limits: where to stop.
        stop_early: end at an end-of-turn though source is left; otherwise read on.
        clock_ms: milliseconds since the session began.
    """

    def __init__(
        self,
        policy: Policy,
        header: Sequence[int],
        boundary: WordBoundaryStoppingCriteria,
        end_of_turn_ids: Collection[int],
        detokenizer: Detokenizer,
        limits: Limits,
        *,
        stop_early: bool,
        clock_ms: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.state = StreamingState([], None, limits.max_words, source_complete=False)
        self._boundary = boundary
        self._is_end_of_turn = EOSStoppingCriteria(end_of_turn_ids)
        self._is_too_long = MaxLengthStoppingCriteria(limits.max_tokens)
        self._detokenizer = detokenizer
        self._max_ratio = limits.max_target_source_ratio
        self._stop_early = stop_early
        self._clock_ms = clock_ms

        self._unread: deque[int] = deque()
        self._segment_texts: deque[str] = deque()

        self._written: list[int] = []
        self._texts: list[str] = []
        self._word: list[int] = []
        self._held: Write | None = None
        self._word_times_ms: list[float] = []

        self._unfed = tuple(header)
        self._last_fed = self._unfed[-1:]
        self._prediction: int | None = None
        self._read_on = False
        self._n_passes = 0

    # Source arrives

    def add_segment(self, token_ids: Sequence[int], text: str = "") -> None:
        """Append a source segment: first the prefix, then words."""
        if self.state.source_seg_len:
            self._segment_texts.append(text)
        self.state.add_source_segment(len(token_ids))
        self._unread.extend(token_ids)

    def close_source(self, suffix_ids: Sequence[int]) -> None:
        """Append the suffix: no more source will come."""
        self.add_segment(suffix_ids)
        self.state.close_source()

    # The loop

    def steps(self) -> Steps:
        """Run to the end, yielding events and requests."""
        while len(self.state.source_seg_len) < 2:
            yield NEED_SOURCE
        if self.state.source_complete and len(self.state.source_seg_len) == 2:
            yield self._finished("empty_source")
            return
        reason: FinishReason | None = None
        while reason is None:
            yield from self._read()
            reason = yield from self._write_word()
        if self._held is not None:
            yield self._release(last=True)
        yield self._finished(reason)

    def _should_read(self) -> bool:
        if self.state.source_exhausted():
            return False
        if self._read_on or not self._ratio_allows_a_word():
            return True
        decision = self.policy.decide(self.state)
        if not isinstance(decision, Action):
            raise InvalidOptionError(
                f"{self.policy!r} decided {decision!r}; a policy answers Action.READ or WRITE."
            )
        return decision is Action.READ

    def _ratio_allows_a_word(self) -> bool:
        if self._max_ratio is None:
            return True
        return self.state.target_words_generated + 1 <= self._max_ratio * self.state.delay_words

    def _read(self) -> Steps:
        """Read as far as the policy says; segments at hand share one pass."""
        while self._should_read():
            token_ids: list[int] = []
            events: list[Read] = []
            while self._should_read() and self.state.should_read_next_source():
                n_tokens = self.state.get_source_tokens_to_read()
                token_ids.extend(self._unread.popleft() for _ in range(n_tokens))
                events.append(self._mark_read(n_tokens))
            if not events:
                yield NEED_SOURCE
                continue
            self.state.switch_to_reading()
            yield SourcePass(tuple(token_ids))
            self._n_passes += 1
            # What was predicted was predicted from less source than is read now.
            self._prediction = None
            for event in events:
                yield replace(event, time_ms=self._clock_ms())

    def _mark_read(self, n_tokens: int) -> Read:
        self.state.mark_source_read()
        self._read_on = False
        return Read(
            text=self._segment_texts.popleft(),
            n_tokens=n_tokens,
            source_words_read=self.state.delay_words,
            source_finished=self.state.source_exhausted(),
        )

    def _write_word(self) -> WordSteps:
        if not self._ratio_allows_a_word():
            return "max_target_source_ratio"
        while True:
            token = yield from self._predict()
            should_stop, remove_last = self._boundary((*self._word, token))
            if self._is_end_of_turn((token,)):
                return (yield from self._end_of_turn())
            if not remove_last:
                yield from self._accept(token)
            if should_stop:
                yield from self._complete_word()
            if self._is_too_long(self._written):
                return "max_tokens"
            if should_stop:
                return None if self.state.should_write_next_target() else "max_words"

    def _end_of_turn(self) -> WordSteps:
        """It closes an open word; while source is left it is never taken at its word."""
        open_word = self._boundary.has_content(self._word)
        if open_word:
            yield from self._complete_word()
        if self.state.source_exhausted():
            return "end_of_turn"
        if self._stop_early:
            return "early_end_of_turn"
        if open_word:
            return None if self.state.should_write_next_target() else "max_words"
        if self._held is not None and not self._detokenizer.is_holding:
            yield self._release()
        self._read_on = True
        return None

    def _predict(self) -> Generator[Step, int | None, int]:
        """The next token, from a new pass unless the last prediction still stands."""
        if self._prediction is None:
            self.state.switch_to_writing()
            if self._unfed:
                request = TargetPass(self._unfed, 0, self._written)
                self._last_fed, self._unfed = self._unfed[-1:], ()
            else:
                request = TargetPass(self._last_fed, 1, self._written)
            self._prediction = yield request
            self._n_passes += 1
        if self._prediction is None:
            raise InvalidOptionError("a TargetPass must be answered with the predicted token id.")
        return self._prediction

    # Words and their events

    def _accept(self, token: int) -> Steps:
        """The token joins the word; its event is held back until it is known whether it ends it."""
        if self._held is not None:
            yield self._release()
        self._unfed = (token,)
        self._prediction = None
        self._word.append(token)
        self._written.append(token)
        self._held = Write(
            token=token,
            text=self._detokenizer.add(token),
            word_complete=False,
            source_words_read=self.state.delay_words,
            target_words_generated=self.state.target_words_generated,
        )

    def _complete_word(self, lagging: int | None = None) -> Steps:
        self.state.mark_target_written(lagging)
        self._word_times_ms.append(self._clock_ms())
        self._word.clear()
        if self._held is None:
            return
        self._held = replace(
            self._held,
            word_complete=True,
            target_words_generated=self.state.target_words_generated,
        )
        # Half a character may still be completed by the next token, or flushed with this one.
        if not self._detokenizer.is_holding:
            yield self._release()

    def _release(self, last: bool = False) -> Write:
        if self._held is None:
            raise InvalidOptionError("no written token is held back.")
        text = self._held.text + (self._detokenizer.flush() if last else "")
        event = replace(self._held, text=text, time_ms=self._clock_ms())
        self._held = None
        self._texts.append(text)
        return event

    def _finished(self, reason: FinishReason) -> Finished:
        return Finished(
            reason=reason,
            token_ids=tuple(self._written),
            text="".join(self._texts),
            delays=tuple(self.state.wait_lagging),
            source_words=self.state.delay_words,
            word_times_ms=tuple(self._word_times_ms),
            total_ms=self._clock_ms(),
            n_passes=self._n_passes,
        )
