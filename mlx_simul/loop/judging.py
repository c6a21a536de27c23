"""The read/write loop under a policy that judges what the model would write. It knows no arrays.

Words are proposed: predicted, and not written. The policy says how many of them stand. Those are
written as in :mod:`mlx_simul.loop.loop`; the others go along as drafts with the next pass, so that
translating again after a read costs about one pass where it comes out alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Read
from mlx_simul.loop.loop import Detokenizer, Limits, SimulLoop, Step, Steps, WordSteps
from mlx_simul.loop.requests import Evidence, Pass, Reply, Wanted
from mlx_simul.policies import JudgingPolicy, Proposal, ProposedWord
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria, ends_sentence
from mlx_simul.text.speech import speech

MAX_HYPOTHESIS_WORDS = 64
"""Words of speech after which a hypothesis is cut that finds no end."""

MAX_DOUBTED_WORDS = 6
"""Words of source speech after which the end of a target sentence is believed though the source
ends none.

Speech that was recognised has no full stops."""


class JudgingLoop(SimulLoop):
    """One session's loop under a :class:`~mlx_simul.policies.JudgingPolicy`.

    Attributes:
        observer: told of each word that is written, with the evidence for it; then that is asked
            for to the end, and not only as long as the policy needs it.

    Args:
        policy: judges proposed words.
        boundary: where a target word ends; a wait token ends one too.
        end_of_turn_ids: tokens that end the turn, wait tokens among them.
        heads: the heads whose attention the policy is shown, if it needs it.
        wait_ids: tokens by which the model says that it wants to read.
        others: as :class:`~mlx_simul.loop.loop.SimulLoop`.
    """

    observer: Callable[[ProposedWord], None] | None = None

    def __init__(
        self,
        policy: JudgingPolicy,
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
    ) -> None:
        super().__init__(
            policy,
            header,
            boundary,
            end_of_turn_ids,
            detokenizer,
            limits,
            stop_early=stop_early,
            clock_ms=clock_ms,
        )
        needs = policy.needs
        self._judge = policy.judge
        self._lookahead_words = needs.lookahead_words
        self._wait_ids = wait_ids
        self._memory: object = None
        # Sentences that the source has ended, and the target not yet.
        self._n_open_ends = 0
        self._doubted_at: Fraction | None = None
        wanted = Wanted(needs.probabilities, heads if needs.attention else ())
        self._wanted = None if wanted == Wanted() else wanted
        # Of the newest predictions; the last of it belongs to the last of those that stand.
        self._evidence: list[Evidence] = []
        self._word_evidence: list[Evidence] = []

    def _write(self) -> WordSteps:
        """What the policy lets stand of what is proposed; once the source is read, all."""
        if self.state.source_exhausted() or self._lookahead_words == 0:
            return (yield from self._write_word())
        proposal = yield from self._propose()
        if not proposal.words:
            if self._stop_early:
                return (yield from self._write_word())
            self._read_on = True
            return None
        n_words = self._judged(proposal)
        self._read_on = self._lookahead_words is None or n_words < len(proposal.words)
        for _ in range(n_words):
            reason = yield from self._write_word()
            if reason is not None:
                return reason
        return None

    def _judged(self, proposal: Proposal) -> int:
        """How many of the words stand: as the policy says, but no early end of a sentence."""
        n_words, self._memory = self._judge(self.state, proposal, self._memory)
        if not isinstance(n_words, int) or not 0 <= n_words <= len(proposal.words):
            raise InvalidOptionError(
                f"{self.policy!r} judged that {n_words!r} of {len(proposal.words)} proposed words "
                "stand; it must be a number from 0 to as many."
            )
        words = enumerate(proposal.words[:n_words])
        ends = [i for i, word in words if self._boundary.ends_sentence(word.tokens)]
        return next(iter(self._doubted(ends)), n_words)

    def _doubted(self, ends: Sequence[int]) -> Sequence[int]:
        """Of words that end sentences, those beyond what the source has ended.

        A model that sees half a sentence likes to close it, and would then go on with another. If
        the source goes on for long and ends none, the first is believed.
        """
        doubted = ends[self._n_open_ends :]
        if not doubted:
            self._doubted_at = None
            return ()
        read = self.state.source_speech
        if self._doubted_at is None:
            self._doubted_at = read
        is_believed = read - self._doubted_at >= MAX_DOUBTED_WORDS
        return doubted[is_believed:]

    # Proposals

    def _propose(self) -> Generator[Step, Reply | None, Proposal]:
        """Predict whole words, as many as the policy wants to see, and write nothing."""
        proposed, most_speech = Fraction(0), self._most_speech()
        words: list[ProposedWord] = []
        word, start, n_taken = list(self._word), 0, 0
        while True:
            if n_taken == len(self._predicted):
                yield from self._foresee()
            token = self._predicted[n_taken]
            should_stop, remove_last = self._boundary((*word, token))
            if not remove_last:
                word.append(token)
                n_taken += 1
            ended = self._is_end_of_turn((token,))
            is_last = ended or self._is_too_long(range(len(self._written) + n_taken))
            if (should_stop or is_last) and self._boundary.has_content(word):
                first = len(self._evidence) - len(self._predicted)
                words.append(self._word_of(word, self._evidence[first + start : first + n_taken]))
                proposed += speech(self._boundary.text(word))
                word, start = [], n_taken
            if is_last or len(words) == self._lookahead_words or proposed >= most_speech:
                return Proposal(tuple(words), ended)

    def _most_speech(self) -> float | Fraction:
        """Words of speech in a proposal, as far as they might be written."""
        limits = [self._most_speech_by_ratio()]
        if self.state.max_target_words is not None:
            limits.append(self.state.max_target_words)
        return min(MAX_HYPOTHESIS_WORDS, min(limits) - self.state.target_speech)

    def _foresee(self) -> Generator[Step, Reply | None, None]:
        """Predict one token more, behind those that are predicted and not written."""
        if not self._predicted:
            yield from self._predict()
            return
        request = Pass(
            (),
            (self._predicted[-1],),
            n_hidden=self._source.n_hidden,
            written=(*self._written, *self._predicted),
            forbidden_ids=self.forbidden_ids,
        )
        reply = yield from self._run(request)
        self._predicted.extend(reply.token_ids)

    def _word_of(self, tokens: Sequence[int], evidence: Sequence[Evidence]) -> ProposedWord:
        if self._wanted is None:
            return ProposedWord(tuple(tokens))
        by_token = [self._by_word(given.attention) for given in evidence if given.attention]
        return ProposedWord(
            tokens=tuple(tokens),
            probabilities=tuple(given.probability for given in evidence),
            margins=tuple(given.margin for given in evidence),
            attention=tuple(sum(column) / len(by_token) for column in zip(*by_token, strict=True)),
        )

    def _by_word(self, attention: Sequence[float]) -> list[float]:
        """Attention on source tokens, summed for each source word read."""
        lengths = self.state.source_seg_len[: self.state.delay_words + 1]
        ends = accumulate(lengths)
        return [sum(attention[start:end]) for start, end in pairwise(ends)]

    # What a plain loop does otherwise

    def _run(self, request: Pass) -> Generator[Step, Reply | None, Reply]:
        is_last_part = self.state.source_exhausted()
        if request.target_ids and (not is_last_part or self.observer is not None):
            request = replace(request, wanted=self._wanted)
        if is_last_part:
            forbidden_ids = (*request.forbidden_ids, *self._wait_ids)
            request = replace(request, forbidden_ids=forbidden_ids)
        reply = yield from super()._run(request)
        # Behind a prediction that stood stand those of this reply.
        del self._evidence[: len(self._evidence) - len(self._predicted)]
        self._evidence += reply.evidence
        return reply

    def _end_of_turn(self) -> WordSteps:
        waits = self._predicted[0] in self._wait_ids
        reason = yield from super()._end_of_turn()
        if waits and reason in (None, "early_end_of_turn"):
            self._read_on = True
            return None
        return reason

    def _accept(self, token: int) -> Steps:
        if self.observer is not None and self._wanted is not None:
            self._word_evidence.append(self._evidence[-len(self._predicted)])
        yield from super()._accept(token)

    def _mark_read(self, n_tokens: int) -> Read:
        read = super()._mark_read(n_tokens)
        self._n_open_ends += ends_sentence(read.source)
        return read

    def _complete_word(self, lagging: int | None = None) -> Steps:
        if self.observer is not None:
            self.observer(self._word_of(self._word, self._word_evidence))
            self._word_evidence.clear()
        if self._boundary.ends_sentence(self._word):
            self._n_open_ends, self._doubted_at = max(0, self._n_open_ends - 1), None
        yield from super()._complete_word(lagging)
