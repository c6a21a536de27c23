"""Put a trained checkpoint into the package: pack it, measure it, and write its card.

python tools/pack_default.py RUN/best --hardware "one CPU core"
python tools/pack_default.py RUN/latest --hardware "one CPU core" --after mlx_simul/models/en-fr

With --after the run went on from an earlier packed model, whose record says how that was trained.
With --share 0.7 the weights are mixed: 0.7 of the checkpoint's and 0.3 of that model's.
RUN is the folder of an `mlx-simul train` run; the model is measured on the run's validation pairs,
or on those given. The last line says what the model now weighs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure_default import measure
from mlx.utils import tree_map
from mlx_lm.utils import save_model
from model_card import CARD, RECORD, card

from mlx_simul.checkpoints.folder import read_headers, weight_files
from mlx_simul.checkpoints.loading import DEFAULT_MODEL, load
from mlx_simul.checkpoints.pack import pack
from mlx_simul.errors import ConversionError
from mlx_simul.evaluation.corpus import read_corpus
from mlx_simul.evaluation.pairs import read_pairs
from mlx_simul.machine.folders import replacing_folder
from mlx_simul.training.log import read_log

LANGUAGES = ("English", "French")
# Options of a run that name files on this machine mean nothing elsewhere.
TABLES = ("layout", "batches", "augment", "optimiser")


def main() -> int:
    """Pack, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="best/ or latest/ of a run")
    parser.add_argument("--run", type=Path, help="the run's folder (default: the one above it)")
    parser.add_argument("--dev", help="pairs to measure on (default: the run's validation pairs)")
    parser.add_argument("--sources", type=int, help="measure on the first so many of them only")
    parser.add_argument("--after", type=Path, help="packed model that the run went on from")
    parser.add_argument("--share", type=float, help="of the checkpoint's weights, with --after")
    parser.add_argument("--hardware", required=True, help="that it was trained on")
    parser.add_argument("--target", type=Path, default=DEFAULT_MODEL, help="(default: the package)")
    args = parser.parse_args()
    if args.share is not None and not args.after:
        parser.error("--share needs --after, the model that the rest of the weights is from")
    run = args.run or args.checkpoint.resolve().parent
    options = json.loads((run / "options.json").read_text("utf-8"))
    training = summary(args.checkpoint, run, options) | {"hardware": args.hardware}
    if args.after:
        before = json.loads((args.after / RECORD).read_text("utf-8"))
        training["after"] = before["training"] | {"weights_sha256": before["weights_sha256"]}

    items = read_corpus(args.dev or options["data"]["valid"], n_sources=args.sources)
    # The old model stays until the new one is measured.
    with TemporaryDirectory() as name:
        checkpoint = args.checkpoint
        if args.share is not None:
            training["share"] = args.share
            checkpoint = mixed(checkpoint, args.after, args.share, Path(name) / "mixed")
        packed = pack(checkpoint, Path(name) / args.target.name, LANGUAGES)
        weights = (packed / "model.safetensors").read_bytes()
        record = {
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "weights_bytes": len(weights),
            "n_parameters": n_parameters(checkpoint),
            "config": json.loads((packed / "config.json").read_text("utf-8")),
            "training": training,
            "quality": measure(packed, checkpoint, items) | {"is_part": bool(args.sources)},
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (packed / RECORD).write_text(text, "utf-8")
        (packed / CARD).write_text(card(record), "utf-8")
        with replacing_folder(args.target, force=True) as folder:
            shutil.copytree(packed, folder, dirs_exist_ok=True)
    n_bytes = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {n_bytes / 1e6:.2f} MB")
    return 0


def summary(checkpoint: Path, run: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run had done when it wrote a checkpoint.

    Args:
        checkpoint: its ``best`` or ``latest``, or a copy of one.
        run: the folder with its log.
        options: its options.json.

    Raises:
        ConversionError: if the log does not say.
    """
    log = read_log(run / "log.jsonl")
    steps = [record for record in log if "tokens" in record]
    validated = [record for record in log if "valid_loss" in record]
    if not steps or not validated:
        raise ConversionError(f"{run / 'log.jsonl'} does not say how long the run has gone on.")
    if (checkpoint / "training.json").is_file():
        step = json.loads((checkpoint / "training.json").read_text("utf-8"))["step"]
    else:
        best = min(validated, key=lambda record: sum(record["valid_loss"].values()))
        step = best["step"]
    reached = [record for record in steps if record["step"] <= step][-1]
    return {
        "step": step,
        "tokens": reached["tokens"],
        "epochs": reached["epoch"] + 1,
        "seconds": reached["seconds"],
        "n_pairs": sum(1 for _ in read_pairs(options["data"]["train"])),
        "corpus": options["corpus"],
        "options": {table: options[table] for table in TABLES if table in options},
    }


def mixed(checkpoint: Path, after: Path, share: float, folder: Path) -> Path:
    """A copy of a checkpoint with a share of its weights, the rest being another model's."""
    shutil.copytree(checkpoint, folder)
    model, _ = load(checkpoint)
    before, _ = load(after, dequantize=True)
    model.update(
        tree_map(
            lambda new, old: share * new + (1 - share) * old,
            model.parameters(),
            before.parameters(),
        )
    )
    save_model(folder, model)
    return folder


def n_parameters(checkpoint: Path) -> int:
    """Numbers in the weights of an unquantised checkpoint."""
    headers = read_headers(checkpoint, weight_files(checkpoint))
    return sum(math.prod(header.shape) for header in headers.values())


if __name__ == "__main__":
    sys.exit(main())
