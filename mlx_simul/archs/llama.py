"""Llama, and the types that mlx-lm maps onto it. Windows by ``layer_types`` are mlx-lm's own."""

import mlx_simul.before_mlx

from mlx_lm.models import llama

from mlx_simul.archs.base import Architecture

LLAMA = Architecture(
    model_type="llama",
    classes=(llama.Model, llama.ModelArgs),
    verified_against="GPE reference, transformers",
)
