"""A write step on DualStreamingCache beside mlx-lm's KVCache over as many tokens.

Both attend with one new token to 60,000 cached ones (30,000 source and 30,000 target for ours), in
turn, so that both meet the same noise; the figure is the median of the paired ratios.

    python benchmarks/cache.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import mlx.core as mx
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache

from mlx_simul.cache import DualStreamingCache

# SmolLM2-135M: query heads, kv heads, head size.
H, K, D = 9, 3, 64

MOST = 1.05
"""Beyond this ratio the script exits with 1."""


def tokens(n: int) -> tuple[mx.array, mx.array]:
    """Keys and values of n tokens, (1, K, n, D) each."""
    return mx.random.normal((1, K, n, D)), mx.random.normal((1, K, n, D))


def fill(n_source: int, n_target: int) -> tuple[DualStreamingCache, KVCache]:
    """Both caches, holding the same number of tokens."""
    ours, theirs = DualStreamingCache(), KVCache()
    ours.update_source(*tokens(n_source))
    ours.update_target(*tokens(n_target))
    ours.is_reading = False
    theirs.update_and_fetch(*tokens(n_source + n_target))
    mx.eval(ours.state[:2], theirs.state[:2])
    return ours, theirs


def step_ms(cache: DualStreamingCache | KVCache) -> float:
    """One decoding step of one layer: append a token, attend to all."""
    keys, values = tokens(1)
    queries = mx.random.normal((1, H, 1, D))
    mx.eval(keys, values, queries)
    began = time.perf_counter()
    mask = cache.make_mask(1, return_array=False, window_size=None)
    keys, values = cache.update_and_fetch(keys, values)
    mx.eval(
        scaled_dot_product_attention(queries, keys, values, cache=cache, scale=D**-0.5, mask=mask)
    )
    return (time.perf_counter() - began) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=30_000, help="in each group")
    parser.add_argument("--steps", type=int, default=60, help="pairs measured")
    args = parser.parse_args()

    ours, theirs = fill(args.tokens, args.tokens)
    pairs = []
    for i in range(args.steps):
        # Who goes first alternates too.
        if i % 2:
            b, a = step_ms(theirs), step_ms(ours)
        else:
            a, b = step_ms(ours), step_ms(theirs)
        pairs.append((a, b))
    ratios = sorted(a / b for a, b in pairs)
    print(f"{2 * args.tokens} cached tokens, {args.steps} pairs of steps, median ms per layer:")
    print(f"  DualStreamingCache  {statistics.median(a for a, _ in pairs):.3f}")
    print(f"  mlx-lm KVCache      {statistics.median(b for _, b in pairs):.3f}")
    low, high = ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
    middle = statistics.median(ratios)
    print(f"  ratio               {middle:.3f}  (10 % to 90 %: {low:.2f} to {high:.2f})")
    return middle > MOST


if __name__ == "__main__":
    sys.exit(main())
