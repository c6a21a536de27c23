"""Families that choose or weigh their experts differently from mlx-lm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import ernie4_5_moe, jamba

from mlx_simul.archs.rewrites.weights import Weights
from mlx_simul.archs.surgery import Repair, Surgery


class ErnieExperts(ernie4_5_moe.Ernie4_5_MoeMLP):
    """Experts are chosen by the corrected scores, which mlx-lm drops from the checkpoint."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self.e_score_correction_bias = mx.zeros((args.moe_num_experts,))

    def __call__(self, x: mx.array) -> mx.array:
        scores = self.gate_act(self.gate(x).astype(mx.float32))
        corrected = scores + self.e_score_correction_bias
        chosen = mx.argpartition(-corrected, kth=self.k - 1, axis=-1)[..., : self.k]
        weights = mx.take_along_axis(scores, mx.stop_gradient(chosen), axis=-1)
        weights = weights / mx.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
        routed = self.switch_mlp(x, chosen) * weights[..., None]
        y = routed.sum(axis=-2).astype(x.dtype)
        return y if self.shared_experts is None else y + self.shared_experts(x)


class ErnieWeights:
    """Mixed into mlx-lm's ERNIE 4.5, gives it such experts."""

    layers: list[Any]

    def __init__(self, args: Any) -> None:
        stock: Any = super()
        stock.__init__(args)
        for layer in self.layers:
            if isinstance(layer.mlp, ernie4_5_moe.Ernie4_5_MoeMLP):
                layer.mlp = ErnieExperts(args)

    def sanitize(self, weights: Weights) -> Weights:
        """Keep the corrections, under our name and as one row; mlx-lm converts without them."""
        corrections = {
            name.replace("moe_statics.", ""): weight.reshape(-1)
            for name, weight in weights.items()
            if re.fullmatch(r"model\.layers\.\d+\.mlp\..*e_score_correction_bias", name)
        }
        stock: Any = super()
        found = stock.sanitize(weights) | corrections
        for i, layer in enumerate(self.layers):
            if isinstance(layer.mlp, ErnieExperts):
                name = f"model.layers.{i}.mlp.e_score_correction_bias"
                found.setdefault(name, layer.mlp.e_score_correction_bias)
        return found

    @property
    def cast_predicate(self) -> Callable[[str], bool]:
        """Whether a parameter may be cast; the corrections decide between close scores."""
        return lambda name: not name.endswith("e_score_correction_bias")


class JambaExperts(jamba.JambaSparseMoeBlock):
    """Experts are weighted by a softmax over all of them, not over the chosen ones."""

    def __call__(self, x: mx.array) -> mx.array:
        scores = mx.softmax(self.router(x), axis=-1, precise=True)
        k = self.num_experts_per_tok
        chosen = mx.stop_gradient(mx.argpartition(-scores, kth=k - 1, axis=-1)[..., :k])
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        return (self.switch_mlp(x, chosen) * weights[..., None]).sum(axis=-2)


def _jamba(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        if isinstance(layer.feed_forward, jamba.JambaSparseMoeBlock):
            surgery.exchange(layer.feed_forward, JambaExperts)


REPAIRS = {
    "ernie4_5_moe": Repair(
        "mlx-lm drops the corrections by which experts are chosen.",
        weights=ErnieWeights,
        lost_because="mlx-lm drops e_score_correction_bias, by which its experts are chosen",
    ),
    "jamba": Repair(
        "mlx-lm weights experts by a softmax over the chosen ones, not over all.", _jamba
    ),
}
