"""Reading a prompt and writing token by token with the BLAS that is in use.

Run it with and without a real BLAS in turn, on the same quiet machine:

    MLX_SIMUL_BLAS=none python benchmarks/blas.py --model FOLDER
    python benchmarks/blas.py --model FOLDER
    OMP_WAIT_POLICY=ACTIVE python benchmarks/blas.py --model FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mlx_simul
from mlx_simul.cache.positions import FollowStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.machine.blas import describe

N_PROMPT_TOKENS, N_WRITTEN_TOKENS = 96, 16


def figures(model: Any) -> tuple[float, float]:
    """Tokens per second, read in one pass and written one by one."""
    ids = [5 + 7 * i % (model.args.vocab_size - 5) for i in range(N_PROMPT_TOKENS)]
    engine = StreamingEngine(model, FollowStart())
    began_s = time.perf_counter()
    engine.read(ids)
    read_s = time.perf_counter() - began_s
    engine.predict(ids[:3], [])
    began_s = time.perf_counter()
    for token in ids[:N_WRITTEN_TOKENS]:
        engine.predict([token], [])
    return N_PROMPT_TOKENS / read_s, N_WRITTEN_TOKENS / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    model, _ = mlx_simul.load(args.model)
    figures(model)
    read, written = zip(*(figures(model) for _ in range(args.runs)), strict=True)
    print(f"{describe()}: median of {args.runs}")
    print(f"  read     {statistics.median(read):7.1f} tokens/s")
    print(f"  written  {statistics.median(written):7.1f} tokens/s")


if __name__ == "__main__":
    main()
