"""Families that rotate short texts and long ones by other frequencies (LongRoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any


class ShortFactors:
    """Mixed into a model's arguments, gives it the frequencies of texts of the original length.

    Such a checkpoint was trained with ``short_factor`` up to ``original_max_position_embeddings``
    (4,096 tokens for Phi 3) and with ``long_factor`` beyond; mlx-lm always takes the latter. Cached
    keys cannot change over while the text grows, so a stream keeps the short ones, at any length.
    Who reads longer texts throughout loads the model with ``model_config={"rope_scaling": ...}``,
    the long factors in the place of the short ones.
    """

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> Any:
        """The arguments of a config, with what is short in the places where mlx-lm looks."""
        scaling = params.get("rope_scaling") or {}
        short = {
            f"long_{name}": scaling[f"short_{name}"]
            for name in ("factor", "mscale")
            if f"short_{name}" in scaling
        }
        if short:
            params = {**params, "rope_scaling": {**scaling, **short}}
        parent: Any = super()
        return parent.from_dict(params)


def with_short_factors(module: ModuleType) -> Any:
    """One of mlx-lm's modules, ``Model`` and ``ModelArgs``, with such arguments."""
    args_class = type("ModelArgs", (ShortFactors, module.ModelArgs), {})
    return SimpleNamespace(Model=module.Model, ModelArgs=args_class)
