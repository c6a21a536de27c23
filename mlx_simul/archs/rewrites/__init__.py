"""Corrections of mlx-lm's models that compute something other than what they were trained for.

The modules of :data:`HOMES` hold ``REPAIRS``, a :class:`~mlx_simul.archs.surgery.Repair` by model
type. What they correct was found by comparing with transformers; the parity tests fail without
them. Each reads three kinds of weights alike: transformers', those that stock mlx-lm has made of
them, and its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_simul.archs.surgery import Repair

_HOMES = {
    "activations": "gemma gpt_bigcode gpt_neox starcoder2",
    "heads": "glm gpt_oss llama4_text",
    "recent": "muse_glimmer olmo_hybrid plamo3",
    "routing": "ernie4_5_moe jamba",
    "scales": """
        glm4_moe_lite granitemoehybrid longcat_flash mamba2 minicpm minicpm3 youtu_llm
    """,
    "weights": """
        falcon_h1 gemma3n gpt2 lfm2-vl nanochat qwen3_5_moe qwen3_vl_moe
    """,
    "windows": """
        dots1 gemma2 mimo_v2_flash mistral mixtral phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    """,
}
HOMES = {model_type: home for home, types in _HOMES.items() for model_type in types.split()}
"""The module here that holds the repair of a model type."""


def find(model_type: str) -> Repair | None:
    """How a type's model is put right; None if nothing is known to be wrong in it."""
    if model_type not in HOMES:
        return None
    return import_module(f"{__name__}.{HOMES[model_type]}").REPAIRS[model_type]
