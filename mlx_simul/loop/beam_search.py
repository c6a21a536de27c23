"""Beam search as transformers defines it, over anything that can name candidates. It runs no model.

The definitions are those of ``generate(num_beams=N, early_stopping=False)`` in transformers
(``GenerationMixin._beam_search``). N hypotheses are continued by a token in every way. Of these
continuations, one that ends is finished if it is among the N likeliest, and the N likeliest of
those that do not end are continued next. A finished hypothesis scores the sum of its log
probabilities, divided by its length to the power of the length penalty; the N best are kept. The
search is over once there are N, and the likeliest of the others would not score better at its
present length than the worst of them.

With one beam and a length penalty of 0 this finds the likeliest token at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from math import exp
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from mlx_simul.loop.requests import Candidate

P = TypeVar("P")


@dataclass(frozen=True)
class Beams:
    """How to search.

    Attributes:
        num_beams: N, how many hypotheses go on at a time.
        length_penalty: above 0 favours long hypotheses, and below 0 short ones.
    """

    num_beams: int
    length_penalty: float = 1.0


class Step(NamedTuple):
    """One token of a hypothesis.

    Attributes:
        token: its id.
        log_probability: of the token.
        margin: its probability minus that of the likeliest other token.
    """

    token: int
    log_probability: float
    margin: float


@dataclass(frozen=True)
class Hypothesis(Generic[P]):
    """What may be written.

    Attributes:
        steps: its tokens.
        sum: of their log probabilities.
        progress: how far it has got, as the caller counts.
        score: by which finished ones are compared.
    """

    steps: tuple[Step, ...]
    sum: float
    progress: P
    score: float = 0.0


class BeamSearch(Generic[P]):
    """One search, from a beginning to its end.

    Args:
        beams: how to search.
        progress: of the hypothesis without tokens.
        follow: from a hypothesis's progress and a token, the progress after it, or None if the
            hypothesis ends with this token.
        max_tokens: how many tokens end every hypothesis.

    Attributes:
        live: the hypotheses that go on, all of one length, the likeliest first.
    """

    def __init__(
        self, beams: Beams, progress: P, follow: Callable[[P, int], P | None], max_tokens: int
    ) -> None:
        self._beams, self._follow, self._max_tokens = beams, follow, max_tokens
        self.live: list[Hypothesis[P]] = [Hypothesis((), 0.0, progress)]
        # At most num_beams, the best first.
        self._finished: list[Hypothesis[P]] = []

    @property
    def is_over(self) -> bool:
        """Whether the best hypothesis is known."""
        if not self.live:
            return True
        if len(self._finished) < self._beams.num_beams:
            return False
        return self._scored(self.live[0]).score <= self._finished[-1].score

    @property
    def best(self) -> Hypothesis[P]:
        """The best that is finished; once the search is over there is one."""
        return self._finished[0]

    @property
    def agreed(self) -> Sequence[Step]:
        """The steps that all hypotheses begin with, and so the best one will too."""
        first, *others = [each.steps for each in (*self.live, *self._finished)]
        places = zip(first, *others, strict=False)
        return [step for step, *_ in takewhile(_is_one_token, places)]

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> None:
        """Go on by a token.

        Args:
            candidates: after each of ``live``, the likeliest first.
        """
        num_beams, n_tokens = self._beams.num_beams, 1 + len(self.live[0].steps)
        every = [
            _longer(hypothesis, row, candidate)
            for hypothesis, row in zip(self.live, candidates, strict=True)
            for candidate in row
        ]
        every.sort(key=attrgetter("sum"), reverse=True)
        live: list[Hypothesis[P]] = []
        for rank, each in enumerate(every):
            progress = self._follow(each.progress, each.steps[-1].token)
            if progress is None or n_tokens == self._max_tokens:
                if rank < num_beams:
                    self._finished.append(self._scored(each))
            else:
                live.append(Hypothesis(each.steps, each.sum, progress))
            if rank + 1 >= num_beams and len(live) == num_beams:
                break
        self.live = live
        self._finished.sort(key=attrgetter("score"), reverse=True)
        del self._finished[num_beams:]

    def _scored(self, each: Hypothesis[P]) -> Hypothesis[P]:
        score = each.sum / len(each.steps) ** self._beams.length_penalty
        return Hypothesis(each.steps, each.sum, each.progress, score)


def _longer(
    hypothesis: Hypothesis[P], row: Sequence[Candidate], candidate: Candidate
) -> Hypothesis[P]:
    token, log_probability = candidate
    others = islice((odds for other, odds in row if other != token), 1)
    margin = exp(log_probability) - sum(map(exp, others))
    step = Step(token, log_probability, margin)
    return Hypothesis(
        (*hypothesis.steps, step), hypothesis.sum + log_probability, hypothesis.progress
    )


def _is_one_token(steps: Sequence[Step]) -> bool:
    return len({step.token for step in steps}) == 1
