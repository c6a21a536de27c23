"""``mlx-simul convert``: an MLX folder from a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mlx_simul.checkpoints.convert import DTYPES, Q_BITS, Q_GROUP_SIZES, Quantization, convert
from mlx_simul.console.arguments import progress_bar
from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.terminal import emit, ending_tidily


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", help="folder of safetensors, GGUF file, or Hub id (owner/name[/file.gguf])"
    )
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="cast the weights (default: keep)")
    parser.add_argument("--quantize", action="store_true", help="quantise the weights")
    parser.add_argument("--q-bits", type=int, choices=Q_BITS, help="bits per weight (default: 4)")
    parser.add_argument(
        "--q-group-size",
        type=int,
        choices=Q_GROUP_SIZES,
        help="weights that share a scale (default: 64)",
    )
    parser.add_argument(
        "--keep-quantized",
        action="store_true",
        help="keep Q4_0, Q4_1 and Q8_0 weights of a GGUF file as they are stored",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--force", action="store_true", help="replace a target that holds a model already"
    )


def run(args: argparse.Namespace) -> int:
    """Convert as the command line says, with a progress bar on a terminal; return the exit code.

    Raises:
        SimulError: see ``convert``.
    """
    quantization = None
    if args.quantize:
        default = Quantization()
        quantization = Quantization(
            args.q_bits or default.bits, args.q_group_size or default.group_size
        )
    elif args.q_bits or args.q_group_size:
        raise InvalidOptionError("--q-bits and --q-group-size need --quantize.")
    with ending_tidily(), progress_bar() as progress:
        target = convert(
            args.source,
            args.target,
            dtype=args.dtype,
            quantization=quantization,
            keep_quantized=args.keep_quantized,
            force=args.force,
            revision=args.revision,
            progress=progress,
        )
    emit(f"{target}: {_summary(target)}\n")
    return 0


def _summary(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    totals = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))["metadata"]
    kind = config.get("torch_dtype") or config.get("dtype") or "as stored"
    if "quantization" in config:
        kind = f"{config['quantization']['bits']} bits"
    return (
        f"{config['model_type']}, {totals['total_parameters'] / 1e6:,.1f} M parameters, {kind}, "
        f"{totals['total_size'] / 1e6:,.1f} MB"
    )
