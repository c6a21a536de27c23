"""Put a trained checkpoint into the package: pack it, measure it, and write its card.

python tools/pack_default.py RUN/best --hardware "one CPU core"
python tools/pack_default.py RUN/latest --hardware "one CPU core" --after mlx_simul/models/en-fr

With --after the run went on from an earlier packed model, whose record says how that was trained.
With --earlier RUN1/latest it went on from that run's, and only that one from the packed model.
With --share 0.7 the weights are mixed: 0.7 of the checkpoint's and 0.3 of the packed model's.

RUN is the folder of an `mlx-simul train` run; the model is measured on the run's validation pairs,
or on those given. It is packed and measured in a folder of its own, and the same command resumes
what was stopped there; the package's model is replaced once all is measured. With --now it is
replaced at once, and its card has gaps until then. The last line says what the model now weighs.
"""

from __future__ import annotations

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from measure_default import conditions_of_all, measure
from mlx.utils import tree_map
from mlx_lm.utils import save_model
from model_card import CARD, RECORD, card

from mlx_simul.checkpoints.folder import read_headers, weight_files
from mlx_simul.checkpoints.loading import DEFAULT_MODEL, load
from mlx_simul.checkpoints.pack import pack
from mlx_simul.errors import ConversionError
from mlx_simul.evaluation.corpus import read_corpus
from mlx_simul.evaluation.pairs import read_pairs
from mlx_simul.machine.files import write_whole
from mlx_simul.machine.folders import replacing_folder
from mlx_simul.training.calibrate import MAX_ALIGNED_PAIRS, calibrate, store
from mlx_simul.training.log import read_log

LANGUAGES = ("English", "French")
# Options of a run that name files on this machine mean nothing elsewhere.
TABLES = ("layout", "batches", "augment", "optimiser")


def main() -> int:
    """Pack, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="best/ or latest/ of a run")
    parser.add_argument("--dev", help="pairs to measure on (default: the run's validation pairs)")
    parser.add_argument("--sources", type=int, help="measure only on this many, from the first")
    parser.add_argument("--earlier", type=Path, help="checkpoint that the run went on from")
    parser.add_argument("--after", type=Path, help="packed model that the first run went on from")
    parser.add_argument(
        "--share", type=float, help="share of the checkpoint's weights, with --after"
    )
    parser.add_argument(
        "--history-pairs", type=int, default=0, help="pairs that a session may show it"
    )
    parser.add_argument("--hardware", required=True, help="what it was trained on")
    parser.add_argument("--work", type=Path, help="where to measure (default: RUN/packed)")
    parser.add_argument("--now", action="store_true", help="replace the model before measuring")
    parser.add_argument("--target", type=Path, default=DEFAULT_MODEL, help="(default: the package)")
    args = parser.parse_args()
    if args.share is not None and not args.after:
        parser.error("--share needs --after, the model that the rest of the weights is from")
    work: Path = args.work or args.checkpoint.resolve().parent / "packed"
    options = options_of(args.checkpoint)
    items = read_corpus(args.dev or options["data"]["valid"], n_sources=args.sources)

    unpacked = copied(args.checkpoint, work / "unpacked")
    if args.share is not None:
        mix(unpacked, args.after, args.share)
    packed = work / args.target.name
    held = json.loads((work / RECORD).read_text("utf-8")) if (work / RECORD).is_file() else {}
    pack(unpacked, packed, LANGUAGES, args.history_pairs)
    find_heads(packed, options["data"]["train"])
    record: dict[str, Any] = described(packed, unpacked, history_of(args)) | {
        "test_set": conditions_of_all(items) | {"is_part": bool(args.sources)}
    }
    same = all(held.get(name) == value for name, value in record.items())
    record["quality"] = held["quality"] if same else {}
    began_s = time.monotonic()

    def report(what: str, n_done: int, n_all: int) -> None:
        write_whole(work / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        minutes = (time.monotonic() - began_s) / 60
        print(f"{n_done} of {n_all}, {minutes:.1f} min: {what}", file=sys.stderr, flush=True)
        if n_done == n_all or args.now:
            with replacing_folder(args.target, force=True) as folder:
                shutil.copytree(packed, folder, dirs_exist_ok=True)
                shutil.copyfile(work / RECORD, folder / RECORD)
                (folder / CARD).write_text(card(record), "utf-8")

    measure(packed, unpacked, items, record["quality"], report)
    n_bytes = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {n_bytes / 1e6:.2f} MB")
    return 0


def described(packed: Path, unpacked: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a model, but for its quality."""
    weights = (packed / "model.safetensors").read_bytes()
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "weights_bytes": len(weights),
        "n_parameters": n_parameters(unpacked),
        "config": json.loads((packed / "config.json").read_text("utf-8")),
        "training": training,
    }


def history_of(args: argparse.Namespace) -> dict[str, Any]:
    """How the runs went, the last one first and each ``after`` another."""
    training = before = summary(args.checkpoint) | {"hardware": args.hardware}
    if args.share is not None:
        training["share"] = args.share
    if args.earlier:
        before["after"] = summary(args.earlier) | {"hardware": args.hardware}
        before = before["after"]
    if args.after:
        record = json.loads((args.after / RECORD).read_text("utf-8"))
        before["after"] = record["training"] | {"weights_sha256": record["weights_sha256"]}
    return training


def find_heads(packed: Path, pairs: str) -> None:
    """Store which attention heads follow the source, found on training pairs."""
    model, tokenizer = load(packed, dequantize=True)
    known = list(islice(read_pairs(pairs), MAX_ALIGNED_PAIRS))
    store(packed, calibrate(model, tokenizer, known).heads)


def options_of(checkpoint: Path) -> dict[str, Any]:
    """The options of the run that wrote a checkpoint."""
    return json.loads((checkpoint.resolve().parent / "options.json").read_text("utf-8"))


def summary(checkpoint: Path) -> dict[str, Any]:
    """What a run had done when it wrote a checkpoint.

    Args:
        checkpoint: its ``best`` or ``latest``.

    Raises:
        ConversionError: if the run's log does not say.
    """
    run, options = checkpoint.resolve().parent, options_of(checkpoint)
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


def copied(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint without what only its run needs."""
    with replacing_folder(folder, force=True) as new:
        unneeded = shutil.ignore_patterns("training.*")
        shutil.copytree(checkpoint, new, dirs_exist_ok=True, ignore=unneeded)
    return folder


def mix(checkpoint: Path, after: Path, share: float) -> None:
    """Give a checkpoint a share of its weights, and another model's for the rest."""
    model, _ = load(checkpoint)
    before, _ = load(after, dequantize=True)
    model.update(
        tree_map(
            lambda new, old: share * new + (1 - share) * old,
            model.parameters(),
            before.parameters(),
        )
    )
    save_model(checkpoint, model)


def n_parameters(checkpoint: Path) -> int:
    """Numbers in the weights of an unquantised checkpoint."""
    headers = read_headers(checkpoint, weight_files(checkpoint))
    return sum(math.prod(header.shape) for header in headers.values())


if __name__ == "__main__":
    sys.exit(main())
