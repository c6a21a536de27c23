"""Words that are proposed to a policy, and how many of them stand.

A proposal is predictions that are not taken. A policy that judges needs no second stream: the loop
goes on predicting after what stands, and what the policy does not let stand is outdated by the
next read like any other prediction, so that it goes along as drafts. Translating again after a read
costs about one pass where the translation stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.predictions import Asking, Predictions
from mlx_simul.loop.progress import StreamingState
from mlx_simul.loop.requests import Evidence
from mlx_simul.loop.target import Target
from mlx_simul.policies import Policy, Proposal, ProposedWord
from mlx_simul.text.boundary import ends_sentence
from mlx_simul.text.speech import speech

MAX_HYPOTHESIS_WORDS = 64
"""Words of speech after which a hypothesis is cut that does not end by itself."""

MAX_DOUBTED_WORDS = 6
"""Words of source speech after which the end of a target sentence is believed although no source
sentence has ended. Recognised speech has no full stops."""


class Proposals:
    """Proposes words to a policy that judges, and doubts early ends of sentences.

    A model that sees half a sentence likes to close it, and would then go on with another one. So a
    word that ends a target sentence is doubted, and does not stand, until the source has ended a
    sentence too, or has gone on for ``MAX_DOUBTED_WORDS`` without ending one.

    Args:
        policy: judges the words.
        target: what is written.
        predictions: what is not.
        limits: nothing is proposed that they would not let be written.
    """

    def __init__(
        self, policy: Policy, target: Target, predictions: Predictions, limits: Limits
    ) -> None:
        self._policy = policy
        self._lookahead_words = policy.needs.lookahead_words
        self._target, self._predictions, self._limits = target, predictions, limits
        self._state, self._boundary = target.state, target.boundary
        # What the policy wants to have handed back.
        self._memory: object = None
        # Sentences that the source has ended and the target has not, never below 0.
        self._n_open_ends = 0
        # Source speech read when an end was first doubted; None while none is.
        self._doubted_at: Fraction | None = None

    def source_read(self, text: str) -> None:
        """Take note of a source segment."""
        self._n_open_ends += ends_sentence(text)

    def word_written(self, tokens: Sequence[int]) -> None:
        """Take note of a complete target word."""
        if self._boundary.ends_sentence(tokens):
            self._n_open_ends, self._doubted_at = max(0, self._n_open_ends - 1), None

    def propose(self) -> Asking[Proposal]:
        """Predict whole words, as many as the policy wants to see, and write nothing."""
        most_words = min(MAX_HYPOTHESIS_WORDS, self._limits.words_left(self._state))
        most_tokens = self._limits.max_tokens - len(self._target.token_ids)
        words: list[ProposedWord] = []
        proposed, n_tokens = Fraction(0), 0
        # White space that is written already may begin the first word, without evidence.
        word, evidence = list(self._target.word), []
        while True:
            prediction = yield from self._predictions.predict(n_tokens)
            # A look-ahead token is looked at twice: it ends a word, and the next begins with it.
            should_stop, is_look_ahead = self._boundary((*word, prediction.token))
            if not is_look_ahead:
                word.append(prediction.token)
                evidence.append(prediction.evidence)
                n_tokens += 1
            is_last = prediction.ends_turn or n_tokens >= most_tokens
            if (should_stop or is_last) and self._boundary.has_content(word):
                words.append(shown(word, evidence, self._state))
                proposed += speech(self._boundary.text(word))
                word, evidence = [], []
            if is_last or len(words) == self._lookahead_words or proposed >= most_words:
                return Proposal(tuple(words), prediction.ends_turn)

    def judge(self, proposal: Proposal) -> tuple[int, bool]:
        """Ask the policy how many of the words stand.

        Returns:
            Their number, and whether source has to be read before there is anything else to judge.

        Raises:
            InvalidOptionError: if the policy does not answer with such a number.
        """
        words = proposal.words
        n_words, self._memory = self._policy.judge(self._state, proposal, self._memory)
        if not isinstance(n_words, int) or not 0 <= n_words <= len(words):
            raise InvalidOptionError(
                f"{self._policy!r} judged that {n_words!r} of {len(words)} proposed words stand; "
                "judge() must return a whole number from 0 to the number of words."
            )
        ends = [i for i in range(n_words) if self._boundary.ends_sentence(words[i].tokens)]
        n_words = next(iter(self._doubted(ends)), n_words)
        return n_words, self._lookahead_words is None or n_words < len(words)

    def _doubted(self, ends: Sequence[int]) -> Sequence[int]:
        """The ends of sentences beyond those that the source has ended."""
        doubted = ends[self._n_open_ends :]
        if not doubted:
            self._doubted_at = None
            return ()
        read = self._state.source_speech
        if self._doubted_at is None:
            self._doubted_at = read
        # Only the first is believed; once that is written, a second one is doubted anew.
        is_believed = read - self._doubted_at >= MAX_DOUBTED_WORDS
        return doubted[is_believed:]


def shown(
    tokens: Sequence[int], evidence: Sequence[Evidence | None], state: StreamingState
) -> ProposedWord:
    """A word as a policy is shown it.

    Args:
        tokens: of the word.
        evidence: of its predictions; ``None`` where it was not asked for.
        state: tells which source tokens are those of each word read.
    """
    given = [each for each in evidence if each is not None]
    lengths = state.source_seg_len[: state.delay_words + 1]
    by_token = [_by_word(each.attention, lengths) for each in given if each.attention]
    return ProposedWord(
        tokens=tuple(tokens),
        probabilities=tuple(each.probability for each in given),
        margins=tuple(each.margin for each in given),
        attention=tuple(sum(column) / len(by_token) for column in zip(*by_token, strict=True)),
    )


def _by_word(attention: Sequence[float], segment_lengths: Sequence[int]) -> list[float]:
    """Attention on source tokens, summed for each source word read; the prefix is left out."""
    return [sum(attention[start:end]) for start, end in pairwise(accumulate(segment_lengths))]
