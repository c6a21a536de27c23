"""Training runs of this rank, one after another; prints what each did, by name."""

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import json
import os
import signal
import sys
from pathlib import Path

import mlx.core as mx
from mlx.nn.utils import average_gradients
from mlx.utils import tree_flatten, tree_map

from mlx_simul.training import run as runs
from mlx_simul.training.batches import collate
from mlx_simul.training.config import make_options
from mlx_simul.training.snapshot import read_state
from mlx_simul.training.trainer import Trainer


class Unweighted(Trainer):
    """Averages mean losses over shares with unequal numbers of tokens, as if they were equal."""

    def _gradients(self, batches):
        (samples,) = batches
        loss, gradients = None, tree_map(mx.zeros_like, self.model.trainable_parameters())
        if mine := self._peers.share(samples):
            loss, gradients = self._loss_and_grad(self.model, collate(mine), 0.1)
            loss = loss.item()
        losses = [each for each in self._peers.gather(loss) if each is not None]
        return sum(losses) / len(losses), average_gradients(gradients)


class Unshared(Trainer):
    """Forgets to hear the others."""

    def _gradients(self, batches):
        (samples,) = batches
        mine = self._peers.share(samples) or samples
        loss, gradients = self._loss_and_grad(self.model, collate(mine), 0.1)
        return loss.item(), gradients


WRONG = {"unweighted": Unweighted, "unshared": Unshared}


def train(case, group):
    """One leg; rank 0 interrupts itself after the step ``until``."""
    losses = []

    def report(step):
        losses.append(step.loss)
        if step.step == case.get("until"):
            os.kill(os.getpid(), signal.SIGINT)

    runs.Trainer = WRONG.get(case.get("wrong"), Trainer)
    run = runs.Run(make_options(case["tables"]), report, group)
    is_done = run.go()
    validated = []
    if group.rank() == 0:
        lines = (run.folder / "log.jsonl").read_text("utf-8").splitlines()
        validated = [r for r in map(json.loads, lines) if "valid_loss" in r]
    dtypes = {str(each.dtype) for _, each in tree_flatten(run.trainer.model.parameters())}
    return {
        "losses": losses,
        "is_done": is_done,
        "step": run.trainer.progress.step,
        "saved_step": read_state(run.latest).progress.step,
        "best_loss": run.trainer.progress.best_loss,
        "validated": validated,
        "dtypes": sorted(dtypes),
        "files": sorted(path.name for path in run.folder.iterdir()),
    }


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    group = mx.distributed.init()
    print(json.dumps({name: train(case, group) for name, case in told.items()}))
