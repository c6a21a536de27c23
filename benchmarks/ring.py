"""What a sum over the ranks of a ring costs here, and what a sharded pass sends.

Sums of growing vectors are timed; then a pass of a small random model, sharded, is compared with
one that is not, and the bytes that arrived through the ring are read from the kernel's counters.
Rank 0 prints JSON. It runs on Linux::

    for n in 2 4; do
        mlx.launch -n $n --backend ring -- benchmarks/ring.py --json runs/ring-$n.json
    done
    python tools/machines.py --measured runs/ring-2.json runs/ring-4.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import stat
import statistics
import struct
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import mlx.core as mx

from mlx_simul.training.scratch import new_model

SIZES = [64 * 4**power for power in range(9)]
"""Bytes, from 64 to 4 MiB."""
IN_A_ROW = 10
PASSES = 20
MODEL = {
    "model_type": "qwen2",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
"""Its heads go into 2 and into 4 parts."""
_TCP_INFO = 11
_BYTES_RECEIVED = 128
"""Where Linux's ``struct tcp_info`` holds ``tcpi_bytes_received``, 64 bits."""


def sums_us(group: mx.distributed.Group, seconds: float) -> dict[int, list[float]]:
    """Microseconds of single sums of vectors, by their bytes.

    All sizes take turns, so that all meet the same noise.
    """
    vectors = {size: mx.ones(size // 4) for size in SIZES}
    mx.eval(vectors)
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    is_over = mx.array(0.0)
    began_all_s = time.perf_counter()
    while not is_over.item():
        for size, vector in vectors.items():
            for _ in range(IN_A_ROW):
                began_s = time.perf_counter()
                mx.eval(mx.distributed.all_sum(vector, group=group))
                taken[size].append((time.perf_counter() - began_s) * 1e6)
        # All ranks end after the same sum.
        late = float(time.perf_counter() - began_all_s > seconds)
        is_over = mx.distributed.all_sum(mx.array(late), group=group)
    return taken


def bytes_received() -> int:
    """What all TCP connections of this process have received so far."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
        except OSError:  # the folder's own descriptor is gone
            continue
        with socket.socket(fileno=os.dup(int(name))) as found:
            if found.type == socket.SOCK_STREAM and found.family == socket.AF_INET:
                info = found.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
                total += struct.unpack_from("Q", info, _BYTES_RECEIVED)[0]
    return total


def sharded_pass(group: mx.distributed.Group, n_tokens: int) -> dict[str, Any]:
    """A pass of a sharded model: what it received, and how far it is from the whole model's."""
    ids = mx.arange(n_tokens)[None] + 100
    expected = new_model(MODEL)(ids)
    mx.eval(expected)
    model: Any = new_model(MODEL)
    model.shard(group)
    mx.eval(model.parameters())
    before = bytes_received()
    # The others begin once this sum is done, so nothing of a pass has arrived before. A few bytes
    # of the sum itself are counted, which a mean over passes rounds away.
    mx.eval(mx.distributed.all_sum(mx.ones(group.size()), group=group))
    for _ in range(PASSES):
        got = model(ids)
        mx.eval(got)
    received = round((bytes_received() - before) / PASSES)
    scale = mx.abs(expected).max()
    return {
        "n_tokens": n_tokens,
        "n_layers": len(model.layers),
        "hidden_size": model.args.hidden_size,
        "bytes_per_value": got.dtype.size,
        "bytes_received": received,
        "relative_error": float((mx.abs(got - expected).max() / scale).item()),  # pyright: ignore
        "same_tokens": bool(mx.array_equal(got.argmax(-1), expected.argmax(-1))),
    }


def main() -> None:
    """Measure, and print on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there, too")
    parser.add_argument("--seconds", type=float, default=40.0, help="time for all sums")
    args = parser.parse_args()
    group = mx.distributed.init(strict=True)
    sums = [
        {
            "bytes": size,
            "n": len(taken),
            "least_us": round(min(taken), 1),
            "median_us": round(statistics.median(taken), 1),
        }
        for size, taken in sums_us(group, args.seconds).items()
    ]
    made = {
        "n_ranks": group.size(),
        "n_cores": os.cpu_count(),
        "mlx": version("mlx"),
        "sums": sums,
        "passes": [sharded_pass(group, n) for n in (1, 16)],
    }
    if group.rank() == 0:
        text = json.dumps(made, indent=1) + "\n"
        print(text, end="")
        if args.json:
            args.json.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
