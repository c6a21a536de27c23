"""``mlx-simul train``: options from a file and from flags, a progress bar, and where it ended."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mlx_simul.console import ranks
from mlx_simul.console.fields import add_option
from mlx_simul.machine.fields import read_toml, set_option, type_of
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit
from mlx_simul.training.config import make_options
from mlx_simul.training.options import TrainOptions

if TYPE_CHECKING:
    from mlx_simul.training.trainer import StepReport

_FLAGS = {
    "data.train": "--data",
    "data.valid": "--valid",
    "model.path": "--model",
    "model.fine_tune": "--fine-tune",
    "run.folder": "--folder",
    "run.minutes": "--minutes",
    "optimiser.steps": "--steps",
    "optimiser.learning_rate": "--learning-rate",
}
"""Options with a flag; the others are set in a file or by ``--set``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``mlx-simul train``."""
    parser.add_argument(
        "config", nargs="?", type=expanded, help="a TOML file with the run's options"
    )
    groups = {item.name: type_of(TrainOptions, item) for item in fields(TrainOptions)}
    for name, flag in _FLAGS.items():
        group, _, key = name.partition(".")
        add_option(parser, groups[group], key, flag=flag, dest=name)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="any other option, as in the file; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say where the checkpoint is.

    Returns:
        The exit code: 0.
    """
    from mlx_simul.training.run import Run

    options = options_from(args)
    with StepBar(options.optimiser.steps, Console(stderr=True)) as report:
        training = Run(options, report, ranks.group())
        is_done = training.go()
    progress = training.trainer.progress
    emit(f"{training.latest}: step {progress.step} of {options.optimiser.steps}\n")
    if not is_done:
        emit("The same command goes on from there.\n")
    return 0


def options_from(args: argparse.Namespace) -> TrainOptions:
    """The options that the file and the flags make together; flags win."""
    tables: dict[str, Any] = read_toml(args.config) if args.config else {}
    for name in _FLAGS:
        if (value := getattr(args, name, None)) is not None:
            table, key = name.split(".")
            tables.setdefault(table, {})[key] = value
    for assignment in args.set:
        set_option(tables, assignment)
    return make_options(tables)


class StepBar:
    """A progress bar on a terminal; elsewhere the log has to do.

    Args:
        n_steps: optimiser steps in all.
        console: where to draw.
    """

    def __init__(self, n_steps: int, console: Console) -> None:
        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=n_steps)

    def __enter__(self) -> Callable[[StepReport], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, report: StepReport) -> None:
        speed = report.n_tokens / report.seconds
        self._progress.update(
            self._task,
            completed=report.step,
            description=f"loss {report.loss:.3f}, {speed:.0f} tokens/s",
        )
