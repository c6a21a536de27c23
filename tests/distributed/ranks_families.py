"""Every family that mlx-lm can spread gives the logits on two ranks that it gives on one.

``python ranks_families.py FILE`` writes the largest difference for each variation, or why it is
refused. Each rank says the same; rank 0 writes.
"""

from __future__ import annotations

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from tiny_configs import full_config
from tiny_models import VARIATIONS, Variation, fresh_model

from mlx_simul.checkpoints.sharding import load_shard
from mlx_simul.engine import make_engine
from mlx_simul.engine.ranks import ranks_of
from mlx_simul.errors import SimulError

PASSES = (((5, 6, 7, 9), (8, 11)), ((12,), (13,)), ((), (14, 15)), ((16, 17), (18,)))


def made(variation: Variation) -> Any:
    """The same weights on every rank."""
    mx.random.seed(len(str(variation)))
    return fresh_model(variation.model_type, full_config(variation.model_type, variation.config))


def can_spread(variation: Variation) -> bool:
    return variation.bits is None and variation.dtype == mx.float32


def logits(model: Any) -> mx.array:
    engine = make_engine(model, target_start=9 if "group" in modes(model) else "auto")
    rows = [engine.read_and_write(source, target)[0] for source, target in PASSES]
    engine.roll_back(1)
    return mx.concatenate([*rows, engine.write([19])[0]])


def modes(model: Any) -> tuple[str, ...]:
    from mlx_simul import archs

    return archs.of(model).modes


def main() -> None:
    file = sys.argv[1]
    group = mx.distributed.init(strict=True, backend="ring")
    ranks = ranks_of(group)
    spread: dict[str, Any] = {}
    results: dict[str, Any] = {}
    variations = {each.model_type: each for each in reversed(VARIATIONS) if can_spread(each)}
    for name, variation in variations.items():
        whole = made(variation)
        if not hasattr(whole, "shard"):
            continue
        try:
            spread[name] = load_shard(lambda v=variation: (made(v), None), group)[0]
        except SimulError as error:
            results[name] = str(error)
    if ranks.rank:
        sys.exit(ranks.follow())
    with ranks.leading():
        for name, model in spread.items():
            try:
                a, b = logits(made(variations[name])), logits(model)
                results[name] = float((mx.abs(a - b).max() / mx.abs(a).max()).item())
            except Exception as error:
                results[name] = f"{type(error).__name__}: {error}"
            Path(file).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
