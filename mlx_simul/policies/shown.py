"""Any policy, shown more than it needs, so that a user can look at the attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mlx_simul.policies.base import Action, Head, Needs, Policy, Progress, Proposal


@dataclass(frozen=True)
class Shown(Policy):
    """Decides as another policy does, and shows the attention of each word that is written.

    Args:
        policy: the policy that decides.
        heads: as in :class:`~mlx_simul.policies.Needs`; by default those of the policy.
    """

    policy: Policy
    heads: tuple[Head, ...] | None = None

    @property
    def needs(self) -> Needs:
        """What the policy needs, and the probabilities and attention too."""
        own = self.policy.needs
        return replace(own, probabilities=True, attention=True, heads=self.heads or own.heads)

    def decide(self, progress: Progress) -> Action:
        """Decide as the policy does."""
        return self.policy.decide(progress)

    def judge(self, progress: Progress, proposal: Proposal, memory: Any) -> tuple[int, Any]:
        """Judge as the policy does."""
        return self.policy.judge(progress, proposal, memory)
