"""Where must the target start for a stock model to stream? The table of SPEC section 1.

Teacher-forced nats per target token of a model that was never trained for streaming, over the
position φ at which its target starts: with the whole source read, and under wait-k.

    python benchmarks/target_start.py --model FOLDER_OR_REPO [--wait-k 1 3 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from rich.progress import track
from teacher_forcing import INSTRUCTION, WHOLE_SOURCE, column_of, mean_loss, show

import mlx_simul
from mlx_simul.cache.positions import FixedStart, FollowStart, TargetStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.text.prompts import StreamingDataPreparator

STARTS = (0, 8, 16, 32, 64, 128, 256, 512, 1024)


class Contiguous:
    """The target right behind the source: with the whole source read, the ordinary batch."""

    def position(self, n_source: int, current: int | None) -> int:
        return n_source if current is None else current


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or repository id")
    parser.add_argument("--wait-k", type=int, nargs="*", default=[1, 3, 5])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()

    model, tokenizer = mlx_simul.load(args.model)
    prompt = StreamingDataPreparator(tokenizer, instruction=INSTRUCTION)
    starts: dict[str, TargetStart] = {f"φ = {n}": FixedStart(n) for n in STARTS}
    starts["follow, margin 8"] = FollowStart(8)
    starts["contiguous"] = Contiguous()

    columns = [WHOLE_SOURCE, *args.wait_k]
    figures: dict[str, dict[str, float]] = {}
    jobs = [(name, start, k) for name, start in starts.items() for k in columns]
    for name, start, k in track(jobs, description="nats per target token"):
        if name == "contiguous" and k != WHOLE_SOURCE:
            continue
        engine = partial(StreamingEngine, model, start)
        figures.setdefault(name, {})[column_of(k)] = mean_loss(engine, tokenizer, prompt, k)
    show(figures, "target starts at")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
