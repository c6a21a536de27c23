"""Which attention heads follow the source, learned from pairs.

Each target is run after its whole source, and where each head looks while it predicts a word is
compared with a word alignment of the same pairs. The heads whose mean points best are stored in
the checkpoint's config.json, where policies such as align-att find them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_simul import archs
from mlx_simul.archs.prepare import adopt
from mlx_simul.archs.streaming_config import CONFIG_KEY, StreamingConfig
from mlx_simul.engine import make_engine
from mlx_simul.engine.attention import View, recording, watchable_layers
from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.machine.files import read_object, write_whole
from mlx_simul.policies.base import Head, require_count
from mlx_simul.training.layout import Example, StreamingLayout
from mlx_simul.training.options import LayoutOptions
from mlx_simul.training.word_alignment import align

DEFAULT_HEADS = 4
DEFAULT_PAIRS = 100
# Aligning words takes more pairs than looking at heads does, and next to no time.
MAX_ALIGNED_PAIRS = 20_000


@dataclass(frozen=True)
class Calibration:
    """Which heads follow the source.

    Attributes:
        heads: the chosen ones, best first.
        score: the share of target words for which their mean attention is strongest on the source
            word that the word alignment names.
        scores: that of each head by itself.
    """

    heads: tuple[Head, ...]
    score: float
    scores: dict[Head, float]


def calibrate(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    n_heads: int = DEFAULT_HEADS,
    n_pairs: int = DEFAULT_PAIRS,
    source_language: str | None = None,
    target_language: str | None = None,
) -> Calibration:
    """Find the heads that follow the source.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        pairs: translations; all serve to align words, the more the better.
        n_heads: the most heads to choose; fewer if another one makes their mean worse.
        n_pairs: pairs that the model is run on.
        source_language: for the prompt, if the checkpoint was not trained with one.
        target_language: likewise.

    Raises:
        DataError: if there are no pairs of two words and more.
        InvalidOptionError: if a number is below 1, or the attention of no layer can be seen.
    """
    require_count("the number of heads", n_heads)
    require_count("the number of pairs", n_pairs)
    model = adopt(model, tokenizer)
    trained = archs.streaming_config(model)
    options = LayoutOptions(
        instruction=trained.instruction,
        source_language=source_language or trained.source_language,
        target_language=target_language or trained.target_language,
        frame=trained.frame or "auto",
    )
    layout = StreamingLayout(tokenizer, options)
    examples = [layout.example([pair]) for pair in islice(pairs, MAX_ALIGNED_PAIRS)]
    examples = [e for e in examples if min(len(e.source), len(e.target)) > 3]
    if not examples:
        raise DataError("no pair here has two words on each side; heads cannot be told apart.")
    wanted = align([(e.source[1:-1], e.target[1:-1]) for e in examples])
    heads = _all_heads(model, examples[0])
    seen = [_attention(model, example, heads) for example in examples[:n_pairs]]
    return _chosen(heads, seen, [np.array(links) for links in wanted[:n_pairs]], n_heads)


def store(folder: Path, heads: Sequence[Head]) -> None:
    """Write the heads into a checkpoint's config.json, all or nothing.

    Raises:
        InvalidOptionError: if the folder holds no config.json.
    """
    path = require_config(folder)
    config = read_object(path, InvalidOptionError, "Fetch the checkpoint again.")
    found = StreamingConfig(alignment_heads=tuple(heads))
    config[CONFIG_KEY] = (StreamingConfig.of_checkpoint(config) | found).to_json()
    write_whole(path, json.dumps(config, indent=2) + "\n")


def require_config(folder: Path) -> Path:
    """The config.json of a folder, if it is there and may be replaced."""
    path = folder / "config.json"
    if not path.is_file() or not os.access(folder, os.W_OK):
        wrong = "cannot be written" if path.is_file() else "does not hold a config.json"
        raise InvalidOptionError(
            f"{folder} {wrong}; calibrate a model in a folder of your own (mlx-simul convert makes "
            "one), or store nothing (--dry-run)."
        )
    return path


def _all_heads(model: Any, example: Example) -> list[Head]:
    layers = watchable_layers(model)
    if not layers:
        raise InvalidOptionError(
            f"the attention of no layer of a {model.model_type!r} model can be seen; take a policy "
            "that needs none, such as local-agreement."
        )
    engine, first_heads = make_engine(model), [(layer, 0) for layer in layers]
    engine.watch(first_heads)
    with recording([View.of_newest(first_heads, 1)]) as recorded:
        engine.write(example.target_ids[:1])
    return [(layer, head) for layer, n in sorted(recorded.n_heads.items()) for head in range(n)]


def _attention(model: Any, example: Example, heads: Sequence[Head]) -> np.ndarray:
    """(heads, target words, source words): where each head looks while it predicts each word."""
    engine = make_engine(model)
    engine.watch(heads)
    engine.read(example.source_ids)
    target_ids = example.target_ids
    with recording([View.of_newest(heads, len(target_ids))]) as recorded:
        mx.eval(engine.write(target_ids))
        weights = recorded.weights()[..., mx.array(list(engine.source_columns(0)))]
    # The row before a token predicts it.
    rows = [(start - 1, end - 1) for start, end in _spans(example.target)[1:-1]]
    columns = _spans(example.source)[1:-1]
    seen = np.array(weights)
    by_source = np.stack([seen[..., a:b].sum(axis=-1) for a, b in columns], axis=-1)
    return np.stack([by_source[:, a:b].mean(axis=1) for a, b in rows], axis=1)


def _spans(segments: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return list(pairwise((0, *accumulate(map(len, segments)))))


def _chosen(
    heads: Sequence[Head], seen: Sequence[np.ndarray], links: Sequence[np.ndarray], n_heads: int
) -> Calibration:
    """The best head, and then whichever makes the mean of all better, as long as one does."""

    def score(rows: Sequence[int]) -> float:
        hits = [
            links_of_pair[np.arange(len(links_of_pair)), of_pair[rows].mean(axis=0).argmax(axis=-1)]
            for of_pair, links_of_pair in zip(seen, links, strict=True)
        ]
        return float(np.concatenate(hits).mean())

    alone = [score([i]) for i in range(len(heads))]
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < n_heads:
        tried = {i: score([*chosen, i]) for i in range(len(heads)) if i not in chosen}
        i = max(tried, key=lambda i: tried[i], default=None)
        if i is None or tried[i] <= best:
            break
        chosen.append(i)
        best = tried[i]
    return Calibration(tuple(heads[i] for i in chosen), best, dict(zip(heads, alone, strict=True)))
