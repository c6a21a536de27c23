"""``mlx-simul calibrate``: find the attention heads that follow the source, and store them."""

from __future__ import annotations

import argparse
from itertools import islice

from mlx_simul.checkpoints.loading import load
from mlx_simul.console.arguments import add_languages
from mlx_simul.evaluation.pairs import read_pairs
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit
from mlx_simul.training.calibrate import (
    DEFAULT_HEADS,
    DEFAULT_PAIRS,
    MAX_ALIGNED_PAIRS,
    calibrate,
    require_config,
    store,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model", type=expanded, help="folder of the model; its config.json is changed"
    )
    parser.add_argument("--data", required=True, metavar="FILE", help="pairs: .tsv or .jsonl")
    parser.add_argument(
        "--heads", type=int, default=DEFAULT_HEADS, metavar="N", help="the most heads to keep"
    )
    parser.add_argument(
        "--pairs", type=int, default=DEFAULT_PAIRS, metavar="N", help="pairs to run on"
    )
    add_languages(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the heads, store nothing")


def run(args: argparse.Namespace) -> int:
    """Calibrate a model, and say what was found; return the exit code."""
    if not args.dry_run:
        require_config(args.model)
    model, tokenizer = load(args.model)
    found = calibrate(
        model,
        tokenizer,
        list(islice(read_pairs(args.data), MAX_ALIGNED_PAIRS)),
        n_heads=args.heads,
        n_pairs=args.pairs,
        source_language=args.source_language,
        target_language=args.target_language,
    )
    for (layer, head), score in sorted(found.scores.items(), key=lambda item: -item[1])[:8]:
        mark = "*" if (layer, head) in found.heads else " "
        emit(f"{mark} layer {layer:2d} head {head:2d}  {score:6.1%}\n")
    chosen = "+".join(f"{layer}-{head}" for layer, head in found.heads)
    emit(f"{chosen}: {found.score:.1%} of the words\n")
    if not args.dry_run:
        store(args.model, found.heads)
    return 0
