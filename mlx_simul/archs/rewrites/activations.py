"""Families whose checkpoints choose an activation that mlx-lm fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma, gpt_bigcode, gpt_neox, starcoder2
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_simul.archs.rewrites.windows import everywhere, put_windows
from mlx_simul.archs.surgery import Repair, Surgery
from mlx_simul.errors import InvalidOptionError

_ACTIVATIONS: Mapping[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_fast": nn.gelu_approx,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """The function of that name in transformers.

    Raises:
        InvalidOptionError: if there is none here.
    """
    if name not in _ACTIVATIONS:
        raise InvalidOptionError(
            f"activation {name!r} of the config is not known; known are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


class GatedMLP(gemma.MLP):
    """Gemma was trained with the approximation of GELU."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.gelu_approx(self.gate_proj(x)) * self.up_proj(x))


def _gemma(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for layer in model.layers:
        surgery.exchange(layer.mlp, GatedMLP)


@cache
def _chosen(mlp_class: type[nn.Module], first: str, second: str, name: str) -> type[nn.Module]:
    """An MLP of two linear layers, of these names, with an activation between them."""
    act = activation(name)

    class ChosenMLP(mlp_class):
        def __call__(self, x: mx.array) -> mx.array:
            return self[second](act(self[first](x)))

    return ChosenMLP


def _gpt_neox(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    name = config.get("hidden_act", "gelu")
    for layer in model.layers:
        kind = _chosen(gpt_neox.MLP, "dense_h_to_4h", "dense_4h_to_h", name)
        surgery.exchange(layer.mlp, kind)


def _starcoder2(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    name = config.get("hidden_act", "gelu_pytorch_tanh")
    for layer in model.layers:
        surgery.exchange(layer.mlp, _chosen(starcoder2.MLP, "c_fc", "c_proj", name))
    put_windows(everywhere)(surgery, model, config)


class HeadByHead(gpt_bigcode.Attention):
    """Without multi-query attention the rows are query, key and value of a head, then the next."""

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        heads = self.c_attn(x).reshape(*x.shape[:2], self.n_heads, -1).swapaxes(1, 2)
        queries, keys, values = mx.split(heads, 3, axis=-1)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        output = scaled_dot_product_attention(
            queries, keys, values, cache=cache, scale=self.scale, mask=mask
        )
        return self.c_proj(output.swapaxes(1, 2).reshape(x.shape))


def _gpt_bigcode(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    name = config.get("activation_function", "gelu_pytorch_tanh")
    for layer in model.layers:
        surgery.exchange(layer.mlp, _chosen(gpt_bigcode.MLP, "c_fc", "c_proj", name))
        if not model.args.multi_query:
            surgery.exchange(layer.attn, HeadByHead)


REPAIRS = {
    "gemma": Repair("mlx-lm computes GELU exactly, not by the approximation.", _gemma),
    "gpt_bigcode": Repair(
        "mlx-lm ignores activation_function, and splits many key heads in another order.",
        _gpt_bigcode,
        reads=("activation_function",),
    ),
    "gpt_neox": Repair("mlx-lm ignores hidden_act.", _gpt_neox, reads=("hidden_act",)),
    "starcoder2": Repair(
        "mlx-lm ignores hidden_act and sliding_window.",
        _starcoder2,
        reads=("hidden_act", "sliding_window"),
    ),
}
