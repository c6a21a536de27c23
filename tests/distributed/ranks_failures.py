"""What must be found out: ``python ranks_failures.py WHICH FILE``, run by every rank."""

from __future__ import annotations

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import json
import sys
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import mlx.core as mx
from ranks_cases import CASES, made, near, read_tokenizer

from mlx_simul.checkpoints import sharding
from mlx_simul.checkpoints.sharding import load_shard
from mlx_simul.engine import orders
from mlx_simul.engine import ranks as engine_ranks
from mlx_simul.engine.ranks import Ranks, ranks_of
from mlx_simul.engine.shard import Shard
from mlx_simul.errors import ModelLoadError, SimulError
from mlx_simul.machine.terminal import say

LLAMA = {"model_type": "llama"}


def refusals(ranks: Ranks) -> dict[str, str]:
    """What each rank says of models that cannot be loaded; it goes on after each."""

    def said(options: dict[str, Any], message: str = "", **more: Any) -> str:
        def load_whole() -> Any:
            if message:
                raise ModelLoadError(message)
            return made(options), None

        try:
            load_shard(load_whole, ranks.group, **more)
        except SimulError as error:
            return f"{type(error).__name__}: {error}"
        return "loaded"

    told = {
        "heads": said(LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 3}),
        "family": said({"model_type": "gemma3_text"}),
        "layers": said({"model_type": "qwen2", "num_hidden_layers": 1}, pipeline=True),
        "no pipeline": said(LLAMA, pipeline=True),
    }
    told["long"] = said(LLAMA, "long " * 600 * ranks.rank)
    before = sharding.memory_bytes
    if ranks.rank == 1:
        sharding.memory_bytes = lambda: 1000
    told["memory"] = said(LLAMA)
    sharding.memory_bytes = before
    told["enough"] = said(LLAMA)
    return told


def still(ranks: Ranks) -> None:
    """A follower whose moved keys stay where they were."""
    if ranks.rank:
        move = vars(Shard.move_target)["carry_out"]
        vars(Shard.move_target)["carry_out"] = wraps(move)(lambda *_: None)


class Skips(Ranks):
    """Leaves one order out."""

    def _carry_out(self, numbers: list[int], find: Any) -> Any:
        _, name, _ = find()
        if self.rank and name == "feed" and self._done % 3 == 0:
            numbers, find = [0], lambda: (self, "drop", ((),))
        return super()._carry_out(numbers, find)


def spoil(ranks: Ranks, which: str) -> None:
    """Rank 0 sends a plan that breaks the schema, or one of more source than anybody holds."""
    if ranks.rank:
        return
    honest = orders.encoded

    def spoiled(thing: Any, name: str, args: Any) -> list[int]:
        if name != "feed":
            return honest(thing, name, args)
        if which == "breaks":
            return [*honest(thing, name, args)[:-1], 7]
        rows, lanes, *more = args
        return honest(thing, name, (rows, (replace(lanes[0], n_source=10**6),), *more))

    vars(engine_ranks)["encoded"] = spoiled


def main() -> None:
    which, file = sys.argv[1:]
    group = mx.distributed.init(strict=True, backend="ring")
    ranks = ranks_of(group)
    tokenizer = read_tokenizer()
    results: dict[str, Any] = {}
    if which == "refusals":
        results = refusals(ranks)
    model = load_shard(lambda: (made(LLAMA), tokenizer), group)[0]
    if which == "refusals":
        still(ranks)
    if which == "skips":
        ranks.__class__ = Skips
    if which in ("breaks", "claims"):
        spoil(ranks, which)
    try:
        if ranks.rank:
            Path(f"{file}.{ranks.rank}").write_text(json.dumps(results))
            sys.exit(ranks.follow())
        with ranks.leading():
            if which == "refusals":
                for name in ("fixed_start", "follows_closely"):
                    run = CASES[name]
                    both = run(made(LLAMA), tokenizer, None), run(model, tokenizer, None)
                    results[name] = near(*both)
                Path(f"{file}.0").write_text(json.dumps(results))
            else:
                CASES["wait_k"](model, tokenizer, None)
    except SimulError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
