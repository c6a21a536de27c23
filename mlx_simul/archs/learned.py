"""Families that add a learned embedding of the position to that of the token."""

from __future__ import annotations

from mlx_simul.archs import BUILT_IN
from mlx_simul.archs.base import Architecture

ARCHITECTURES = {
    model_type: Architecture(
        model_type,
        rope=lambda layer: None,
        positions_fixed_because="positions are learned, and part of every hidden state",
        positions_end=True,
    )
    for model_type in BUILT_IN["learned"]
}
