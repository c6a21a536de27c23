"""The read/write loop: segments and predictions in, passes and events out. It knows no arrays.

The loop asks and the engine answers. The loop is a generator: it yields events for the user and
requests for whatever drives it, a :class:`~mlx_simul.loop.requests.Pass` to be run by an engine and
answered with a :class:`~mlx_simul.loop.requests.Reply`, and ``NEED_SOURCE`` when it can go no
further before more source arrives. So it needs no model to be tested, a live session simply stops
at ``NEED_SOURCE``, and one driver can run the passes of many sessions as one.

There is one kind of pass. A read asks for none by itself: the source that is read waits for the
next pass that predicts, and only a loop that has to wait for its source encodes it at once. How
many passes that takes is not visible in any event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.events import Event, Finished, FinishReason, Read, ToolCall
from mlx_simul.loop.beam_predictions import BeamPredictions
from mlx_simul.loop.beam_search import Beams
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.drought import Balance, Sentences
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.predictions import Predictions
from mlx_simul.loop.progress import StreamingState
from mlx_simul.loop.proposals import Proposals, shown
from mlx_simul.loop.requests import Evidence, Insertion, Pass, Reply, Wanted
from mlx_simul.loop.source_queue import SourceQueue
from mlx_simul.loop.target import Detokenizer, Target
from mlx_simul.policies import Action, Policy, ProposedWord
from mlx_simul.text.boundary import MaxLengthStoppingCriteria, WordBoundaryStoppingCriteria
from mlx_simul.text.speech import speech
from mlx_simul.text.stops import StopWatch

NEED_SOURCE: Final = "need source"

Step: TypeAlias = Event | Pass | Literal["need source"]
Steps: TypeAlias = Generator[Step, Reply | None, None]
# What a part of the loop returns: why the stream ends here, or None to go on.
WordSteps: TypeAlias = Generator[Step, Reply | None, FinishReason | None]


class SimulLoop:
    """One session's loop under the semantics of SPEC sections 2 and 3.

    ::

        start ──▶ ask the policy ◀──────────────────────────────────────────────┐
                    │       │ READ, or the loop has to read on                  │
                    │       ▼                                                   │
                    │     read a segment (NEED_SOURCE while none is at hand) ───┤
                    │ WRITE, or all source is read                              │
                    ▼                                                           │
                  propose words and judge them (1) ── none stands ──────────────┤
                    │ some words stand                                          │
                    ▼                                                           │
                  write these words ── all are complete ────────────────────────┘
                    │ the model ends its turn and all source is read, or a limit is reached
                    ▼
                  Finished     (so does a stop, in the middle of a word)

        (1) if the policy judges and source is left; otherwise one word stands, unseen.

    Between any two steps:

    * the engine's source is what :class:`~mlx_simul.loop.source_queue.SourceQueue` counts as
      encoded, and its target what :class:`~mlx_simul.loop.predictions.Predictions` says;
    * source waits to be encoded only while no prediction stands, since a read outdates them all;
    * every token written was predicted from exactly the source that was read when it was written.

    Attributes:
        state: how far the stream has got; read it only.

    Args:
        policy: when to read and when to write.
        header: the target's header, at least one token.
        boundary: where a target word ends; a wait token ends one too.
        end_of_turn_ids: tokens that end the turn, wait tokens among them.
        detokenizer: fresh, for this session's target.
        limits: where to stop.
        stop_early: whether an end-of-turn ends the stream although source is left; otherwise the
            loop reads on.
        clock_ms: milliseconds since the session began.
        heads: the (layer, head) pairs whose attention is shown, if the policy needs attention.
        wait_ids: tokens by which the model says that it wants to read; they cannot be predicted
            once the source is wholly read.
        forbidden_ids: tokens that are never predicted.
        read_ahead_tokens: if this many source tokens are at hand, they are encoded in one pass,
            even before the policy reads them; 0 if the engine cannot hide them until then.
        drafter: guesses what will be predicted. Guesses change how many passes a stream takes, and
            nothing else. ``None`` for no guesses.
        num_draft_tokens: with a drafter, how many drafts go along with a pass at most.
        beams: how to search for what is written; ``None`` to write the likeliest token. There is
            no drafter then.
        logprobs: whether each Write says how likely its token was.
        seed: of the random numbers that a sampler draws from; ``None`` for MLX's random state.
    """

    # Whether predictions that a read outdates go along with the next pass as drafts.
    _keeps_drafts = True

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
        heads: tuple[tuple[int, int], ...] = (),
        wait_ids: tuple[int, ...] = (),
        forbidden_ids: tuple[int, ...] = (),
        read_ahead_tokens: int = 0,
        drafter: Drafter | None = None,
        num_draft_tokens: int = 0,
        watch: StopWatch | None = None,
        beams: Beams | None = None,
        logprobs: bool = False,
        seed: int | None = None,
    ) -> None:
        self._policy = policy
        # All that the policy learns about what is read and written.
        self.state = StreamingState([], None, limits.max_words, source_complete=False)
        self._is_too_long = MaxLengthStoppingCriteria(limits.max_tokens)
        self._limits = limits
        self._stop_early = stop_early
        self._clock_ms = clock_ms
        self._wait_ids = wait_ids

        # A policy that goes by counts pays neither for evidence nor for proposals: both are None.
        needs = policy.needs
        self._logprobs = logprobs
        wanted = Wanted(needs.probabilities or logprobs, heads if needs.attention else ())
        evidence = {
            "wanted": None if wanted == Wanted() else wanted,
            "last_wanted": Wanted(probabilities=True) if logprobs else None,
        }
        self._source = SourceQueue()
        self._target = Target(boundary, detokenizer, self.state, clock_ms, watch)
        self._predictions = Predictions(
            header,
            self._source,
            self._target,
            end_of_turn_ids,
            **evidence,
            forbidden_ids=forbidden_ids,
            wait_ids=wait_ids,
            read_ahead_tokens=read_ahead_tokens,
            drafter=drafter,
            num_draft_tokens=num_draft_tokens,
            keeps_drafts=self._keeps_drafts,
            seed=seed,
        )
        if beams is not None:
            # A policy that goes by counts lets one word be written at a time. Guessing further
            # before it is chosen (Zheng et al. 2019) takes more passes, and no gain could be told
            # from chance (docs/policies.md).
            self._predictions = BeamPredictions(
                header,
                self._source,
                self._target,
                end_of_turn_ids,
                **evidence,
                forbidden_ids=forbidden_ids,
                wait_ids=wait_ids,
                read_ahead_tokens=read_ahead_tokens,
                beams=beams,
                lookahead_words=1 if needs.lookahead_words == 0 else needs.lookahead_words,
                limits=limits,
            )
        self._proposals = None
        if needs.lookahead_words != 0:
            self._proposals = Proposals(policy, self._target, self._predictions, limits)
        # Results of tools that the target does not hold yet.
        self._insertions: deque[Insertion] = deque()
        # How many calls there were, and the numbers of those without a result.
        self._n_calls, self._open_calls = 0, set[int]()
        self._has_ended = False
        self._balance = Balance(Sentences(), Sentences())
        # Whether a segment has to be read before the policy is asked again, because the model had
        # nothing to write or the policy did not let all of it stand. The next read clears it.
        self._read_on = False
        self._observer: Callable[[ProposedWord], None] | None = None
        # One for each token of the word under way, while there is an observer.
        self._word_evidence: list[Evidence | None] = []
        # Words that a stop may yet take back; how many the observer was told.
        self._unobserved: deque[ProposedWord] = deque()
        self._n_observed = 0

    def observe(self, observer: Callable[[ProposedWord], None]) -> None:
        """Call a function with each word that is written and the evidence that the policy needs.

        The evidence is then asked for to the end, and not only while the policy judges by it. A
        word that a stop cuts off is not told.

        Raises:
            InvalidOptionError: if the policy needs nothing, or if the target may hold tool calls.
        """
        require_evidence(self._policy)
        if self._target.may_call:
            raise InvalidOptionError(
                "observe() is told words, and a target with tools holds calls too; leave one out."
            )
        self._observer = observer
        self._predictions.observe()

    # Source arrives

    def add_segment(self, token_ids: Sequence[int], text: str = "", *, n_encoded: int = 0) -> None:
        """Append a source segment: first the prefix, then words.

        Args:
            token_ids: its tokens.
            text: what the Read event of it says.
            n_encoded: how many of them, from the first, the engine holds already.
        """
        self.state.add_source_segment(len(token_ids))
        self._source.add(token_ids, text, n_encoded=n_encoded)
        if n_encoded:
            self._predictions.follow_encoded(token_ids[:n_encoded])

    def close_source(self, suffix_ids: Sequence[int]) -> None:
        """Append the suffix: no more source will come."""
        self.add_segment(suffix_ids)
        self.state.close_source()

    def insert(self, insertion: Insertion) -> None:
        """Give the target the result of a tool, as soon as no word and no call is under way.

        Raises:
            SessionClosedError: if the stream has ended.
            InvalidOptionError: if there is no such call, or if it has its result.
        """
        if self._has_ended:
            raise SessionClosedError(
                f"the result of call {insertion.call} came too late: nothing more is written. Give "
                "a result while the stream goes on."
            )
        if insertion.call not in self._open_calls:
            raise InvalidOptionError(
                f"call {insertion.call} of this stream was never made, or has its result already."
            )
        self._open_calls.discard(insertion.call)
        self._insertions.append(insertion)

    # Reading

    def steps(self) -> Steps:
        """Run to the end, yielding events and requests."""
        while self._source.is_empty:
            yield NEED_SOURCE
        # The prefix belongs to the first read, whichever word that brings.
        self._source.read()
        while self._source.is_empty:
            yield from self._predictions.encode()
            yield NEED_SOURCE
        if self.state.source_complete and len(self.state.source_seg_len) == 2:
            yield self._finished("empty_source")
            return
        reason: FinishReason | None = None
        while reason is None:
            yield from self._read()
            reason = yield from self._write()
            if self._insertions and reason in ("end_of_turn", "early_end_of_turn"):
                reason = None
        self._has_ended = True
        yield from self._end_call()
        yield from self._target.finish()
        self._tell()
        yield self._finished(reason if self._target.stop is None else "stop")

    def _read(self) -> Steps:
        """Read as far as the policy says; the source read waits for the next pass."""
        self._take_insertions()
        while self._should_read():
            if not self.state.should_read_next_source():
                yield from self._predictions.encode()
                yield NEED_SOURCE
                self._take_insertions()
                continue
            self.state.switch_to_reading()
            # What is predicted was predicted from less source than is read now.
            self._predictions.outdate()
            yield replace(self._read_segment(), time_ms=self._clock_ms())

    def _take_insertions(self) -> None:
        while self._insertions:
            self._predictions.insert(self._insertions.popleft().token_ids)
            # Now there may be something to add.
            self._read_on = False

    def _should_read(self) -> bool:
        if self.state.source_exhausted():
            return False
        if self._read_on or not self._limits.ratio_allows_a_word(self.state):
            return True
        decision = self._policy.decide(self.state)
        if not isinstance(decision, Action):
            raise InvalidOptionError(
                f"{self._policy!r} decided {decision!r}; a policy answers Action.READ or WRITE."
            )
        return decision is Action.READ

    def _read_segment(self) -> Read:
        n_tokens = self.state.get_source_tokens_to_read()
        text = self._source.read()
        self.state.mark_source_read(speech(text))
        self._balance.source.add(text)
        if self._proposals is not None:
            self._proposals.source_read(text)
        self._read_on = False
        return Read(
            source=text,
            n_tokens=n_tokens,
            source_words_read=self.state.delay_words,
            source_finished=self.state.source_exhausted(),
        )

    # Writing

    def _write(self) -> WordSteps:
        """Write what may be written before the policy is asked again."""
        if self._proposals is None or self.state.source_exhausted():
            return (yield from self._write_word())
        proposal = yield from self._proposals.propose()
        if not proposal.words:
            if self._stop_early:
                return (yield from self._write_word())
            self._read_on = True
            return None
        n_words, self._read_on = self._proposals.judge(proposal)
        for _ in range(n_words):
            reason = yield from self._write_word()
            if reason is not None:
                return reason
        return None

    def _write_word(self) -> WordSteps:
        if not self._limits.ratio_allows_a_word(self.state):
            return "max_target_source_ratio"
        while True:
            prediction = yield from self._predictions.predict()
            if prediction.ends_turn:
                return (yield from self._end_of_turn(prediction.token))
            should_stop, is_look_ahead = self._target.ends_word(prediction.token)
            if not is_look_ahead:
                yield from self._accept()
                if self._target.is_stopped:
                    return "stop"
                if calls := self._target.take_calls():
                    yield from self._say(calls)
                    return "max_tokens" if self._is_too_long(self._target.token_ids) else None
            if should_stop:
                yield from self._complete_word()
            if self._is_too_long(self._target.token_ids):
                return "max_tokens"
            if should_stop:
                return self._reason_after_a_word()

    def _end_of_turn(self, token: int) -> WordSteps:
        """End at an end-of-turn if all source is read; before, it says "nothing to add yet".

        Either way it closes the word under way. It is never fed, written or counted.
        """
        yield from self._end_call()
        open_word = self._target.has_open_word
        if open_word:
            yield from self._complete_word()
        if self.state.source_exhausted():
            return "end_of_turn"
        waits = token in self._wait_ids
        if self._stop_early and not waits:
            return "early_end_of_turn"
        if open_word:
            self._read_on |= waits
            return self._reason_after_a_word()
        yield from self._target.release_whole()
        self._read_on = True
        return None

    def _end_call(self) -> Steps:
        """Let a call that is under way end here."""
        if self._target.is_in_call:
            self._target.end_call()
            yield from self._say(self._target.take_calls())

    def _say(self, calls: Sequence[ToolCall]) -> Steps:
        """Tell of calls that have ended, after all that was written before them."""
        yield from self._target.leave_call()
        for call in calls:
            self._open_calls.add(self._n_calls)
            yield replace(
                call,
                call=self._n_calls,
                source_words_read=self.state.delay_words,
                time_ms=self._clock_ms(),
            )
            self._n_calls += 1

    def _reason_after_a_word(self) -> FinishReason | None:
        return None if self._limits.max_words_allows_a_word(self.state) else "max_words"

    def _accept(self) -> Steps:
        """The first prediction that stands joins the word under way."""
        prediction = self._predictions.take()
        if self._observer is not None:
            self._word_evidence.append(prediction.evidence)
        evidence = prediction.evidence if self._logprobs else None
        logprob = None if evidence is None else evidence.logprob
        yield from self._target.write(prediction.token, logprob)

    def _complete_word(self, lagging: int | None = None) -> Steps:
        word = self._target.word
        if self._observer is not None:
            self._unobserved.append(shown(word, self._word_evidence, self.state))
            self._word_evidence.clear()
            self._tell()
        if self._proposals is not None:
            self._proposals.word_written(word)
        text = yield from self._target.complete_word(lagging)
        self._balance.target.add(text)
        self._balance.answered_speech = self.state.source_speech
        self._tell()

    def _tell(self) -> None:
        """Tell the observer of the words that no stop can take back."""
        target, observer = self._target, self._observer
        while observer is not None and self._unobserved:
            if target.may_stop and self._n_observed >= target.n_words_out:
                return
            self._n_observed += 1
            observer(self._unobserved.popleft())

    def _finished(self, reason: FinishReason) -> Finished:
        state, target = self.state, self._target
        if (
            reason == "end_of_turn"
            and not self._n_calls
            and self._balance.has_dried_up(state.source_speech, state.target_speech)
        ):
            reason = "drought"
        return Finished(
            reason=reason,
            token_ids=tuple(target.token_ids),
            target_text=target.text,
            delays=tuple(state.wait_lagging),
            source_words=state.delay_words,
            target_words=state.target_words_generated,
            word_times_ms=tuple(target.word_times_ms),
            total_ms=self._clock_ms(),
            n_passes=self._predictions.n_passes,
            source_finished=reason == "empty_source" or state.source_exhausted(),
            stop=target.stop,
        )


def require_evidence(policy: Policy) -> None:
    """Check that the words that a policy lets be written come with evidence.

    Raises:
        InvalidOptionError: if it needs none.
    """
    needs = policy.needs
    if needs.lookahead_words == 0 and not needs.probabilities and not needs.attention:
        raise InvalidOptionError(
            f"there is no evidence to observe: {policy!r} goes by counts. "
            "mlx_simul.policies.Shown(policy) shows the attention as well."
        )
