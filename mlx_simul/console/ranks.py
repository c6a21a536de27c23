"""A command under ``mlx.launch``: rank 0 runs it, and the other ranks follow without a word.

Rank 0 alone reads, prints and decides. What it loads, they load too, so their arguments and their
standard input do not matter. ``evaluate`` and ``train`` divide work in their own way.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_simul.errors import SimulError
from mlx_simul.machine.terminal import say

if TYPE_CHECKING:
    from mlx_simul.checkpoints.sharding import Loader
    from mlx_simul.engine.ranks import Ranks
    from mlx_simul.machine.liveness import Liveness

DIVIDING = ("evaluate", "train")
"""Commands that every rank runs."""

_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
"""What mlx.launch and MPI set in the environment of a rank."""

_loaders: list[Loader] = []


def run_as_rank(argv: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run a command, or follow the rank that runs it; return the exit code.

    Args:
        argv: of the command.
        run: runs it in this process.
    """
    if not any(name in os.environ for name in _LAUNCHED) or any(n in argv[:1] for n in DIVIDING):
        return run(argv)
    import mlx.core as mx

    from mlx_simul.machine.liveness import join

    try:
        watch = join(lambda: mx.distributed.init(strict=True))
    except (RuntimeError, ValueError) as error:
        say(f"the other ranks cannot be reached: {error}")
        return 1
    if watch.group.size() == 1:
        return run(argv)
    try:
        with watch:
            return _run_together(watch, argv, run)
    except SimulError as error:
        rank = watch.group.rank()
        say(f"rank {rank}: {error}" if rank else str(error))
        return 1


def _run_together(watch: Liveness, argv: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    from mlx_simul.checkpoints.sharding import Loader
    from mlx_simul.engine.ranks import ranks_of

    ranks = ranks_of(watch.group)
    ranks.guard = watch.guard
    loader = Loader(ranks)
    if ranks.rank:
        return _follow(ranks)
    _loaders.append(loader)
    try:
        with ranks.leading():
            code = run(argv)
            ranks.stop_all(code)
            return code
    finally:
        _loaders.clear()


def load(
    place: str | None, *, adapter: str | None = None, allow_unverified: bool = False
) -> tuple[Any, Any]:
    """Load the model of a command and its tokenizer, on all ranks if there are several.

    Raises:
        SimulError: for models that will not do.
    """
    if _loaders:
        return _loaders[0].load(place, adapter, allow_unverified)
    from mlx_simul.checkpoints.loading import load

    return load(place, adapter_path=adapter, allow_unverified=allow_unverified)


def are_several() -> bool:
    """Whether this is rank 0 of several."""
    return bool(_loaders)


def _follow(ranks: Ranks) -> int:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It has failed if rank 0 has. Any other code would have mlx.launch stop rank 0 at once.
        return int(ranks.follow() == 1)
