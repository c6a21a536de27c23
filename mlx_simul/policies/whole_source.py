"""Read the whole source first."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.policies.base import Action, Policy, Progress


@dataclass(frozen=True)
class WholeSource(Policy):
    """Write nothing before the source has ended: offline translation, the upper end of a curve."""

    def decide(self, progress: Progress) -> Action:
        """READ always; once nothing is left to read, that is taken as WRITE."""
        return Action.READ
