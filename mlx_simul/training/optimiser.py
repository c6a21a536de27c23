"""AdamW, its schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlx_simul.errors import InvalidOptionError
from mlx_simul.training.options import OptimiserOptions

_COSINE_FLOOR = 0.1


class MatrixDecayAdamW(optim.AdamW):
    """AdamW without decay of vectors: a norm's scale or a bias has no reason to be small."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """One parameter's new value."""
        if parameter.ndim > 1:
            return super().apply_single(gradient, parameter, state)
        return optim.Adam.apply_single(self, gradient, parameter, state)


def make_optimiser(options: OptimiserOptions) -> optim.AdamW:
    """A fresh optimiser; the learning rate is set at each step."""
    return MatrixDecayAdamW(
        learning_rate=options.learning_rate,
        betas=[0.9, options.beta2],
        weight_decay=options.weight_decay,
        bias_correction=True,
    )


def learning_rate(step: int, options: OptimiserOptions) -> float:
    """The learning rate of a step, counted from 1."""
    rate = min(1.0, step / max(1, options.warmup_steps))
    if options.schedule == "cosine":
        length = max(1, options.steps - options.warmup_steps)
        done = min(1.0, max(0, step - options.warmup_steps) / length)
        rate *= _COSINE_FLOOR + (1 - _COSINE_FLOOR) * (1 + math.cos(math.pi * done)) / 2
    elif options.decay_steps:
        left = max(0, options.steps - step) / options.decay_steps
        rate *= min(1.0, left)
    return options.learning_rate * rate


def averaged(average: Any, weights: Any, decay: float, step: int) -> Any:
    """A moving average's next value.

    Args:
        average: tree of arrays so far.
        weights: tree of arrays of this step.
        decay: share of the old value that stays; less in the first steps, when it is worth less.
        step: counted from 1.
    """
    kept = min(decay, (1 + step) / (10 + step))
    return tree_map(lambda a, w: kept * a + (1 - kept) * w, average, weights)


class ThinnedLinear(nn.Linear):
    """A linear layer with dropout after it; its parameters have the names of the plain one."""

    def __init__(self, linear: nn.Linear, dropout: float) -> None:
        nn.Module.__init__(self)
        self.weight = linear.weight
        if "bias" in linear:
            self.bias = linear.bias
        self._dropout = dropout

    def __call__(self, x: mx.array) -> mx.array:
        y = super().__call__(x)
        if not self.training:
            return y
        kept = mx.random.bernoulli(1 - self._dropout, y.shape)
        return mx.where(kept, y * (1 / (1 - self._dropout)), 0.0)


def thin(model: nn.Module, dropout: float) -> None:
    """Put dropout after what each block adds to the residual stream, in place.

    Args:
        model: mlx-lm's, with ``o_proj`` and ``down_proj`` as most families have them.
        dropout: share that is left out while the model trains.

    Raises:
        InvalidOptionError: if it has none of these.
    """
    n_thinned = 0
    for _, module in model.named_modules():
        for name in ("o_proj", "down_proj"):
            child = module.get(name)
            if type(child) is nn.Linear:
                module[name] = ThinnedLinear(child, dropout)
                n_thinned += 1
    if not n_thinned:
        raise InvalidOptionError(
            f"optimiser.dropout={dropout}: this model has no o_proj and down_proj to put dropout "
            "after; leave it out."
        )
