"""Hold-n: write all of a hypothesis except its last words."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.policies.base import (
    Action,
    Needs,
    Policy,
    Progress,
    Proposal,
    once_read,
    require_count,
)


@dataclass(frozen=True)
class HoldN(Policy):
    """After each read translate to the end; write all but the last n words (Liu et al. 2020).

    Args:
        n: words held back, at least 0.
        min_words: source words to read before the first hypothesis.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    n: int = 2
    min_words: int = 1

    def __post_init__(self) -> None:
        require_count("n", self.n, least=0)
        require_count("min_words", self.min_words)

    @property
    def needs(self) -> Needs:
        """A whole hypothesis."""
        return Needs(lookahead_words=None)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(self, progress: Progress, proposal: Proposal, memory: None) -> tuple[int, None]:
        """All words stand except the last n."""
        return max(0, len(proposal.words) - self.n), None
