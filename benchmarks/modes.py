"""What the mode, and quantised keys and values, cost a model that was never trained for streaming.

Teacher-forced nats per target token: with the whole source read, and under wait-k.

    python benchmarks/modes.py --model FOLDER_OR_REPO [--wait-k 1 3 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track
from teacher_forcing import INSTRUCTION, WHOLE_SOURCE, column_of, mean_loss, show

import mlx_simul
from mlx_simul.engine import make_engine
from mlx_simul.text.prompts import StreamingDataPreparator

WAYS: dict[str, dict[str, Any]] = {
    "group": {"mode": "group"},
    "group, 8-bit keys and values": {"mode": "group", "kv_bits": 8},
    "group, 4-bit keys and values": {"mode": "group", "kv_bits": 4},
    "reencode": {"mode": "reencode"},
    "interleaved": {"mode": "interleaved"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or repository id")
    parser.add_argument("--wait-k", type=int, nargs="*", default=[1, 3, 5])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()

    model, tokenizer = mlx_simul.load(args.model)
    prompt = StreamingDataPreparator(tokenizer, instruction=INSTRUCTION)
    figures: dict[str, dict[str, float]] = {}
    jobs = [(name, k) for name in WAYS for k in (WHOLE_SOURCE, *args.wait_k)]
    for name, k in track(jobs, description="nats per target token"):
        engine = partial(make_engine, model, **WAYS[name])
        figures.setdefault(name, {})[column_of(k)] = mean_loss(engine, tokenizer, prompt, k)
    show(figures, "streams by")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
