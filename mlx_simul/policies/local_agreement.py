"""LocalAgreement: write what successive hypotheses agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from mlx_simul.policies.base import (
    Action,
    Needs,
    Policy,
    Progress,
    Proposal,
    once_read,
    require_count,
)

Words: TypeAlias = tuple[tuple[int, ...], ...]
# Target words written when a hypothesis was made, and the words it continued them with.
Hypothesis: TypeAlias = tuple[int, Words]


@dataclass(frozen=True)
class LocalAgreement(Policy):
    """After each read translate to the end; write the words that n successive hypotheses share.

    Hypotheses share the words that all of them begin with: of "the cat" and then "the cat sat" both
    "the" and "cat" stand. Every hypothesis continues the target written so far, so only the words
    after it are compared. A read after which the model would write nothing makes no hypothesis, and
    the hypotheses before and after it are successive. (Liu et al. 2020, "Low-latency
    sequence-to-sequence speech recognition and translation by partial hypothesis selection";
    Polák et al. 2022.)

    Args:
        n: hypotheses that must agree, at least 2.
        min_words: source words to read before the first hypothesis.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    n: int = 2
    min_words: int = 1

    def __post_init__(self) -> None:
        require_count("n", self.n, least=2)
        require_count("min_words", self.min_words)

    @property
    def needs(self) -> Needs:
        """A whole hypothesis."""
        return Needs(lookahead_words=None)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(
        self, progress: Progress, proposal: Proposal, memory: tuple[Hypothesis, ...] | None
    ) -> tuple[int, tuple[Hypothesis, ...]]:
        """The words that this hypothesis and the n - 1 before it share stand."""
        n_written = progress.target_words_generated
        newest = n_written, tuple(word.tokens for word in proposal.words)
        hypotheses = (*(memory or ()), newest)[-self.n :]
        if len(hypotheses) < self.n:
            return 0, hypotheses
        agreed = common_prefix([words[n_written - before :] for before, words in hypotheses])
        return agreed, hypotheses


def common_prefix(rows: Sequence[Words]) -> int:
    """Count the words that all rows begin with."""
    in_step = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, in_step))
