"""Apple's foundation model: its last layers use the keys and values of one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import afm7
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_simul.archs.base import Architecture
from mlx_simul.archs.surgery import Repair, Surgery


class ReusingAttention(afm7.KVReuseAttention):
    """Is told the position of its queries; mlx-lm's counts the keys of either group."""

    position: int = 0

    def __call__(self, x: mx.array, keys: mx.array, values: mx.array, mask: Any = None) -> mx.array:
        B, L, _ = x.shape
        queries = self.q_proj(x).reshape(B, L, self.n_heads, -1).transpose(0, 2, 1, 3)
        queries = self.q_norm(self.rope(queries, offset=self.position))
        output = scaled_dot_product_attention(
            queries, keys, values, cache=None, scale=self.scale, mask=mask
        )
        return self.out_proj(output.transpose(0, 2, 1, 3).reshape(B, L, -1))


class AFMModel(afm7.AFMModel):
    """Tells the reusing layers where the pass begins."""

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        for layer in self.kv_reuse_layers:
            layer.self_attn.position = 0 if cache is None else cache[0].offset
        return super().__call__(inputs, cache)


def _tell_positions(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    surgery.exchange(model.model, AFMModel)
    for layer in model.model.kv_reuse_layers:
        surgery.exchange(layer.self_attn, ReusingAttention)


ARCHITECTURES = {
    "afm7": Architecture(
        "afm7",
        repair=Repair(
            "mlx-lm takes the number of keys for the position of the queries.", _tell_positions
        ),
        cached_layers=lambda model: model.model.layers,
        positions_fixed_because="its keys are rounded to 8 bits after RoPE",
        quantizes_kv=False,
    )
}
