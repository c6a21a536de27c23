"""Families that normalise or scale differently from mlx-lm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import granitemoehybrid, mamba2, minicpm, minicpm3
from mlx_lm.models.activations import swiglu

from mlx_simul.archs.rewrites.longrope import take_short_factors
from mlx_simul.archs.rewrites.weights import Weights
from mlx_simul.archs.surgery import Repair, Surgery


def _latent_epsilon(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    for path, norm in model.named_modules():
        if path.endswith(("q_a_layernorm", "kv_a_layernorm")):
            surgery.put(norm, "eps", 1e-6)


def _by_groups(norm: Any, hidden_states: mx.array, gate: mx.array | None) -> mx.array:
    if gate is not None:
        hidden_states = swiglu(gate, hidden_states)
    groups = mx.unflatten(hidden_states, -1, (-1, norm.group_width))
    return norm.weight * mx.fast.rms_norm(groups, None, norm.eps).flatten(-2)


class MambaNorm(mamba2.MambaRMSNormGated):
    """Goes over each group of heads."""

    def __call__(self, hidden_states: mx.array, gate: mx.array | None = None) -> mx.array:
        return _by_groups(self, hidden_states, gate)


class GraniteNorm(granitemoehybrid.GraniteMoeHybridRMSNormGated):
    """Goes over each group of heads."""

    def __call__(self, hidden_states: mx.array, gate: mx.array | None = None) -> mx.array:
        return _by_groups(self, hidden_states, gate)


def _grouped_norm(kind: type) -> Callable[[Surgery, Any, Mapping[str, Any]], None]:
    def operate(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
        for layer in model.layers:
            mixer: Any = layer.get("mixer", layer.get("mamba"))
            if mixer is not None:
                surgery.exchange(mixer.norm, kind)
                width = mixer.intermediate_size // mixer.n_groups
                surgery.put(mixer.norm, "group_width", width)

    return operate


class MiniCPM(minicpm.Model):
    """Logits are scaled down with tied embeddings, too, which may be quantised."""

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        args = self.args
        hidden = self.model(inputs, cache) / (args.hidden_size / args.dim_model_base)
        if args.tie_word_embeddings:
            return self.model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)


class MiniCPMWeights:
    """With tied embeddings there is no output layer; mlx-lm always adds one."""

    args: minicpm.ModelArgs

    def sanitize(self, weights: Weights) -> Weights:
        if self.args.tie_word_embeddings:
            return {k: v for k, v in weights.items() if not k.startswith("lm_head.")}
        stock: Any = super()
        return stock.sanitize(weights)


def _minicpm(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    take_short_factors(surgery, model, config)
    surgery.exchange(model, MiniCPM)


class MiniCPM3(minicpm3.Model):
    """Logits are scaled down with tied embeddings, too."""

    def __call__(self, inputs: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        logits = super().__call__(inputs, mask, cache)
        if self.args.tie_word_embeddings:
            logits = logits / (self.args.hidden_size / self.args.dim_model_base)
        return logits


def _minicpm3(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    take_short_factors(surgery, model, config)
    _latent_epsilon(surgery, model, config)
    surgery.exchange(model, MiniCPM3)


class LongcatFlashWeights:
    """transformers writes projections for the experts that do nothing."""

    args: Any

    def sanitize(self, weights: Weights) -> Weights:
        """Leave them out."""
        first = self.args.n_routed_experts

        def does_nothing(name: str) -> bool:
            found = re.search(r"\.experts\.(\d+)\.", name)
            return found is not None and int(found[1]) >= first

        stock: Any = super()
        return stock.sanitize({k: v for k, v in weights.items() if not does_nothing(k)})


_EPSILON = "mlx-lm normalises latents with rms_norm_eps, transformers always with 1e-6."
_GROUPS = "mlx-lm's gated norms go over all heads, not over each group of them."

REPAIRS = {
    "glm4_moe_lite": Repair(_EPSILON, _latent_epsilon),
    "granitemoehybrid": Repair(_GROUPS, _grouped_norm(GraniteNorm)),
    "longcat_flash": Repair(_EPSILON, _latent_epsilon, weights=LongcatFlashWeights),
    "mamba2": Repair(_GROUPS, _grouped_norm(MambaNorm)),
    "minicpm": Repair(
        "mlx-lm does not scale the logits down with tied embeddings, and rotates all texts by the "
        "factors of long ones.",
        _minicpm,
        weights=MiniCPMWeights,
    ),
    "minicpm3": Repair(
        "mlx-lm does not scale the logits down with tied embeddings, normalises latents with "
        "another epsilon, and rotates all texts by the factors of long ones.",
        _minicpm3,
    ),
    "youtu_llm": Repair(_EPSILON, _latent_epsilon),
}
