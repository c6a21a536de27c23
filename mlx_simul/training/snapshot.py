"""A run's snapshot: a checkpoint that loads, and beside it all that is needed to go on.

``config.json``, the weights and the tokenizer make an ordinary checkpoint folder (or adapters, in
mlx-lm's format), with the averaged weights where there is an average. ``training.safetensors`` and
``training.json`` are the run's own. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mlx_simul.errors import ModelLoadError
from mlx_simul.training.batches import Position

_ARRAYS = "training.safetensors"
_COUNTS = "training.json"


@dataclass(frozen=True)
class Progress:
    """What a run has counted.

    Attributes:
        step: optimiser steps done.
        position: where its data stand.
        n_tokens: tokens fed, padding included.
        seconds: time spent training, over all legs.
        best_loss: lowest validation loss so far.
        n_worse: validations since then.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    n_tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    n_worse: int = 0


@dataclass(frozen=True)
class RunState:
    """Everything that decides how a run goes on.

    Attributes:
        progress: counts.
        weights: tree of what is trained.
        average: tree of its moving average; empty without one.
        optimiser: tree of the optimiser's state.
    """

    progress: Progress
    weights: Any
    average: Any
    optimiser: Any


def write_state(folder: Path, state: RunState) -> None:
    """Write a run's own part of a snapshot into a folder."""
    trees = {"weights": state.weights, "average": state.average, "optimiser": state.optimiser}
    arrays: dict[str, mx.array] = dict(tree_flatten(trees))  # pyright: ignore
    mx.save_safetensors(str(folder / _ARRAYS), arrays, {"format": "mlx"})
    (folder / _COUNTS).write_text(json.dumps(asdict(state.progress), indent=2) + "\n", "utf-8")


def read_state(folder: Path) -> RunState | None:
    """Read a run's own part of a snapshot; ``None`` if there is no snapshot.

    Raises:
        ModelLoadError: if what is there is damaged.
    """
    if not (folder / _COUNTS).is_file():
        return None
    try:
        counts = json.loads((folder / _COUNTS).read_text("utf-8"))
        position = Position(**counts.pop("position"))
        progress = Progress(position=position, **counts)
        arrays: dict[str, mx.array] = mx.load(str(folder / _ARRAYS))  # pyright: ignore
        # Now: the file is gone once the next snapshot takes its place.
        mx.eval(arrays)
        trees: Any = tree_unflatten(list(arrays.items()))
        return RunState(progress, trees["weights"], trees.get("average", {}), trees["optimiser"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelLoadError(
            f"the snapshot in {folder} cannot be read: {error}. Remove the folder to start anew."
        ) from error
