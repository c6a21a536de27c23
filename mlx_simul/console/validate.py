"""``mlx-simul validate``: a table that proves that a folder holds a model that streams."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mlx_simul.checkpoints import loading
from mlx_simul.checkpoints.validate import Row, validate
from mlx_simul.console.arguments import progress_bar
from mlx_simul.console.tables import fitting_table
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="folder with config.json, model*.safetensors and a tokenizer (default: the packaged "
        "model)",
    )


def run(args: argparse.Namespace) -> int:
    """Validate as the command line says, and print a table.

    Returns:
        0 if nothing failed, else 1.
    """
    folder = loading.DEFAULT_MODEL if args.folder is None else expanded(args.folder)
    with progress_bar() as progress:
        rows = list(validate(folder, progress=progress))
    _print_table(rows)
    failure = next((row for row in rows if row.verdict == "FAILED"), None)
    for row in rows:
        if row.explanation and row.verdict != "FAILED":
            emit(f"{row.check}: {row.explanation}\n")
    if failure is not None:
        emit(f"\nFAILED: {failure.check}: {failure.explanation}\n")
        return 1
    return 0


def _print_table(rows: Sequence[Row]) -> None:
    colours = {"ok": "green", "note": "yellow", "skipped": "dim", "FAILED": "bold red"}
    cells = [
        (row.check, Text(row.verdict, style=colours[row.verdict]), row.figure, row.tolerance)
        for row in rows
    ]
    console = Console(highlight=False)
    heads = ("check", "result", "figure", "tolerance")
    console.print(fitting_table(console, "", heads, cells, prose=heads))
