"""Families that cannot keep source and target apart: each read encodes the target again."""

from __future__ import annotations

from mlx_simul.archs import BUILT_IN
from mlx_simul.archs.base import Architecture

_RECURRENT = "its layers carry a recurrent state, in which source and target cannot be told apart"
_INDEXED = "its sparse attention picks what it sees by its place in mlx-lm's own cache"
_REASONS = {
    "deepseek_v32": _INDEXED,
    "deepseek_v41": "it compresses what it has seen by absolute position",
    "glm_moe_dsa": _INDEXED,
    "longcat_flash_ngram": "its embeddings depend on earlier tokens, whichever group they are in",
    "minimax_m3_vl": _INDEXED,
}

ARCHITECTURES = {
    model_type: Architecture(
        model_type, not_in_groups_because=_REASONS.get(model_type, _RECURRENT), quantizes_kv=False
    )
    for model_type in BUILT_IN["reencoded"]
}
