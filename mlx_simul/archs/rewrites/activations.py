"""Families whose checkpoints choose an activation that mlx-lm fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma, gpt_bigcode, gpt_neox, starcoder2
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_simul.archs.base import ModelClasses
from mlx_simul.archs.rewrites.windows import everywhere, with_windows
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


class Gemma(gemma.Model):
    """mlx-lm's Gemma with that."""

    def __init__(self, args: gemma.ModelArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            layer.mlp.__class__ = GatedMLP


class ChosenMLP(nn.Module):
    """Two linear layers, with the activation of the config between them."""

    act: Callable[[mx.array], mx.array]
    c_fc: nn.Linear
    c_proj: nn.Linear

    def __call__(self, x: mx.array) -> mx.array:
        return self.c_proj(self.act(self.c_fc(x)))


class ChosenNeoXMLP(gpt_neox.MLP):
    """The same, as GPT-NeoX names them."""

    act: Callable[[mx.array], mx.array]

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(x)))


def choose_activation(model: Any, mlp_class: type[nn.Module], name: str) -> None:
    """Give the MLPs of a model the activation of that name."""
    for layer in model.layers:
        layer.mlp.__class__ = mlp_class
        layer.mlp.act = activation(name)


@dataclass
class GPTNeoXArgs(gpt_neox.ModelArgs):
    """mlx-lm's arguments and the activation."""

    hidden_act: str = "gelu"


class GPTNeoX(gpt_neox.Model):
    """mlx-lm's GPT-NeoX with the activation of the config."""

    def __init__(self, args: GPTNeoXArgs) -> None:
        super().__init__(args)
        choose_activation(self, ChosenNeoXMLP, args.hidden_act)


@dataclass
class Starcoder2Args(starcoder2.ModelArgs):
    """mlx-lm's arguments and the activation."""

    hidden_act: str = "gelu_pytorch_tanh"


class Starcoder2(starcoder2.Model):
    """mlx-lm's StarCoder 2 with the activation of the config."""

    def __init__(self, args: Starcoder2Args) -> None:
        super().__init__(args)
        choose_activation(self, ChosenMLP, args.hidden_act)


@dataclass
class GPTBigCodeArgs(gpt_bigcode.ModelArgs):
    """mlx-lm's arguments and the activation."""

    activation_function: str = "gelu_pytorch_tanh"


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


class GPTBigCode(gpt_bigcode.Model):
    """mlx-lm's GPTBigCode with the activation of the config, and with many key heads."""

    def __init__(self, args: GPTBigCodeArgs) -> None:
        super().__init__(args)
        choose_activation(self, ChosenMLP, args.activation_function)
        if not args.multi_query:
            for layer in self.layers:
                layer.attn.__class__ = HeadByHead


_STARCODER2 = SimpleNamespace(Model=Starcoder2, ModelArgs=Starcoder2Args)

CLASSES: dict[str, ModelClasses] = {
    "gemma": (Gemma, gemma.ModelArgs),
    "gpt_bigcode": (GPTBigCode, GPTBigCodeArgs),
    "gpt_neox": (GPTNeoX, GPTNeoXArgs),
    "starcoder2": with_windows(_STARCODER2, everywhere),
}
