"""How good a model is: its loss on pairs it has not seen, and BLEU through real sessions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.corpus import group_by_source
from mlx_simul.evaluation.figures import said_before
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.evaluation.quality import text_quality
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.translate import Player, Translator
from mlx_simul.evaluation.units import bleu_tokenizer_of, unit_of
from mlx_simul.machine.peers import Peers
from mlx_simul.options import SessionOptions
from mlx_simul.policies import WaitK, WholeSource
from mlx_simul.training.batches import Sample, collate, group_by_length
from mlx_simul.training.layout import StreamingLayout
from mlx_simul.training.loss import streaming_loss
from mlx_simul.training.options import LayoutOptions, WaitChoice


def mean_loss(
    model: nn.Module,
    pairs: Iterable[Pair],
    layout: StreamingLayout,
    options: LayoutOptions,
    wait_k: WaitChoice,
    max_tokens: int,
    peers: Peers | None = None,
) -> float:
    """Mean nats per scored token of single pairs, at one latency.

    Args:
        model: in evaluation mode.
        pairs: at least one.
        layout: turns them into examples.
        options: of that layout.
        wait_k: words to stay behind; ``None`` for the whole source.
        max_tokens: of a batch.
        peers: processes that share the batches; by default this one alone.
    """
    peers = peers or Peers()
    samples = []
    for pair in pairs:
        example = layout.example([pair])
        if options.mode == "batch":
            samples.append(Sample(example, None, len(example.source_ids)))
        else:
            samples.append(Sample(example, wait_k, options.target_starts[0]))
    total, n_scored = 0.0, 0
    for group in peers.share(list(group_by_length(samples, max_tokens))):
        scored = sum(sample.n_scored for sample in group)
        total += float(streaming_loss(model, collate(group)).item()) * scored  # pyright: ignore
        n_scored += scored
    totals, counts = zip(*peers.gather([total, n_scored]), strict=True)
    return sum(totals) / sum(counts)


@dataclass(frozen=True)
class Quality:
    """Translations of some sources at one latency, judged.

    Attributes:
        bleu: sacrebleu's, against all references of a source.
        chrf: likewise.
        length_ratio: tokens written per token of the closest reference, as BLEU counts them;
            ``None`` if the closest references have none.
        ended: the share of translations that ended by themselves.
        lag_words: mean number of words of speech read when a word was written.
    """

    bleu: float
    chrf: float
    length_ratio: float | None
    ended: float
    lag_words: float


def session_options(options: LayoutOptions) -> SessionOptions:
    """What makes a session lay out its prompt as training did."""
    low, high = options.target_starts
    is_fixed = options.mode == "group" and low == high
    return SessionOptions.of(
        turns=None,
        instruction=options.instruction,
        source_language=options.source_language,
        target_language=options.target_language,
        frame=options.frame,
        date=options.date,
        max_tokens_per_word=options.max_tokens_per_word,
        target_start=low if is_fixed else "follow",
    )


def translation_quality(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[Pair],
    options: LayoutOptions,
    wait_k: WaitChoice,
    n_sources: int | None = None,
    peers: Peers | None = None,
) -> Quality:
    """Translate sources through real sessions and compare with all their references.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        pairs: those with the same source are its references.
        options: of the layout it was trained with.
        wait_k: words to stay behind; ``None`` for the whole source.
        n_sources: take only this many distinct sources, from the first.
        peers: processes that share the sources; by default this one alone.

    Raises:
        InvalidOptionError: if sacrebleu is not installed, or there is nothing to translate.
    """
    peers = peers or Peers()
    items = group_by_source(pairs)[:n_sources]
    if not items:
        raise InvalidOptionError("there are no pairs to measure BLEU on; give some for validation.")
    texts = [text for item in items for text in item.references]
    player = Player(model, tokenizer, session_options(options))
    translate = Translator(player, unit_of(texts))
    policy = WholeSource() if wait_k is None else WaitK(wait_k)
    made = [
        translate(index, items[index].source, policy).to_json()
        for index in peers.share(range(len(items)))
    ]
    records = [Record.from_json(line) for lines in peers.gather(made) for line in lines]
    records.sort(key=lambda record: record.index)
    scores = text_quality(
        [record.prediction for record in records],
        [item.references for item in items],
        bleu_tokenizer_of(texts),
    )
    said = [said_before(item, record) for item, record in zip(items, records, strict=True)]
    delays = [said[record.index][delay] for record in records for delay in record.delays]
    return Quality(
        bleu=scores.bleu,
        chrf=scores.chrf,
        length_ratio=scores.length_ratio,
        ended=sum(record.reason == "end_of_turn" for record in records) / len(records),
        lag_words=sum(delays) / max(1, len(delays)),
    )
