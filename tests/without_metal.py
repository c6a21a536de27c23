"""What mlx-lm's Metal kernels compute, in plain MLX, so that their families run anywhere.

Shape legend: B batch, H heads, K kv heads or experts chosen, L tokens, D head or hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import bitlinear_layers, muse_spark


def bitlinear(
    inputs: list[mx.array], template: list[tuple[str, Any]], **launch: Any
) -> list[mx.array]:
    """Products with weights of -1, 0 and 1, of which four rows share a byte."""
    x, packed, scale = inputs
    rows = [((packed >> shift) & 3).astype(mx.float32) - 1 for shift in (0, 2, 4, 6)]
    factor = 1 / scale if dict(template)["invert_weight_scales"] else scale
    product = x.astype(mx.float32) @ mx.concatenate(rows).T * factor
    return [product.astype(x.dtype)]


def qk_norm(
    qkvg: mx.array, *, n_heads: int, n_kv_heads: int, head_dim: int, eps: float, query_scale: float
) -> list[mx.array]:
    """Queries (B, L, H, D) and keys (B, L, K, D), normalised; queries scaled."""
    wanted = qkvg[..., : (n_heads + n_kv_heads) * head_dim]
    heads = wanted.reshape(*qkvg.shape[:-1], n_heads + n_kv_heads, head_dim)
    normed = mx.fast.rms_norm(heads, None, eps)
    queries = (normed[..., :n_heads, :].astype(mx.float32) * query_scale).astype(qkvg.dtype)
    return [queries, normed[..., n_heads:, :]]


def qk_norm_rope(
    qkvg: mx.array, *, head_dim: int, rope_base: float, offset: int | mx.array, **norm: Any
) -> list[mx.array]:
    """The same, rotated from position ``offset`` on."""

    def rotated(x: mx.array) -> mx.array:
        turned = mx.fast.rope(
            x.swapaxes(1, 2), head_dim, traditional=True, base=rope_base, scale=1.0, offset=offset
        )
        return turned.swapaxes(1, 2)

    return [rotated(x) for x in qk_norm(qkvg, head_dim=head_dim, **norm)]


def rms_norm_sigmoid_gate(x: mx.array, gate: mx.array, *, eps: float) -> mx.array:
    """Attention's output (B, H, L, D), normalised by head and gated, as (B, L, H * D)."""
    normed = mx.fast.rms_norm(x.swapaxes(1, 2).astype(mx.float32), None, eps)
    flat = normed.reshape(gate.shape)
    return (flat * mx.sigmoid(gate.astype(mx.float32))).astype(x.dtype)


def norm_add_norm(
    branch: mx.array,
    stream: mx.array,
    *,
    alpha: mx.array,
    beta: mx.array,
    post_weight: mx.array | None,
    post_eps: float,
    next_norm: nn.RMSNorm | None,
) -> tuple[mx.array, mx.array | None]:
    """Normalise a branch, add it to the stream, and normalise the sum for what comes next."""
    scaled = branch if post_weight is None else post_weight.astype(branch.dtype) * branch
    total = alpha * stream + beta * mx.fast.rms_norm(scaled, None, post_eps).astype(mx.float32)
    if next_norm is None:
        return total, None
    return total, next_norm(total).astype(branch.dtype)


def expert_routing(
    logits: mx.array,
    expert_bias: mx.array,
    *,
    top_k: int,
    multiplier: float,
    score_eps: float,
    route_scale: float,
) -> list[mx.array]:
    """The experts of each token and their weights, (..., K)."""
    scores = mx.sigmoid(logits * multiplier)
    chosen = mx.argsort(-(scores + expert_bias), axis=-1)[..., :top_k]
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    total = weights.sum(axis=-1, keepdims=True) + score_eps
    return [chosen, weights / total * route_scale]


def post_expert_norm_combine(
    experts: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float
) -> mx.array:
    """What the experts say, (..., K, D), normalised and added up with their weights."""
    scaled = experts.astype(mx.float32) * norm_weight.astype(mx.float32)
    normed = mx.fast.rms_norm(scaled, None, eps)
    return (normed * weights[..., None]).sum(axis=-2).astype(experts.dtype)


IN_MUSE_SPARK: Mapping[str, Callable[..., Any]] = {
    "qk_norm": qk_norm,
    "qk_norm_rope": qk_norm_rope,
    "rms_norm_sigmoid_gate": rms_norm_sigmoid_gate,
    "norm_add_norm": norm_add_norm,
    "expert_routing": expert_routing,
    "post_expert_norm_combine": post_expert_norm_combine,
}


def replace_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Metal let mlx-lm's models use these; and let Muse Spark round nothing to bfloat16."""
    if not mx.metal.is_available():
        monkeypatch.setattr(bitlinear_layers, "_bitlinear_kernel", bitlinear)
        for name, plain in IN_MUSE_SPARK.items():
            monkeypatch.setattr(muse_spark, name, plain)
    full_precision = SimpleNamespace(**{**vars(mx), "bfloat16": mx.float32})
    monkeypatch.setattr(muse_spark, "mx", full_precision)
