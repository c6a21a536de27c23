"""The training loop: batches in, steps, and now and then a validation and a snapshot."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlx_simul.errors import ValidationError
from mlx_simul.machine.peers import Peers
from mlx_simul.training.batches import Batches, Position, Sample, collate, n_tokens
from mlx_simul.training.loss import streaming_loss
from mlx_simul.training.optimiser import averaged, learning_rate, make_optimiser
from mlx_simul.training.options import OptimiserOptions
from mlx_simul.training.snapshot import Progress, RunState


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step was like.

    Attributes:
        step: counted from 1.
        loss: mean nats per scored token, smoothing included.
        grad_norm: before clipping.
        learning_rate: of this step.
        n_tokens: in the batches of this step, padding included.
        seconds: it took.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    n_tokens: int
    seconds: float


class Trainer:
    """One run over one model, in one process or several.

    All processes draw the same batches. Each feeds its share of the samples of a batch, and the
    step follows from all of them, so it does not depend on how many processes there are. Dropout
    does: each process draws its own.

    Args:
        model: one that streams in group mode; what is frozen stays as it is.
        batches: the training data.
        options: of the optimiser.
        seed: of dropout; each step has its own, so that a resumed run draws what it would have.
        peers: the processes that share the work; by default this one alone.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        options: OptimiserOptions,
        seed: int = 0,
        peers: Peers | None = None,
    ) -> None:
        self.model = model
        self.progress = Progress()
        self.average: Any = {}
        self._options = options
        self._batches = batches
        self._seed = seed
        self._peers = peers or Peers()
        self._optimiser = make_optimiser(options)
        self._optimiser.init(model.trainable_parameters())
        if options.average:
            self.average = model.trainable_parameters()
        self._loss_and_grad = nn.value_and_grad(model, streaming_loss)

    @property
    def state(self) -> RunState:
        """All that decides how the run goes on; assigning it resumes one."""
        return RunState(
            self.progress,
            self.model.trainable_parameters(),
            self.average,
            self._optimiser.state,
        )

    @state.setter
    def state(self, value: RunState) -> None:
        self.progress = value.progress
        self.model.update(value.weights)
        self._optimiser.state = value.optimiser
        if self._options.average:
            self.average = value.average or value.weights

    def steps(self) -> Iterator[StepReport]:
        """Train step by step, to the last one."""
        stream = self._batches.resume(self.progress.position)
        while self.progress.step < self._options.steps:
            self.model.train()
            yield self._step([next(stream) for _ in range(self._options.accumulate)])

    def _step(self, work: Sequence[tuple[Position, Sequence[Sample]]]) -> StepReport:
        began_s = time.perf_counter()
        options, step = self._options, self.progress.step + 1
        mx.random.seed((self._seed << 32) + (self._peers.rank << 24) + step)
        loss, gradients = self._gradients([samples for _, samples in work])
        gradients, norm = optim.clip_grad_norm(gradients, options.max_grad_norm)
        rate = learning_rate(step, options)
        self._optimiser.learning_rate = rate
        self._optimiser.update(self.model, gradients)
        if options.average:
            weights = self.model.trainable_parameters()
            self.average = averaged(self.average, weights, options.average, step)
        mx.eval(self.model.parameters(), self._optimiser.state, self.average, norm)
        if not math.isfinite(loss):
            raise ValidationError(
                f"the loss of step {step} is not finite. Lower the learning rate, or lengthen the "
                "warm-up; the last snapshot is from before."
            )
        seconds = time.perf_counter() - began_s
        n_fed = sum(n_tokens(samples) for _, samples in work)
        self.progress = replace(
            self.progress,
            step=step,
            position=work[-1][0],
            n_tokens=self.progress.n_tokens + n_fed,
            seconds=self.progress.seconds + seconds,
        )
        return StepReport(step, loss, norm.item(), rate, n_fed, seconds)  # pyright: ignore

    def _gradients(self, batches: Sequence[Sequence[Sample]]) -> tuple[float, Any]:
        """Loss and gradients over all scored tokens of the batches, whoever feeds them."""
        smoothing = self._options.label_smoothing
        if len(batches) == self._peers.size == 1:
            # There is nothing to add up, so no second copy of all gradients takes memory.
            one, gradients = self._loss_and_grad(self.model, collate(batches[0]), smoothing)
            mx.eval(one, gradients)
            return one.item(), gradients  # pyright: ignore[reportReturnType]
        total = sum(sample.n_scored for samples in batches for sample in samples)
        weights = self.model.trainable_parameters()
        loss, gradients = 0.0, tree_map(mx.zeros_like, weights)
        for samples in batches:
            # A batch may have fewer samples than there are processes.
            if not (mine := self._peers.share(samples)):
                continue
            one, grads = self._loss_and_grad(self.model, collate(mine), smoothing)
            # Mean losses over unequal numbers of tokens: each weighs as much as it has of them.
            part = sum(sample.n_scored for sample in mine) / total
            scale = mx.array(part * self._peers.size)
            gradients = tree_map(lambda s, g, by=scale: s + by * g, gradients, grads)
            mx.eval(one, gradients)
            loss += part * one.item()  # pyright: ignore[reportOperatorIssue]
        # Sums are in float32 at least; what is sent and applied has the type of the weights.
        gradients = tree_map(lambda g, w: g.astype(w.dtype), gradients, weights)
        return sum(self._peers.gather(loss)), self._peers.average(gradients)
