"""Families whose checkpoints, as transformers writes them, hold other weights than mlx-lm reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx
from mlx_lm.models import falcon_h1, gemma3n, gpt2, nanochat, qwen3_5_moe, qwen3_vl_moe
from mlx_lm.models.activations import swiglu

from mlx_simul.archs.base import ModelClasses

Weights: TypeAlias = dict[str, mx.array]

lfm2_vl: Any = import_module("mlx_lm.models.lfm2-vl")


def with_weights(module: ModuleType, named_as_here: Callable[[Any, Weights], Weights]) -> Any:
    """A model class that also reads what transformers writes, under other names.

    Args:
        module: of mlx-lm, with ``Model``.
        named_as_here: from the model and a checkpoint's weights, those that ``sanitize`` knows.
    """

    class Model(module.Model):
        def sanitize(self, weights: Weights) -> Weights:
            return super().sanitize(named_as_here(self, weights))

    return Model


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """Replace parts of the names of weights."""
    found = {}
    for name, weight in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = weight
    return found


class GPT2(gpt2.Model):
    """mlx-lm's GPT-2, of which it knows the oldest checkpoints' names alone."""

    def sanitize(self, weights: Weights) -> Weights:
        return super().sanitize(renamed(weights, {"transformer.": ""}))


class NanoChat(nanochat.Model):
    """mlx-lm's nanochat, from a checkpoint of transformers as well."""

    def sanitize(self, weights: Weights) -> Weights:
        names = {
            "model.embed_tokens.": "transformer.wte.",
            "model.layers.": "transformer.h.",
            ".self_attn.": ".attn.",
            ".q_proj.": ".c_q.",
            ".k_proj.": ".c_k.",
            ".v_proj.": ".c_v.",
            ".o_proj.": ".c_proj.",
            ".fc1.": ".c_fc.",
            ".fc2.": ".c_proj.",
        }
        return renamed(weights, names)


class Gemma3n(gemma3n.Model):
    """mlx-lm's Gemma 3n, which has weights for keys and values that no layer uses."""

    def sanitize(self, weights: Weights) -> Weights:
        found = super().sanitize(weights)
        text = self.model.language_model
        for i in range(text.first_kv_shared_layer_idx, len(self.layers)):
            for part in ("k_proj", "v_proj", "k_norm"):
                unused = self.layers[i].self_attn[part].weight
                name = f"model.language_model.layers.{i}.self_attn.{part}.weight"
                found.setdefault(name, mx.zeros_like(unused))
        return found


class FalconH1Attention(falcon_h1.FalconH1Attention):
    """Keys and values have multipliers, which mlx-lm leaves out.

    It folds others into the weights; these are applied here, for in a checkpoint that it converted
    it would not show whether they are in. That of the values is applied to the output, which comes
    to the same, as no published Falcon-H1 has biases.
    """

    value_multiplier: float

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        return super().__call__(x, mask, cache) * self.value_multiplier


class FalconH1Norm(falcon_h1.FalconH1RMSNormGated):
    """The gated norm goes over each group of heads, not over all of them."""

    def __call__(self, hidden_states: mx.array, gate: mx.array | None = None) -> mx.array:
        if gate is not None and not self.norm_before_gate:
            hidden_states = swiglu(gate, hidden_states)
        groups = mx.unflatten(hidden_states, -1, (self.n_groups, -1))
        hidden_states = self.weight * mx.fast.rms_norm(groups, None, self.variance_epsilon).flatten(
            -2
        )
        if gate is not None and self.norm_before_gate:
            hidden_states = swiglu(gate, hidden_states)
        return hidden_states


class FalconH1(falcon_h1.Model):
    """mlx-lm's Falcon-H1 with both."""

    def __init__(self, args: falcon_h1.ModelArgs) -> None:
        super().__init__(args)
        for layer in self.layers:
            attention: Any = layer.self_attn
            attention.__class__ = FalconH1Attention
            attention.scale *= args.key_multiplier
            attention.value_multiplier = args.attention_in_multiplier
            if args.mamba_rms_norm:
                norm: Any = layer.mamba.norm
                norm.__class__ = FalconH1Norm


def _lfm2_vl(model: Any, weights: Weights) -> Weights:
    text = {
        name.replace("model.language_model.", "language_model.model."): weight
        for name, weight in weights.items()
        if "language_model." in name
    }
    return model.language_model.sanitize(text)


def _qwen3_vl_moe(model: Any, weights: Weights) -> Weights:
    """Experts (E, in, out), as they were published; transformers 5.23 writes (E, out, in)."""
    config = model.args.text_config
    hidden, inner = config["hidden_size"], config["moe_intermediate_size"]
    written = {"experts.gate_up_proj": [2 * inner, hidden], "experts.down_proj": [hidden, inner]}
    turned = {
        name: weight.swapaxes(-1, -2)
        for name, weight in weights.items()
        for ending, shape in written.items()
        if name.endswith(ending) and list(weight.shape[1:]) == shape
    }
    return weights | turned


class Qwen3_5Moe(qwen3_5_moe.Model):
    """transformers writes the experts one by one."""

    def sanitize(self, weights: Weights) -> Weights:
        """Stack them."""
        found = super().sanitize(weights)
        n_experts = self.language_model.args.num_experts
        for first in [name for name in found if ".mlp.experts.0." in name]:
            names = [first.replace(".experts.0.", f".experts.{e}.") for e in range(n_experts)]
            stacked = mx.stack([found.pop(name) for name in names])
            found[first.replace(".experts.0.", ".switch_mlp.")] = stacked
        return found


CLASSES: dict[str, ModelClasses] = {
    "falcon_h1": (FalconH1, falcon_h1.ModelArgs),
    "gemma3n": (Gemma3n, gemma3n.ModelArgs),
    "gpt2": (GPT2, gpt2.ModelArgs),
    "lfm2-vl": (with_weights(lfm2_vl, _lfm2_vl), lfm2_vl.ModelArgs),
    "nanochat": (NanoChat, nanochat.ModelArgs),
    "qwen3_5_moe": (Qwen3_5Moe, qwen3_5_moe.ModelArgs),
    "qwen3_vl_moe": (with_weights(qwen3_vl_moe, _qwen3_vl_moe), qwen3_vl_moe.ModelArgs),
}
