"""``mlx-simul evaluate``: a test set under a grid of policies, a progress bar, and a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlx_simul.console import ranks
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.console.options import FILE_READERS
from mlx_simul.console.tables import fitting_table
from mlx_simul.evaluation.columns import (
    OTHER_COLUMNS,
    OTHER_TALK_COLUMNS,
    Columns,
    main_columns,
    talk_columns,
)
from mlx_simul.evaluation.options import DEFAULT_POLICIES, EvaluationOptions
from mlx_simul.machine.terminal import emit, emit_json, harmless
from mlx_simul.options import SessionOptions
from mlx_simul.policies import WHOLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    grid = parser.add_argument_group("policies (default: --wait-k 1,3,5,7,9,whole)")
    grid.add_argument("--wait-k", metavar="K[,K]", help="words behind; `whole` for the offline way")
    grid.add_argument(
        "--policy",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="a policy by name and options, such as wait-k:3",
    )
    add_options(
        parser.add_argument_group("test set and scores"),
        EvaluationOptions,
        skip={"policies", "session"},
    )
    add_options(parser, SessionOptions, skip={"policy"}, types=FILE_READERS)
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON instead of a table"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, and show.

    Returns:
        The exit code: 0.
    """
    options = options_from(args)
    if not (options.quality or options.has_talks):
        options = replace(options, plot=False)  # there is no quality to draw over latency
    # MLX is only imported once the options are known to be right.
    from mlx_simul.evaluation.run import evaluate, results_name

    with TranslationBar(Console(stderr=True)) as report:
        results = evaluate(options, report, ranks.group())
    for said in unfinished(results):
        print(f"mlx-simul: warning: {said}", file=sys.stderr)
    if args.json:
        emit_json(results, indent=1)
        return 0
    console = Console(highlight=False)
    for table in tables(results, console):
        console.print(table)
    emit(f"{options.folder}: {results_name(options)}, and logs of each policy\n")
    return 0


def options_from(args: argparse.Namespace) -> EvaluationOptions:
    """What the arguments say.

    Raises:
        InvalidOptionError: for what cannot be.
    """
    # --policy names several here, and is not an option of the session.
    session = {n: v for n, v in chosen(args, SessionOptions).items() if n != "policy"}
    given: dict[str, Any] = chosen(args, EvaluationOptions)
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    return EvaluationOptions(
        **given,
        policies=_policies(args.wait_k, args.policy),
        session=session,
    )


def tables(results: Mapping[str, Any], console: Console) -> list[RenderableType]:
    """A row for each policy: how late and how good; then the other scores.

    Latency is in source words, and that of talks in seconds.
    """
    corpus, rows = results["corpus"], results["policies"]
    if "n_talks" in corpus:
        n_talks, n_sentences = corpus["n_talks"], corpus["n_sentences"]
        title = f"{n_talks} talks, {n_sentences} sentences, {corpus['minutes']:.0f} minutes"
        main, other = talk_columns(results), OTHER_TALK_COLUMNS
    else:
        title = f"{corpus['n_sources']} sources"
        main, other = main_columns(results), OTHER_COLUMNS
    return [
        _table(console, f"{results['model']}: {title}", main, rows),
        _table(console, "", other, rows),
    ]


def unfinished(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each policy under which translations were cut off, dried up or got lost."""
    what = "turns" if "n_talks" in results["corpus"] else "translations"
    said: list[str] = []
    for spec, row in results["policies"].items():
        ends = {reason: n for reason, n in row["ends"].items() if reason != "end_of_turn"}
        if ends:
            reasons = ", ".join(f"{reason} {n}" for reason, n in ends.items())
            said.append(
                f"{spec}: {sum(ends.values())} of {sum(row['ends'].values())} {what} did not "
                f"end by themselves: {reasons}."
            )
        if n_lost := row.get("n_lost"):
            said.append(f"{spec}: {n_lost} of {row['n_sentences']} sentences have no translation.")
    return said


class TranslationBar:
    """A progress bar on a terminal; elsewhere nothing.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("loading", total=None)

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, policy: str, n_done: int, n_all: int) -> None:
        self._progress.update(
            self._task, description=harmless(policy), completed=n_done, total=n_all
        )


def _policies(wait_k: str | None, specs: list[str]) -> tuple[str, ...]:
    if wait_k is None and not specs:
        return DEFAULT_POLICIES
    ks = [k.strip() for k in (wait_k or "").split(",") if k.strip()]
    return (*(k if k == WHOLE else f"wait-k:{k}" for k in ks), *specs)


def _table(
    console: Console, title: str, columns: Columns, rows: Mapping[str, Mapping[str, Any]]
) -> RenderableType:
    texts = [[spec, *(cell(row) for cell in columns.values())] for spec, row in rows.items()]
    return fitting_table(console, title, ["policy", *columns], texts)
