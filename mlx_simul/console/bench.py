"""``mlx-simul bench``: the figures of :mod:`mlx_simul.evaluation.speed` as tables and as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx
from rich.console import Console, RenderableType

from mlx_simul.checkpoints.loading import load
from mlx_simul.console import ranks
from mlx_simul.console.arguments import require_writable
from mlx_simul.console.fields import add_option, chosen
from mlx_simul.console.tables import fitting_table
from mlx_simul.evaluation.batch_speed import BatchBench, throughput
from mlx_simul.evaluation.speed import (
    CORRECTING,
    INSTRUCTION,
    TINY_LAYERS,
    Bench,
    drafting,
    growth,
    speed,
    speed_of_ranks,
    tiny_like,
)
from mlx_simul.machine.blas import describe
from mlx_simul.machine.files import expanded
from mlx_simul.options import DecodingOptions

SPEED_COLUMNS = {
    "wait_k": "wait-k",
    "passes_per_token": "passes a token",
    "plain_passes_per_token": "plain loop",
    "cpu_ms_per_token": "CPU ms a token",
    "offline_cpu_ms_per_token": "offline",
    "tokens_per_s": "tokens/s",
    "times_offline": "x offline",
    "times_plain": "x plain loop",
    "cpu_times_offline": "CPU: x offline",
    "cpu_times_plain": "x plain loop",
    "peak_mb": "peak MB",
    "offline_peak_mb": "offline",
    "same_tokens_as_plain": "same tokens",
}
DRAFTING_COLUMNS = {
    "wait_k": "wait-k",
    "passes_per_token": "passes a token",
    "drafted_passes_per_token": "with drafts",
    "times_plain": "x without",
    "cpu_times_plain": "CPU: x without",
    "same_tokens_as_plain": "same tokens",
}
GROWTH_COLUMNS = {
    "words": "words",
    "read_write_ms": "ms a read+write",
    "read_write_p95_ms": "p95",
    "read_write_times_stock": "x mlx-lm, 3 tokens",
    "write_ms": "ms a write",
    "write_p95_ms": "p95",
    "write_times_stock": "x mlx-lm, 1 token",
}
BATCH_COLUMNS = {
    "sessions": "sessions",
    "tokens_per_s": "tokens/s",
    "offline_tokens_per_s": "batch_generate",
    "times_one": "x one",
    "offline_times_one": "batch_generate",
    "cpu_times_one": "CPU: x one",
    "offline_cpu_times_one": "batch_generate",
    "cpu_times_offline": "CPU: x batch_generate",
    "passes_per_token": "passes a token",
    "peak_mb": "peak MB",
    "offline_peak_mb": "batch_generate",
    "same_tokens_as_alone": "same tokens",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", nargs="?", help="folder or repository id (default: the packaged model)"
    )
    parser.add_argument(
        "--wait-k",
        type=int,
        nargs="*",
        default=[1, 3, 5, 7],
        metavar="K",
        help="source words behind",
    )
    parser.add_argument(
        "--tokens", type=int, default=96, metavar="N", help="target tokens of each stream"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="how often to measure everything"
    )
    parser.add_argument(
        "--words",
        type=int,
        nargs="*",
        default=[10, 100, 1000, 4000],
        metavar="N",
        help="source words of the sessions to measure",
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="passes timed at each length"
    )
    parser.add_argument("--draft", metavar="ngram|FOLDER", help="measure drafting instead")
    add_option(parser, DecodingOptions, "num_draft_tokens")
    parser.add_argument(
        "--batch",
        type=_sizes,
        default=[1, 2, 4, 8, 16],
        metavar="N,...",
        help="how many sessions to run at once",
    )
    parser.add_argument("--no-tiny", action="store_true", help="leave the tiny model out")
    parser.add_argument(
        "--json", type=expanded, metavar="FILE", help="write all figures to this file, too"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, and show.

    Raises:
        InvalidOptionError: if the figures cannot be written where they are to go.
    """
    if args.json is not None:
        require_writable(args.json)
    model, tokenizer = ranks.load(args.model)
    models = {args.model or "the packaged model": model}
    if not args.no_tiny and not ranks.are_several():
        models[f"{TINY_LAYERS} tiny layers"] = tiny_like(tokenizer)
    report: dict[str, Any] = {"setting": _setting(), "models": {}}
    console = Console(highlight=False)
    if args.draft:
        report["drafting"] = _drafting(model, tokenizer, args, console)
        models = {}
    elif ranks.are_several():
        bench = Bench(model, tokenizer, args.tokens)
        bench.ours(k=1)  # whatever is compiled or loaded at first
        report["ranks"] = list(speed_of_ranks(bench, args.wait_k, args.repeats))
        columns = {key: SPEED_COLUMNS[key] for key in SPEED_COLUMNS if key in report["ranks"][0]}
        console.print(_table(console, f"{args.tokens} tokens", columns, report["ranks"]))
        models = {}
    for name, each in models.items():
        bench = Bench(each, tokenizer, args.tokens)
        bench.ours(k=1)  # whatever is compiled or loaded at first
        figures = {
            "speed": list(speed(bench, args.wait_k, args.repeats)),
            "growth": list(growth(each, args.words, args.steps)),
            "batch": [],
        }
        if args.batch:
            many = BatchBench(each, tokenizer, args.tokens)
            figures["batch"] += throughput(many, args.batch, args.repeats)
        report["models"][name] = figures
        for title, columns, rows in (
            (f"{args.tokens} tokens", SPEED_COLUMNS, figures["speed"]),
            ("as it grows", GROWTH_COLUMNS, figures["growth"]),
            ("sessions at once", BATCH_COLUMNS, figures["batch"]),
        ):
            if rows:
                console.print(_table(console, f"{name}: {title}", columns, rows))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return 0


def _drafting(
    model: Any, tokenizer: Any, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    options = {
        **chosen(args, DecodingOptions),
        "draft": "ngram" if args.draft == "ngram" else load(args.draft),
    }
    report = {}
    Bench(model, tokenizer, 4).ours(3, **options)  # whatever is compiled or loaded at first
    for task in (INSTRUCTION, CORRECTING):
        bench = Bench(model, tokenizer, args.tokens, instruction=task)
        report[task] = list(drafting(bench, args.wait_k, args.repeats, **options))
        console.print(
            _table(console, f"{task}: {args.tokens} tokens", DRAFTING_COLUMNS, report[task])
        )
    return report


def _sizes(text: str) -> list[int]:
    """Numbers with commas between; nothing for none."""
    return [int(number) for number in text.split(",") if number]


def _setting() -> dict[str, str]:
    packages = {name: version(name) for name in ("mlx", "mlx-lm", "mlx-simul")}
    return {**packages, "device": str(mx.default_device()), "blas": describe()}


def _table(
    console: Console, title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> RenderableType:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    return fitting_table(console, title, list(columns.values()), cells)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
