"""Read n words, write m, and so on."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.policies.base import Action, Policy, Progress, once_read, require_count


@dataclass(frozen=True)
class ReadNWriteM(Policy):
    """Read n words, then write m, in turn.

    Args:
        n: source words read at a time, at least 1.
        m: target words written at a time, at least 1.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        require_count("n", self.n)
        require_count("m", self.m)

    def decide(self, progress: Progress) -> Action:
        """WRITE once n segments are read for each m words begun."""
        return once_read(progress, self.n * (progress.target_words_generated // self.m + 1))
