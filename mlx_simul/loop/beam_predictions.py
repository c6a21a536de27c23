"""Predictions that a beam search chooses: only what is decided stands.

Once nothing more stands, a search begins after the target, over the words that may be written
before the next read. Its best hypothesis stands when it is over. After the whole source it runs to
the end of the turn, and the tokens that all hypotheses have in common stand at once. So whatever
stands is as final as the likeliest token is without beams, and the target stays append-only.

A pass feeds what stands, and after it the hypotheses as a tree of drafts, which share one copy of
the source and are forgotten again::

                       ┌─ token ── token
    source, target ────┤
                       └─ token ─┬ token
                                 └ token
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mlx_simul.loop.beam_search import Beams, BeamSearch, Hypothesis, Step
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.predictions import Asking, Prediction, Predictions
from mlx_simul.loop.proposals import MAX_HYPOTHESIS_WORDS
from mlx_simul.loop.requests import Evidence, Pass, Reply, Wanted
from mlx_simul.loop.source_queue import SourceQueue
from mlx_simul.loop.target import Target
from mlx_simul.text.speech import speech


@dataclass(frozen=True)
class Words:
    """How far a hypothesis has got.

    Attributes:
        open: the tokens of its last word, if that is not complete.
        n_complete: words that it has completed.
        speech: how much speech these are.
    """

    open: tuple[int, ...]
    n_complete: int = 0
    speech: Fraction = Fraction(0)


class BeamPredictions(Predictions):
    """The predictions of one stream, as far as a beam search has decided them.

    Args:
        beams: how to search.
        lookahead_words: words that a search is to find while source is left; ``None`` for as many
            as the model has to say.
        limits: no search goes beyond them.
        others: as :class:`~mlx_simul.loop.predictions.Predictions`.
    """

    def __init__(
        self,
        header: Sequence[int],
        source: SourceQueue,
        target: Target,
        end_of_turn_ids: Collection[int],
        *,
        wanted: Wanted | None,
        last_wanted: Wanted | None,
        forbidden_ids: tuple[int, ...],
        wait_ids: tuple[int, ...],
        read_ahead_tokens: int,
        beams: Beams,
        lookahead_words: int | None,
        limits: Limits,
    ) -> None:
        super().__init__(
            header,
            source,
            target,
            end_of_turn_ids,
            wanted=wanted,
            last_wanted=last_wanted,
            forbidden_ids=forbidden_ids,
            wait_ids=wait_ids,
            read_ahead_tokens=read_ahead_tokens,
            drafter=None,
            num_draft_tokens=0,
            keeps_drafts=False,
        )
        self._beams, self._lookahead_words, self._limits = beams, lookahead_words, limits
        # Behind the whole source, so many hold all that end the turn and as many as go on. In a
        # search for a word any token may complete it, so fewer than num_beams may go on.
        self._n_candidates = beams.num_beams + max(beams.num_beams, len(end_of_turn_ids))
        self._search: BeamSearch[Words] | None = None
        # Tokens before the one that the next pass would feed without beams, if it lacks them too.
        self._behind: tuple[int, ...] = ()

    def outdate(self) -> None:
        """Let nothing stand any longer, and no search go on."""
        self._search = None
        super().outdate()
        # What comes after was never fed, so there is nothing to rewind of it.
        self._n_rewind -= len(self._take_behind())

    def predict(self, n_ahead: int = 0) -> Asking[Prediction]:
        """Give the prediction this many places after the first, from a search unless it stands."""
        while len(self._standing) <= n_ahead:
            self._state.switch_to_writing()
            if self._search is None:
                self._search = self._begin()
            yield from self._go_on(self._search)
        return self._standing[n_ahead]

    def _go_on(self, search: BeamSearch[Words]) -> Asking[None]:
        """Search a token further, and let stand what is decided by that."""
        reply = yield from self._ask(self._next_search_pass(search))
        search.advance(reply.candidates)
        decided = self._decided_by(search)[self._n_decided :]
        if search.is_over:
            self._search = None
        self._n_decided += len(decided)
        # The last that was fed will be fed again, unless more stands now.
        self._feed, self._n_rewind = self._feed[-1:], int(not decided)
        self._behind = tuple(step.token for step in decided[:-1])
        self._standing.extend(map(self._prediction, decided))
        if self._search is not None or self._state.source_exhausted():
            return
        # What is written must not see source that is read later; only its last token is to.
        open_word = (*search.best.progress.open, decided[-1].token)
        is_look_ahead = self._target.boundary(open_word)[1]
        n_lazy = 1 if is_look_ahead else 0
        if len(self._behind) > n_lazy:
            request = replace(self._next_pass(), target_ids=self._take_behind(n_lazy), wanted=None)
            yield from self._ask(request)

    def _decided_by(self, search: BeamSearch[Words]) -> Sequence[Step]:
        if search.is_over:
            return search.best.steps
        # More source may still change what its beams agree on.
        return search.agreed if self._state.source_exhausted() else ()

    def _next_search_pass(self, search: BeamSearch[Words]) -> Pass:
        request = self._next_pass()
        tokens, parents = _tree(search.live, self._n_decided)
        return replace(
            request,
            target_ids=(*self._take_behind(), *request.target_ids),
            draft_ids=tokens,
            draft_parents=parents,
            n_candidates=self._n_candidates,
            wanted=None,
        )

    def _ask(self, request: Pass) -> Asking[Reply]:
        reply = request.checked((yield request))
        self.n_passes += reply.n_passes
        return reply

    def _begin(self) -> BeamSearch[Words]:
        is_last = self._state.source_exhausted()
        self._most_words = None if is_last else self._lookahead_words
        self._most_speech = self._limits.words_left(self._state)
        if not is_last:
            self._most_speech = min(self._most_speech, MAX_HYPOTHESIS_WORDS)
        self._n_decided = 0
        standing = [prediction.token for prediction in self._standing]
        most_tokens = self._limits.max_tokens - len(self._target.token_ids) - len(standing)
        words = Words(tuple(self._target.word))
        for token in standing:
            words = self._walk(words, token)
        words = Words(words.open)
        return BeamSearch(self._beams, words, self._follow, max(1, most_tokens))

    def _follow(self, words: Words, token: int) -> Words | None:
        """How far a hypothesis has got with another token; None if it ends there."""
        if self._is_end_of_turn((token,)):
            return None
        words = self._walk(words, token)
        has_enough = self._most_words is not None and words.n_complete >= self._most_words
        return None if has_enough or words.speech >= self._most_speech else words

    def _walk(self, words: Words, token: int) -> Words:
        boundary = self._target.boundary
        should_stop, is_look_ahead = boundary((*words.open, token))
        open_word = words.open if is_look_ahead else (*words.open, token)
        if not should_stop or not boundary.has_content(open_word):
            return replace(words, open=(*words.open, token))
        said = words.speech + speech(boundary.text(open_word))
        words = Words((), words.n_complete + 1, said)
        # A look-ahead token is looked at twice: it ends a word, and the next begins with it.
        return self._walk(words, token) if is_look_ahead else words

    def _prediction(self, step: Step) -> Prediction:
        evidence = None
        if (self._last_wanted if self._state.source_exhausted() else self._wanted) is not None:
            evidence = Evidence(
                math.exp(step.log_probability), step.margin, logprob=step.log_probability
            )
        return Prediction(step.token, self._is_end_of_turn((step.token,)), evidence)

    def _take_behind(self, n_kept: int = 0) -> tuple[int, ...]:
        n_taken = len(self._behind) - n_kept
        behind, self._behind = self._behind[:n_taken], self._behind[n_taken:]
        return behind


def _tree(
    hypotheses: Sequence[Hypothesis[Words]], n_decided: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of hypotheses beyond those decided as a tree, and what each of them follows.

    Its leaves are in the order of the hypotheses.
    """
    nodes: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    for hypothesis in hypotheses:
        parent = -1
        for step in hypothesis.steps[n_decided:]:
            node = nodes.setdefault((parent, step.token), len(tokens))
            if node == len(tokens):
                tokens.append(step.token)
            parent = node
    return tuple(tokens), tuple(parent for parent, _ in nodes)
