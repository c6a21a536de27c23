"""Any policy, shown more than it needs: for those who want to look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_simul.policies.base import Action, Head, JudgingPolicy, Needs, Policy, Progress, Proposal


@dataclass(frozen=True)
class Shown:
    """Decides as another policy does, and has the attention shown of each word that is written.

    Args:
        policy: the policy that decides.
        heads: as in :class:`~mlx_simul.policies.Needs`.
    """

    policy: Policy
    heads: tuple[Head, ...] | None = None

    @property
    def needs(self) -> Needs:
        """What the policy needs, and attention."""
        own = self.policy.needs if isinstance(self.policy, JudgingPolicy) else Needs(0)
        heads = self.heads or own.heads
        return Needs(own.lookahead_words, True, True, heads, own.wait_token)

    def decide(self, progress: Progress) -> Action:
        """What the policy decides."""
        return self.policy.decide(progress)

    def judge(self, progress: Progress, proposal: Proposal, memory: Any) -> tuple[int, Any]:
        """What the policy judges; one that only counts is not asked, and all stands."""
        if isinstance(self.policy, JudgingPolicy):
            return self.policy.judge(progress, proposal, memory)
        return len(proposal.words), memory
