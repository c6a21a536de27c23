"""Read everything first."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.policies.base import Action, Progress


@dataclass(frozen=True)
class WholeSource:
    """Write nothing before the source has ended: offline translation, the upper end of a curve."""

    def decide(self, progress: Progress) -> Action:
        """READ; when nothing is left, that is taken as WRITE."""
        return Action.READ
