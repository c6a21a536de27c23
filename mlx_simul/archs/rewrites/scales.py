"""Families that normalise or scale otherwise than mlx-lm does."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
from mlx_lm.models import (
    glm4_moe_lite,
    granitemoehybrid,
    longcat_flash,
    mamba2,
    minicpm,
    minicpm3,
    nemotron_h,
    youtu_llm,
)

from mlx_simul.archs.base import ModelClasses
from mlx_simul.archs.rewrites.longrope import with_short_factors
from mlx_simul.archs.rewrites.weights import Weights


def with_latent_epsilon(module: ModuleType) -> Any:
    """A model class whose latents are normalised with 1e-6, whatever ``rms_norm_eps`` says."""

    class Model(module.Model):
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            for path, norm in self.named_modules():
                if path.endswith(("q_a_layernorm", "kv_a_layernorm")):
                    norm.eps = 1e-6

    return Model


def with_grouped_norm(module: ModuleType) -> Any:
    """A model class whose gated norms go over each group of heads, not over all of them."""

    class Model(module.Model):
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            for layer in self.layers:
                mixer: Any = layer.get("mixer", layer.get("mamba"))
                if mixer is not None:
                    width = mixer.intermediate_size
                    mixer.norm = nemotron_h.MambaRMSNormGated(
                        width, mixer.norm.eps, width // mixer.n_groups
                    )

    return Model


class MiniCPM(minicpm.Model):
    """Logits are scaled down with tied embeddings, too, which may be quantised."""

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        args = self.args
        hidden = self.model(inputs, cache) / (args.hidden_size / args.dim_model_base)
        if args.tie_word_embeddings:
            return self.model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)

    def sanitize(self, weights: Weights) -> Weights:
        """There is no output layer beside tied embeddings; mlx-lm adds one always."""
        if self.args.tie_word_embeddings:
            return {k: v for k, v in weights.items() if not k.startswith("lm_head.")}
        return super().sanitize(weights)


class MiniCPM3(with_latent_epsilon(minicpm3)):
    """Logits are scaled down with tied embeddings, too."""

    def __call__(self, inputs: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        logits = super().__call__(inputs, mask, cache)
        if self.args.tie_word_embeddings:
            logits = logits / (self.args.hidden_size / self.args.dim_model_base)
        return logits


class LongcatFlash(with_latent_epsilon(longcat_flash)):
    """transformers writes projections for the experts that do nothing."""

    def sanitize(self, weights: Weights) -> Weights:
        """Leave them out."""
        first = self.args.n_routed_experts

        def does_nothing(name: str) -> bool:
            found = re.search(r"\.experts\.(\d+)\.", name)
            return found is not None and int(found[1]) >= first

        return super().sanitize({k: v for k, v in weights.items() if not does_nothing(k)})


CLASSES: dict[str, ModelClasses] = {
    "glm4_moe_lite": (with_latent_epsilon(glm4_moe_lite), glm4_moe_lite.ModelArgs),
    "granitemoehybrid": (with_grouped_norm(granitemoehybrid), granitemoehybrid.ModelArgs),
    "longcat_flash": (LongcatFlash, longcat_flash.ModelArgs),
    "mamba2": (with_grouped_norm(mamba2), mamba2.ModelArgs),
    "minicpm": (MiniCPM, with_short_factors(minicpm).ModelArgs),
    "minicpm3": (MiniCPM3, with_short_factors(minicpm3).ModelArgs),
    "youtu_llm": (with_latent_epsilon(youtu_llm), youtu_llm.ModelArgs),
}
