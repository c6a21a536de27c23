"""``mlx-simul models``: which model types stream, how, and what was measured of each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mlx_simul import archs
from mlx_simul.machine.terminal import emit, emit_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(args: argparse.Namespace) -> int:
    """Print what streams, and how it was verified."""
    aliases, verified = archs.remapped_types(), archs.verified()
    models = [
        {
            "model_type": model_type,
            "also": [alias for alias, known in aliases.items() if known == model_type],
            "modes": archs.find(model_type).modes,
            "not_in_groups_because": archs.find(model_type).not_in_groups_because,
            "verified": verified.get(model_type),
        }
        for model_type in archs.registered_types()
    ]
    if args.json:
        emit_json(models, indent=2)
        return 0
    rows = [("model_type", "also", "streams by", "laws", "largest error", "compared with")]
    rows += [_model_row(model) for model in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        emit("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")
    return 0


def _model_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    head = model["model_type"], ", ".join(model["also"]), model["modes"][0]
    if model["verified"] is None:
        return *head, "", "", "not verified"
    measured = model["verified"][model["modes"][0]]
    other = "transformers, mlx-lm" if "transformers" in model["verified"] else "mlx-lm"
    return *head, str(measured["laws"]), f"{measured['error']:.0e}", other
