"""Loading a model that is spread over several ranks: each has a part of it, as mlx-lm cuts it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_simul.archs.base import entry
from mlx_simul.checkpoints.loading import load
from mlx_simul.engine.orders import Thing, order
from mlx_simul.engine.ranks import Ranks, ranks_of
from mlx_simul.engine.shard import ShardedModel
from mlx_simul.errors import ModelLoadError

HEADS = ("num_attention_heads", "num_key_value_heads")
"""What configs call the heads that are spread over ranks."""


def load_shard(
    load_whole: Callable[[], tuple[Any, TokenizerWrapper]],
    group: mx.distributed.Group,
    *,
    pipeline: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """Load this rank's part of a model; all ranks call it.

    Args:
        load_whole: loads the model without reading its weights.
        group: of the ranks.
        pipeline: give each rank some of the layers, and not a part of each layer.

    Returns:
        The model, of which this rank has its part, and its tokenizer.

    Raises:
        ModelLoadError: if the model cannot be spread in this way, or its part does not fit into
            memory.
        RanksError: if that happened on another rank.
    """
    ranks = ranks_of(group)

    def cut() -> tuple[Any, TokenizerWrapper]:
        model, tokenizer = load_whole()
        shard(model, group, pipeline=pipeline)
        require_memory(model)
        return model, tokenizer

    # Until here no weight is read, so what will not do is refused at once, and on every rank.
    model, tokenizer = ranks.require_all(cut)
    ranks.require_all(lambda: mx.eval(model.parameters()))
    vars(model)["sharded"] = ShardedModel(ranks, model, pipeline)
    return model, tokenizer


def shard(model: Any, group: mx.distributed.Group, *, pipeline: bool = False) -> None:
    """Cut a model down to one rank's part, in place; no weights are read.

    Raises:
        ModelLoadError: if it cannot be cut into that many parts.
    """
    require_ranks(model, group.size(), pipeline=pipeline)
    try:
        (model.model.pipeline if pipeline else model.shard)(group)
    except (ValueError, AssertionError) as error:
        raise ModelLoadError(
            f"this {model.model_type!r} model cannot be spread over {group.size()} ranks, because "
            f"a weight cannot be cut into as many parts: {error}. Use fewer ranks."
        ) from error


def require_ranks(model: Any, n_ranks: int, *, pipeline: bool = False) -> None:
    """Check that a model can be spread over this many ranks.

    Raises:
        ModelLoadError: if its family cannot be, or its heads or layers cannot.
    """
    inner: Any = getattr(model, "model", None)
    ways = {"shard": hasattr(model, "shard"), "pipeline": hasattr(inner, "pipeline")}
    if not ways["pipeline" if pipeline else "shard"]:
        other = "pipeline=True would do" if ways["pipeline"] and not pipeline else None
        other = "without pipeline=True it can" if ways["shard"] and pipeline else other
        what = "layers" if pipeline else "heads"
        raise ModelLoadError(
            f"mlx-lm cannot spread the {what} of a {model.model_type!r} model over ranks; "
            f"{other or 'run it in one process, or take a family such as llama or qwen3'}."
        )
    if any("lora_a" in name for name, _ in tree_flatten(model.parameters())):
        raise ModelLoadError(
            "a model with adapters cannot be spread over ranks; put them into the weights first, "
            "by `mlx_lm.fuse`, and load that folder."
        )
    args = getattr(model, "args", None) or getattr(model, "config", None)
    if pipeline:
        counts = {"layers": len(inner.layers)}
        refused = {name: n for name, n in counts.items() if n < n_ranks}
    else:
        parts = (args, entry(args, "text_config"))
        counts = {name: entry(part, name) for part in parts for name in HEADS if entry(part, name)}
        refused = {name: n for name, n in counts.items() if n % n_ranks}
    if refused:
        name, n = next(iter(refused.items()))
        fitting = [n for n in range(2, n_ranks) if not any(m % n for m in counts.values())]
        advice = f"use {' or '.join(map(str, fitting))} ranks" if fitting else "use one process"
        raise ModelLoadError(
            f"this {model.model_type!r} model has {name}={n}, which {n_ranks} ranks cannot share "
            f"evenly; {advice}."
        )


def require_memory(model: nn.Module) -> None:
    """Check that the weights of a model, which are not read yet, fit into this machine's memory.

    Raises:
        ModelLoadError: if not.
    """
    parameters: Any = tree_flatten(model.parameters())
    n_bytes = sum(weights.nbytes for _, weights in parameters)
    most = memory_bytes()
    if n_bytes > most:
        raise ModelLoadError(
            f"this rank's part of the weights takes {n_bytes / 2**30:.1f} GB, and this machine has "
            f"{most / 2**30:.1f} GB of memory for it; use more ranks, or fewer bits."
        )


def memory_bytes() -> int:
    """What MLX may use of this machine's memory."""
    working_set: Any = mx.device_info().get("max_recommended_working_set_size")
    return working_set or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Loader(Thing):
    """Loads models on all ranks, as rank 0 says.

    Args:
        ranks: all ranks; each of them makes its own Loader.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._group = ranks.group
        self._loaded: list[tuple[nn.Module, TokenizerWrapper]] = []
        ranks.add_common(self)

    def load(
        self, place: str | None, adapter: str | None = None, allow_unverified: bool = False
    ) -> tuple[nn.Module, TokenizerWrapper]:
        """As :func:`mlx_simul.load`, on all ranks."""
        self._load(place, adapter, allow_unverified)
        return self._loaded.pop()

    @order
    def _load(self, place: str | None, adapter: str | None, allow_unverified: bool) -> None:
        loaded = load(
            place, adapter_path=adapter, allow_unverified=allow_unverified, group=self._group
        )
        self._loaded[:] = [loaded]
