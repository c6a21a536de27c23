"""AlignAtt: write while the model attends to source that was read some time ago."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import (
    Action,
    Head,
    Needs,
    Policy,
    Progress,
    Proposal,
    once_read,
    require_count,
)


@dataclass(frozen=True)
class AlignAtt(Policy):
    """Write a word unless its attention is strongest on one of the last f source words.

    A word that is translated from the newest source words may still change with the next ones
    (Papi et al. 2023, "AlignAtt", where f counts frames of speech).

    Args:
        f: how many of the newest source words must not be attended to most; 0 or more.
        min_words: source words to read before the first word is proposed.
        heads: (layer, head) pairs, both from 0, whose mean attention counts; by default those
            that ``mlx-simul calibrate`` stored with the model.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    f: int = 1
    min_words: int = 1
    heads: tuple[Head, ...] | None = None

    def __post_init__(self) -> None:
        require_count("f", self.f, least=0)
        require_count("min_words", self.min_words)
        if self.heads is not None and not _are_heads(self.heads):
            raise InvalidOptionError(
                f"heads must be (layer, head) pairs, at least one, got {self.heads!r}; None takes "
                "the heads that the model was calibrated with."
            )

    @property
    def needs(self) -> Needs:
        """One word at a time, and where its attention falls."""
        return Needs(lookahead_words=1, attention=True, heads=self.heads)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(self, progress: Progress, proposal: Proposal, memory: None) -> tuple[int, None]:
        """The word stands unless its attention is strongest on one of the newest f words."""
        attention = proposal.words[0].attention
        strongest = max(range(len(attention)), key=attention.__getitem__)
        return int(strongest < len(attention) - self.f), None


def _are_heads(value: object) -> bool:
    if not isinstance(value, tuple) or not value:
        return False
    return all(isinstance(head, tuple) and list(map(type, head)) == [int, int] for head in value)
