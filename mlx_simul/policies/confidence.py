"""Confidence: write while the model is sure of its words."""

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
    require_share,
)


@dataclass(frozen=True)
class Confidence(Policy):
    """Write a word if each of its tokens is likelier than any other token by a margin.

    Args:
        margin: how much likelier each token must be than the likeliest other, from 0 to 1.
        min_words: source words to read before the first word is proposed.
        max_lag: words of speech (:mod:`mlx_simul.text.speech`) by which the target may lag behind
            the source; beyond that a word is written however unsure the model is. ``None`` for
            no such limit.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    margin: float = 0.5
    min_words: int = 1
    max_lag: int | None = 3

    def __post_init__(self) -> None:
        require_share("margin", self.margin)
        require_count("min_words", self.min_words)
        if self.max_lag is not None:
            require_count("max_lag", self.max_lag)

    @property
    def needs(self) -> Needs:
        """One word at a time, and how sure the model is of it."""
        return Needs(lookahead_words=1, probabilities=True)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(self, progress: Progress, proposal: Proposal, memory: None) -> tuple[int, None]:
        """The word stands if its smallest margin is wide enough or the target lags too far."""
        lag = progress.source_speech - progress.target_speech
        is_late = self.max_lag is not None and lag >= self.max_lag
        return int(is_late or min(proposal.words[0].margins) >= self.margin), None
