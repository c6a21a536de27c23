"""Families whose checkpoints, as transformers writes them, hold weights unlike those mlx-lm
reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import mlx.core as mx
from mlx_lm.models import falcon_h1
from mlx_lm.models.activations import swiglu

from mlx_simul.archs.surgery import Repair, Surgery

Weights: TypeAlias = dict[str, mx.array]


def reading(named_as_here: Callable[[Any, Weights], Weights]) -> type:
    """Mixed into a model's class, lets it read what transformers writes under other names.

    Args:
        named_as_here: from the model and a checkpoint's weights, those that mlx-lm's ``sanitize``
            knows.
    """

    class Reading:
        def sanitize(self, weights: Weights) -> Weights:
            stock: Any = super()
            return stock.sanitize(named_as_here(self, weights))

    return Reading


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """Replace parts of the names of weights."""
    found = {}
    for name, weight in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = weight
    return found


def _gpt2(model: Any, weights: Weights) -> Weights:
    return renamed(weights, {"transformer.": ""})


class NanoChatWeights:
    """Reads a checkpoint of transformers as well."""

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


class Gemma3nWeights:
    """mlx-lm's Gemma 3n has weights for keys and values that no layer uses."""

    model: Any
    layers: list[Any]

    def sanitize(self, weights: Weights) -> Weights:
        stock: Any = super()
        found = stock.sanitize(weights)
        text = self.model.language_model
        for i in range(text.first_kv_shared_layer_idx, len(self.layers)):
            for part in ("k_proj", "v_proj", "k_norm"):
                unused = self.layers[i].self_attn[part].weight
                name = f"model.language_model.layers.{i}.self_attn.{part}.weight"
                found.setdefault(name, mx.zeros_like(unused))
        return found


class FalconH1Attention(falcon_h1.FalconH1Attention):
    """Keys and values have multipliers, which mlx-lm leaves out.

    It folds others into the weights; these are applied here, because a checkpoint that mlx-lm
    converted does not show whether they are in it. That of the values is applied to the output,
    which comes to the same, as no published Falcon-H1 has biases.
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


def _falcon_h1(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    args = model.args
    for layer in model.layers:
        attention: Any = layer.self_attn
        surgery.exchange(attention, FalconH1Attention)
        surgery.put(attention, "scale", attention.scale * args.key_multiplier)
        surgery.put(attention, "value_multiplier", args.attention_in_multiplier)
        if args.mamba_rms_norm:
            surgery.exchange(layer.mamba.norm, FalconH1Norm)


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


class Qwen3_5MoeWeights:
    """transformers writes the experts one by one."""

    language_model: Any

    def sanitize(self, weights: Weights) -> Weights:
        """Stack them."""
        stock: Any = super()
        found = stock.sanitize(weights)
        n_experts = self.language_model.args.num_experts
        for first in [name for name in found if ".mlp.experts.0." in name]:
            names = [first.replace(".experts.0.", f".experts.{e}.") for e in range(n_experts)]
            stacked = mx.stack([found.pop(name) for name in names])
            found[first.replace(".experts.0.", ".switch_mlp.")] = stacked
        return found


NAMES = "mlx-lm does not know the names that transformers writes."

REPAIRS = {
    "falcon_h1": Repair(
        "mlx-lm leaves out the multipliers of keys and values, and normalises over all heads.",
        _falcon_h1,
    ),
    "gemma3n": Repair(
        "mlx-lm wants weights that no layer uses and that transformers does not write.",
        weights=Gemma3nWeights,
    ),
    "gpt2": Repair(NAMES, weights=reading(_gpt2)),
    "lfm2-vl": Repair(NAMES, weights=reading(_lfm2_vl)),
    "nanochat": Repair(NAMES, weights=NanoChatWeights),
    "qwen3_5_moe": Repair(
        "mlx-lm does not read experts that are written one by one.", weights=Qwen3_5MoeWeights
    ),
    "qwen3_vl_moe": Repair(
        "mlx-lm does not read experts as transformers 5.23 turns them.",
        weights=reading(_qwen3_vl_moe),
    ),
}
