"""``mlx-simul evaluate``: a test set under a grid of policies, a progress bar, and a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlx_simul.console.arguments import add_instruction, add_languages, utf8
from mlx_simul.console.tables import fitting_table
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.columns import OTHER_COLUMNS, Columns, main_columns
from mlx_simul.evaluation.options import AUTO, CLOCK_NAMES, DEFAULT_POLICIES, EvaluationOptions
from mlx_simul.evaluation.units import UNITS
from mlx_simul.machine.terminal import emit, emit_json, harmless
from mlx_simul.policies import WHOLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--model", help="folder, or Hugging Face repository id (default: the packaged model)"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="LoRA or DoRA adapters")
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="of a type that `mlx-simul models` does not list, try the laws on the weights first",
    )
    parser.add_argument(
        "--folder", required=True, metavar="DIR", help="for results; what it holds is gone on with"
    )

    data = parser.add_argument_group("test set")
    data.add_argument(
        "--corpus",
        required=True,
        metavar="FILE",
        help=".tsv or .jsonl of pairs, those of one source being its references; with --reference "
        "a text file with a source a line; or the id of a Hugging Face dataset",
    )
    data.add_argument(
        "--reference", nargs="+", default=[], metavar="FILE", help="a translation a line"
    )
    data.add_argument("--source-key", default="source", metavar="KEY", help="in JSON records")
    data.add_argument("--target-key", default="target", metavar="KEY", help="in JSON records")
    data.add_argument("--split", default="test", help="of a dataset (default: test)")
    data.add_argument("--sources", type=int, metavar="N", help="the first N sources only")

    grid = parser.add_argument_group("policies (default: --wait-k 1,3,5,7,9,whole)")
    grid.add_argument("--wait-k", metavar="K[,K]", help="words behind; `whole` for the offline way")
    grid.add_argument(
        "--policy", nargs="+", default=[], metavar="SPEC", help="by name and options: wait-k:3"
    )
    grid.add_argument("--baseline", metavar="SPEC", help="to compare with (default: whole)")

    prompt = parser.add_argument_group("what to do (default: what the model was trained for)")
    add_languages(prompt)
    add_instruction(prompt)
    prompt.add_argument(
        "--set",
        type=utf8,
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="any other option of a session: mode=reencode, max_target_source_ratio=3 ...",
    )

    score = parser.add_argument_group("scores")
    score.add_argument(
        "--unit",
        choices=(AUTO, *UNITS),
        default=AUTO,
        help="that latency is counted in (default: characters for scripts without spaces, else "
        "words)",
    )
    score.add_argument(
        "--word-ms",
        type=float,
        default=400.0,
        metavar="MS",
        help="pace of the source's words of speech, for computation-aware scores (default: 400)",
    )
    score.add_argument(
        "--clock",
        choices=CLOCK_NAMES,
        default="wall",
        help="time on the wall, or the CPU's, which a busy machine does not stretch",
    )
    score.add_argument(
        "--bleu-tokenizer",
        default=AUTO,
        metavar="NAME",
        help="sacrebleu's (default: zh for Chinese, char for other scripts without spaces, else "
        "13a)",
    )
    score.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamplings (default: 1000)"
    )
    score.add_argument("--no-quality", action="store_true", help="no BLEU and chrF")
    score.add_argument("--no-plot", action="store_true", help="no PNG and SVG")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that share the work (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="the figures instead of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and show.

    Returns:
        The exit code: 0.
    """
    options = options_from(args)
    # MLX is only imported once the options are known to be right.
    from mlx_simul.evaluation.run import RESULTS, evaluate

    with TranslationBar(Console(stderr=True)) as report:
        results = evaluate(options, report)
    for said in unfinished(results):
        print(f"mlx-simul: warning: {said}", file=sys.stderr)
    if args.json:
        emit_json(results, indent=1)
        return 0
    console = Console(highlight=False)
    for table in tables(results, console):
        console.print(table)
    emit(f"{options.folder}: {RESULTS}, and logs of each policy\n")
    return 0


def options_from(args: argparse.Namespace) -> EvaluationOptions:
    """What the arguments say.

    Raises:
        InvalidOptionError: for what cannot be.
    """
    session = dict(_assigned(text) for text in args.set)
    for name in ("source_language", "target_language", "instruction"):
        if (value := getattr(args, name)) is not None:
            session[name] = value
    return EvaluationOptions(
        model=args.model,
        corpus=args.corpus,
        folder=args.folder,
        references=tuple(args.reference),
        policies=_policies(args.wait_k, args.policy),
        baseline=args.baseline,
        adapter=args.adapter,
        allow_unverified=args.allow_unverified,
        source_key=args.source_key,
        target_key=args.target_key,
        split=args.split,
        n_sources=args.sources,
        unit=args.unit,
        word_ms=args.word_ms,
        clock=args.clock,
        bleu_tokenizer=args.bleu_tokenizer,
        quality=not args.no_quality,
        n_bootstrap=args.bootstrap,
        plot=not (args.no_plot or args.no_quality),
        processes=args.processes,
        session=session,
    )


def tables(results: Mapping[str, Any], console: Console) -> list[RenderableType]:
    """A row for each policy: how late and how good; then the other scores. In source words."""
    title = f"{results['model']}: {results['corpus']['n_sources']} sources"
    rows = results["policies"]
    return [
        _table(console, title, main_columns(results), rows),
        _table(console, "", OTHER_COLUMNS, rows),
    ]


def unfinished(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each policy under which translations were cut off or dried up."""
    said: list[str] = []
    for spec, row in results["policies"].items():
        ends = {reason: n for reason, n in row["ends"].items() if reason != "end_of_turn"}
        if ends:
            reasons = ", ".join(f"{reason} {n}" for reason, n in ends.items())
            said.append(
                f"{spec}: {sum(ends.values())} of {sum(row['ends'].values())} translations did not "
                f"end by themselves: {reasons}."
            )
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


def _assigned(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidOptionError(f"--set takes OPTION=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _table(
    console: Console, title: str, columns: Columns, rows: Mapping[str, Mapping[str, Any]]
) -> RenderableType:
    texts = [[spec, *(cell(row) for cell in columns.values())] for spec, row in rows.items()]
    return fitting_table(console, title, ["policy", *columns], texts)
