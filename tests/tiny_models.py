"""Random models of every registered family, small enough for a law in milliseconds."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from tiny_configs import CONFIGS, full_config

from mlx_simul import archs
from mlx_simul.engine import Engine, make_engine

MAIN = ("gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Families whose checkpoints are also tried in other number formats.

Experts are not among them: on the CPU, MLX gathers them in float32 alone.
"""


@dataclass(frozen=True)
class Variation:
    """One way in which a family's checkpoints come.

    Attributes:
        model_type: the family.
        config: the name of its tiny configuration.
        dtype: of the weights.
        bits: to which they are quantised, if they are.
        overrides: entries of the config that differ, where it has to fit something.
    """

    model_type: str
    config: str
    dtype: mx.Dtype = mx.float32
    bits: int | None = None
    overrides: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [self.model_type, self.config]
        if self.dtype != mx.float32:
            parts.append(str(self.dtype).removeprefix("mlx.core."))
        if self.bits is not None:
            parts.append(f"{self.bits}bit")
        return "-".join(parts)


FORMATS: tuple[dict[str, Any], ...] = (
    {"dtype": mx.float16},
    {"dtype": mx.bfloat16},
    {"bits": 4},
    {"bits": 8, "dtype": mx.bfloat16},
)


def first_of(model_type: str, **overrides: Any) -> Variation:
    """The first variation of a family."""
    return Variation(
        model_type, next(iter(CONFIGS[model_type])), overrides=tuple(overrides.items())
    )


VARIATIONS = [
    Variation(model_type, name)
    for model_type in archs.registered_types()
    for name in CONFIGS[model_type]
] + [replace(first_of(model_type), **how) for model_type in MAIN for how in FORMATS]


@cache
def tiny_model(variation: Variation) -> nn.Module:
    """The model of a variation; the same weights each time."""
    mx.random.seed(len(str(variation)))
    config = full_config(variation.model_type, variation.config) | dict(variation.overrides)
    model = fresh_model(variation.model_type, config)
    model.set_dtype(variation.dtype)
    if variation.bits is not None:
        nn.quantize(model, group_size=32, bits=variation.bits)
    return model


def fresh_model(model_type: str, config: dict[str, Any]) -> nn.Module:
    """A random model of a family."""
    architecture = archs.find(model_type)
    model_class, args_class = architecture.classes
    model = model_class(args_class.from_dict({**config, "model_type": model_type}))
    model.update(tree_map(_with_noise, model.parameters()))
    model.eval()
    model.streaming_architecture = architecture
    return model


def _with_noise(parameter: mx.array) -> mx.array:
    """Fresh biases are zero and fresh norms one, which would hide a mistake in either."""
    if parameter.dtype == mx.uint8:  # BitNet's: four of 0, 1 and 2 in a byte
        fours = mx.random.randint(0, 3, (4, *parameter.shape))
        return sum(fours[i] << (2 * i) for i in range(4)).astype(mx.uint8)
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    return parameter + 0.1 * mx.random.normal(parameter.shape)


def make_engine_without_drafts(model: nn.Module, **options: Any) -> Engine:
    """The engine of a session, except that it keeps no draft."""
    engine = make_engine(model, **options)

    class TakesNoDrafts(type(engine)):
        def run(self, request):
            return super().run(replace(request, draft_ids=()))

    engine.__class__ = TakesNoDrafts
    return engine
