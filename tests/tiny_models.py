"""Random models of every registered family, small enough for a law in milliseconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_simul import archs

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 1000.0,
}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"type": "linear", "factor": 2.0}


@dataclass(frozen=True)
class Variation:
    """One way in which a family's checkpoints come."""

    model_type: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dtype: mx.Dtype = mx.float32
    bits: int | None = None

    def __str__(self) -> str:
        return f"{self.model_type}-{self.name}"


_HALF = [
    ("float16", {"dtype": mx.float16}),
    ("bfloat16", {"dtype": mx.bfloat16}),
    ("4bit", {"bits": 4}),
]
_CONFIGS = {
    "qwen2": {
        "tied": {},
        "untied": {"tie_word_embeddings": False},
        "windowed": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        "window-unused": {"use_sliding_window": False, "sliding_window": 5, "max_window_layers": 0},
        "yarn": {"rope_scaling": YARN},
    },
    "llama": {
        "tied": {},
        "untied": {"tie_word_embeddings": False},
        "windowed": {
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 5,
        },
        "biased": {"attention_bias": True, "mlp_bias": True, "head_dim": 12},
        "llama3": {"rope_scaling": LLAMA3},
        "linear": {"rope_scaling": LINEAR},
        "yarn": {"rope_scaling": YARN},
    },
    "mistral": {
        "plain": {},
        "windowed": {"sliding_window": 5, "tie_word_embeddings": False},
        "window-of-one": {"sliding_window": 1},
        "wide-window": {"sliding_window": 30},
        "yarn": {"rope_scaling": YARN, "sliding_window": 7},
    },
}
VARIATIONS = [
    Variation(model_type, name, config)
    for model_type, configs in _CONFIGS.items()
    for name, config in configs.items()
] + [
    Variation(model_type, name, {"sliding_window": 5}, **how)
    for model_type in _CONFIGS
    for name, how in _HALF
]


@cache
def tiny_model(variation: Variation) -> nn.Module:
    """The model of a variation; the same weights each time."""
    mx.random.seed(len(str(variation)))
    model_class, args_class = archs.find(variation.model_type).classes
    config = {"model_type": variation.model_type, **TINY, **variation.config}
    model = model_class(args_class.from_dict(config))
    # Fresh biases are zero and fresh norms one, which would hide a mistake in either.
    noisy = tree_map(lambda p: p + 0.1 * mx.random.normal(p.shape), model.parameters())
    model.update(noisy)
    model.set_dtype(variation.dtype)
    if variation.bits is not None:
        nn.quantize(model, group_size=32, bits=variation.bits)
    model.eval()
    return model
