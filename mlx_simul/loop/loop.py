"""The read/write loop: segments and predictions in, passes and events out. It knows no arrays.

The loop is a generator. It yields events for the user, and requests for whoever drives it: a
:class:`~mlx_simul.loop.requests.Pass`, to be run by an engine and answered with a
:class:`~mlx_simul.loop.requests.Reply`, and ``NEED_SOURCE`` when it can go no further before more
source arrives.

Source that is read waits for the next target pass, and they are run as one. What was predicted
from less source than is read now is not thrown away: it goes along as a draft, and where the new
prediction agrees, the one after it is had for free.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from typing import Final, Literal, Protocol, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Event, Finished, FinishReason, Read, Write
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.drought import Balance, Sentences
from mlx_simul.loop.progress import StreamingState
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.loop.source_queue import SourceQueue
from mlx_simul.policies import Action, Policy
from mlx_simul.text.boundary import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)
from mlx_simul.text.speech import speech

NEED_SOURCE: Final = "need source"

DEFAULT_MAX_RATIO = 3.0
"""Small models ramble, and no pair of languages needs three words for one in more than a phrase."""

SHORT_SOURCE_WORDS = 3
"""A shorter source says little about how long its translation is: "Cheers!" is "À votre santé !".

Of 140,140 French translations in Tatoeba 45 have more than three times the words of their source,
and 17 do if shorter sources count so."""

Step: TypeAlias = Event | Pass | Literal["need source"]
Steps: TypeAlias = Generator[Step, Reply | None, None]
# What a part of the loop returns: why the stream ends here, or None to go on.
WordSteps: TypeAlias = Generator[Step, Reply | None, FinishReason | None]


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


@dataclass(frozen=True)
class Limits:
    """Where a session stops by itself.

    Words are words of speech, as long in any script (:mod:`mlx_simul.text.speech`). No target word
    is begun once the whole words that a limit allows are written.

    Attributes:
        max_words: target words.
        max_tokens: target tokens.
        max_target_source_ratio: target words per source word read, one that has begun included; a
            whole source shorter than ``SHORT_SOURCE_WORDS`` counts as that many. A session that has
            reached it reads on, and ends when there is nothing left to read.

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

    Attributes:
        carries_drafts: whether stale predictions go along as drafts. It changes how many passes a
            stream takes, and nothing else.
        read_ahead_tokens: source tokens at hand that are encoded in one pass, before the policy
            reads them; 0 if the engine cannot hide them until then.
        drafter: guesses what follows those predictions, and changes as little; None for no guesses.
        num_draft_tokens: at most so many drafts go along with a pass. Fewer do after guesses that
            were wrong, and none beyond a word that is to be followed by a read.
        forbidden_ids: tokens that are never predicted.

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

    carries_drafts = True
    read_ahead_tokens = 0
    drafter: Drafter | None = None
    num_draft_tokens = 0
    forbidden_ids: tuple[int, ...] = ()

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
        ratio = limits.max_target_source_ratio
        # The decimal that was given: 0.6 of 5 words is 3 words.
        self._max_ratio = None if ratio is None else Fraction(str(float(ratio)))
        self._stop_early = stop_early
        self._clock_ms = clock_ms

        self._balance = Balance(Sentences(), Sentences())
        self._source = SourceQueue()
        self._segment_texts: deque[str] = deque()

        self._written: list[int] = []
        self._texts: list[str] = []
        self._word: list[int] = []
        self._held: Write | None = None
        self._word_times_ms: list[float] = []

        # The newest target tokens that are no word's yet: what is to be fed, or what has been.
        self._unfed = tuple(header)
        self._last_fed = self._unfed[-1:]
        # Predictions that stand. All but the last are fed already, as drafts that were accepted.
        self._predicted: deque[int] = deque()
        # Fed tokens that must go, the last one of a word among them, and what they had predicted.
        self._n_rewind = 0
        self._drafts: tuple[int, ...] = ()
        self._read_on = False
        self._n_passes = 0
        # What guesses were worth last time, and so how many are made next.
        self._n_guesses = math.inf

    # Source arrives

    def add_segment(self, token_ids: Sequence[int], text: str = "", *, n_encoded: int = 0) -> None:
        """Append a source segment: first the prefix, then words.

        Args:
            token_ids: its tokens.
            text: what the Read event of it says.
            n_encoded: so many of them, the first, the engine has read already.
        """
        if self.state.source_seg_len:
            self._segment_texts.append(text)
        self.state.add_source_segment(len(token_ids))
        self._source.add(token_ids, n_encoded=n_encoded)
        if n_encoded and self.drafter is not None:
            self.drafter.follow(Pass(tuple(token_ids[:n_encoded])))

    def close_source(self, suffix_ids: Sequence[int]) -> None:
        """Append the suffix: no more source will come."""
        self.add_segment(suffix_ids)
        self.state.close_source()

    # The loop

    def steps(self) -> Steps:
        """Run to the end, yielding events and requests."""
        while self._source.is_empty:
            yield NEED_SOURCE
        # The prefix belongs to the first read, whichever word that brings.
        self._source.read()
        while self._source.is_empty:
            yield from self._encode()
            yield NEED_SOURCE
        if self.state.source_complete and len(self.state.source_seg_len) == 2:
            yield self._finished("empty_source")
            return
        reason: FinishReason | None = None
        while reason is None:
            yield from self._read()
            reason = yield from self._write()
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
        return self.state.target_speech < self._most_speech_by_ratio()

    def _most_speech_by_ratio(self) -> float:
        """Whole words that the ratio lets the target have, given the source read so far."""
        if self._max_ratio is None:
            return math.inf
        source_words = math.ceil(self.state.source_speech)
        if self.state.source_exhausted():
            source_words = max(source_words, SHORT_SOURCE_WORDS)
        return math.floor(self._max_ratio * source_words)

    def _max_words_allows_a_word(self) -> bool:
        most = self.state.max_target_words
        return most is None or self.state.target_speech < most

    def _read(self) -> Steps:
        """Read as far as the policy says; what is at hand waits for the next pass."""
        while self._should_read():
            if not self.state.should_read_next_source():
                yield from self._encode()
                yield NEED_SOURCE
                continue
            self.state.switch_to_reading()
            n_tokens = self.state.get_source_tokens_to_read()
            self._source.read()
            self._outdate()
            yield replace(self._mark_read(n_tokens), time_ms=self._clock_ms())

    def _encode(self) -> Steps:
        """Encode what waits, as long as there is nothing else to do."""
        if self._source.n_waiting:
            source_ids, n_rewind = self._source.take(), self._n_rewind
            self._n_rewind = 0
            yield from self._run(Pass(source_ids, (), n_rewind, written=self._written))

    def _outdate(self) -> None:
        """What is predicted was predicted from less source than is read now."""
        if not self._predicted:
            return
        # The last token of the word is fed again, and what was fed behind it is forgotten.
        self._n_rewind = len(self._predicted)
        if self.carries_drafts:
            ends = self._is_end_of_turn
            self._drafts = tuple(takewhile(lambda token: not ends((token,)), self._predicted))
        self._predicted.clear()

    def _mark_read(self, n_tokens: int) -> Read:
        text = self._segment_texts.popleft()
        self.state.mark_source_read(speech(text))
        self._balance.source.add(text)
        self._read_on = False
        return Read(
            source=text,
            n_tokens=n_tokens,
            source_words_read=self.state.delay_words,
            source_finished=self.state.source_exhausted(),
        )

    def _write(self) -> WordSteps:
        """What the policy has read enough for."""
        return (yield from self._write_word())

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
                return None if self._max_words_allows_a_word() else "max_words"

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
            return None if self._max_words_allows_a_word() else "max_words"
        if self._held is not None and not self._detokenizer.is_holding:
            yield self._release()
        self._read_on = True
        return None

    def _predict(self) -> Generator[Step, Reply | None, int]:
        """The next token, from a new pass unless a prediction still stands."""
        if not self._predicted:
            self.state.switch_to_writing()
            target_ids = self._unfed or self._last_fed
            self._last_fed, self._unfed = target_ids[-1:], ()
            source_ids = self._source.take(self.read_ahead_tokens)
            request = Pass(
                source_ids,
                target_ids,
                self._n_rewind,
                self._drafts,
                self._source.n_hidden,
                self._written,
                forbidden_ids=self.forbidden_ids,
            )
            reply = yield from self._run(request)
            self._n_rewind, self._drafts = 0, ()
            self._predicted.extend(reply.token_ids)
        return self._predicted[0]

    def _run(self, request: Pass) -> Generator[Step, Reply | None, Reply]:
        drafted = self._with_guesses(request)
        reply = yield drafted
        if reply is None or bool(reply.token_ids) != bool(request.target_ids):
            raise InvalidOptionError(
                f"a Pass must be answered with a Reply that predicts a token if it has target "
                f"tokens, and only then; got {reply!r}."
            )
        n_right = len(reply.token_ids) - 1 - len(request.draft_ids)
        if len(drafted.draft_ids) > len(request.draft_ids) and n_right >= 0:
            self._n_guesses = 1 + 2 * n_right
        self._n_passes += reply.n_passes
        return reply

    def _with_guesses(self, request: Pass) -> Pass:
        """More drafts, as far as they would be written before the next read."""
        if self.drafter is None:
            return request
        self.drafter.follow(request)
        drafts = list(request.draft_ids)
        n_drafts = min(len(drafts) + self._n_guesses, self.num_draft_tokens)
        while request.target_ids and len(drafts) < n_drafts:
            # The first token behind a word is worth its row: it shows that the word has ended.
            if drafts and not self.state.source_exhausted():
                ends_word, _ = self._boundary((*self._word, *drafts))
                if ends_word:
                    break
            token = self.drafter.guess()
            if token is None or self._is_end_of_turn((token,)):
                break
            drafts.append(token)
        return replace(request, draft_ids=tuple(drafts))

    # Words and their events

    def _accept(self, token: int) -> Steps:
        """The token joins the word; its event is held back until it is known whether it ends it."""
        if self._held is not None:
            yield self._release()
        self._predicted.popleft()
        if self._predicted:
            self._last_fed = (token,)
        else:
            self._unfed = (token,)
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
        text = self._boundary.text(self._word)
        self.state.mark_target_written(lagging, speech(text))
        self._balance.target.add(text)
        self._balance.answered_speech = self.state.source_speech
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
        read, written = self.state.source_speech, self.state.target_speech
        if reason == "end_of_turn" and self._balance.has_dried_up(read, written):
            reason = "drought"
        return Finished(
            reason=reason,
            token_ids=tuple(self._written),
            target_text="".join(self._texts),
            delays=tuple(self.state.wait_lagging),
            source_words=self.state.delay_words,
            target_words=self.state.target_words_generated,
            word_times_ms=tuple(self._word_times_ms),
            total_ms=self._clock_ms(),
            n_passes=self._n_passes,
            source_finished=reason == "empty_source" or self.state.source_exhausted(),
        )
