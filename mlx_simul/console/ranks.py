"""A command under ``mlx.launch``: rank 0 runs it and speaks, and the other ranks say nothing.

Most commands are run by rank 0 alone, and the others follow: what it loads, they load too, so their
arguments and their standard input do not matter. ``evaluate`` and ``train`` are run by every rank,
with its share of the work. Either way all of them are watched, so none waits for one that is lost.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlx_simul.errors import RanksError

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_simul.checkpoints.sharding import Loader
    from mlx_simul.engine.ranks import Ranks
    from mlx_simul.machine.liveness import Liveness

DIVIDING = ("evaluate", "train")
"""Commands that every rank runs."""

_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
"""What mlx.launch and MPI set in the environment of a rank."""

Run: TypeAlias = Callable[[], int]
CodeOf: TypeAlias = Callable[[Run], int]
"""Runs something and returns its exit code, even if it fails, once it has said why."""

_groups: list[mx.distributed.Group] = []
_loaders: list[Loader] = []


def run_as_rank(argv: Sequence[str], run: Callable[[Sequence[str]], int], code_of: CodeOf) -> int:
    """Run a command, or take this rank's part in it; return the exit code.

    Args:
        argv: of the command.
        run: runs it in this process.
        code_of: for what has to be said before other ranks end.

    Raises:
        RanksError: if the other ranks cannot be reached.
    """
    if not _is_one_of_several():
        return run(argv)
    from mlx_simul.machine.liveness import join

    watch = join(_begun)
    if watch.group.size() == 1:
        return run(argv)
    _groups[:] = [watch.group]
    if any(name in argv[:1] for name in DIVIDING):
        return _divide(watch, lambda: run(argv), code_of)
    if watch.group.rank():
        return _follow(watch)
    return _lead(watch, lambda: run(argv), code_of)


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


def group() -> mx.distributed.Group | None:
    """All ranks that run this command, if there are several."""
    return _groups[0] if _groups else None


def _is_one_of_several() -> bool:
    if not any(name in os.environ for name in _LAUNCHED):
        return False
    hosts = os.environ.get("MLX_HOSTFILE")
    # The one that mlx.launch gives a single rank is empty, which MLX cannot read.
    return hosts is None or Path(hosts).read_text("utf-8").strip() != ""


def _begun() -> mx.distributed.Group:
    import mlx.core as mx

    try:
        return mx.distributed.init(strict=True)
    except (RuntimeError, ValueError) as error:
        raise RanksError(f"the other ranks cannot be reached: {error}") from error


def _divide(watch: Liveness, run: Run, code_of: CodeOf) -> int:
    """Run this rank's share; if it fails, the others end and say why."""

    def share() -> int:
        with watch:
            return run()

    if watch.group.rank() == 0:
        return share()
    with _silence():
        return code_of(share)


def _lead(watch: Liveness, run: Run, code_of: CodeOf) -> int:
    with watch:
        ranks, loader = _met(watch)
        _loaders.append(loader)
        try:
            with ranks.leading():
                code = _code(lambda: code_of(run))
                if not ranks.stop_all(code):
                    sys.exit(code)  # not in order: the watch ends the others
                return code
        finally:
            _loaders.clear()


def _follow(watch: Liveness) -> int:
    with watch, _silence():
        ranks, _ = _met(watch)
        # It has failed if rank 0 has. Any other code would have mlx.launch stop rank 0 at once.
        return int(ranks.follow() == 1)


def _met(watch: Liveness) -> tuple[Ranks, Loader]:
    from mlx_simul.checkpoints.sharding import Loader
    from mlx_simul.engine.ranks import ranks_of

    ranks = ranks_of(watch.group)
    ranks.guard = watch.guard
    return ranks, Loader(ranks)


def _code(run: Run) -> int:
    """The exit code, also of what ends by itself: ``--help``, wrong usage, SIGTERM."""
    from mlx_simul.engine.ranks import exit_code

    try:
        return run()
    except SystemExit as ended:
        return exit_code(ended)


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress all that any library prints, warns of, or draws."""
    with (
        open(os.devnull, "w", encoding="utf-8", errors="backslashreplace") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield
