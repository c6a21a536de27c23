"""Hold-n: write a hypothesis but for its last words."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.policies.base import Action, Needs, Progress, Proposal, once_read, require_count


@dataclass(frozen=True)
class HoldN:
    """Translate to the end after each read; write all but the last n words (Liu et al. 2020).

    Args:
        n: words held back, from 0 on.
        min_words: source words to read before the first hypothesis.

    Raises:
        InvalidOptionError: for anything else.
    """

    n: int = 2
    min_words: int = 1

    def __post_init__(self) -> None:
        require_count("n", self.n, least=0)
        require_count("min_words", self.min_words)

    @property
    def needs(self) -> Needs:
        """A hypothesis to its end."""
        return Needs(lookahead_words=None)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(self, progress: Progress, proposal: Proposal, memory: None) -> tuple[int, None]:
        """All words but n."""
        return max(0, len(proposal.words) - self.n), None
