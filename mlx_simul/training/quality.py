"""How good a model is: its loss on pairs it has not seen, and BLEU through real sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx_simul.before_mlx

import mlx.nn as nn

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Finished
from mlx_simul.pairs import Pair
from mlx_simul.policies import WaitK
from mlx_simul.session import SessionOptions, SimulSession
from mlx_simul.training.batches import Sample, collate, group_by_length
from mlx_simul.training.layout import StreamingLayout
from mlx_simul.training.loss import streaming_loss
from mlx_simul.training.options import LayoutOptions, WaitChoice

# More words than any source here has: wait-k with such a k reads everything first.
_WHOLE = 1 << 20


def mean_loss(
    model: nn.Module,
    pairs: Iterable[Pair],
    layout: StreamingLayout,
    options: LayoutOptions,
    wait_k: WaitChoice,
    max_tokens: int,
) -> float:
    """Mean nats per scored token of single pairs, at one latency.

    Args:
        model: in evaluation mode.
        pairs: at least one.
        layout: turns them into examples.
        options: of that layout.
        wait_k: words to stay behind; ``None`` for the whole source.
        max_tokens: of a batch.
    """
    samples = []
    for pair in pairs:
        example = layout.example([pair])
        if options.mode == "batch":
            samples.append(Sample(example, None, len(example.source_ids)))
        else:
            samples.append(Sample(example, wait_k, options.target_starts[0]))
    total = n_scored = 0.0
    for group in group_by_length(samples, max_tokens):
        batch = collate(group)
        scored = float(batch.weights.sum().item())  # pyright: ignore[reportArgumentType]
        total += float(streaming_loss(model, batch).item()) * scored  # pyright: ignore
        n_scored += scored
    return total / n_scored


@dataclass(frozen=True)
class Quality:
    """Translations of some sources at one latency, judged.

    Attributes:
        bleu: sacrebleu's, against all references of a source.
        chrf: likewise.
        length_ratio: words written per word of the closest reference, as BLEU takes it.
        ended: the share of translations that ended by themselves.
        lag_words: mean number of words read when a word was written.
    """

    bleu: float
    chrf: float
    length_ratio: float
    ended: float
    lag_words: float


def session_options(options: LayoutOptions) -> SessionOptions:
    """What makes a session lay out its prompt as training did."""
    low, high = options.target_starts
    is_fixed = options.mode == "group" and low == high
    return SessionOptions(
        instruction=options.instruction,
        source_language=options.source_language,
        target_language=options.target_language,
        frame=options.frame,
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
) -> Quality:
    """Translate sources through real sessions and compare with all their references.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        pairs: those with the same source are its references.
        options: of the layout it was trained with.
        wait_k: words to stay behind; ``None`` for the whole source.
        n_sources: the first so many distinct sources only.

    Raises:
        InvalidOptionError: if sacrebleu is not installed, or there is nothing to translate.
    """
    references: dict[str, list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.source, []).append(pair.target)
    sources = list(references)[:n_sources]
    if not sources:
        raise InvalidOptionError("there are no pairs to measure BLEU on; give some for validation.")
    finished = [_translated(model, tokenizer, text, options, wait_k) for text in sources]
    hypotheses = [event.text for event in finished]
    bleu, chrf, ratio = _scores(hypotheses, [references[source] for source in sources])
    delays = [delay for event in finished for delay in event.delays]
    return Quality(
        bleu=bleu,
        chrf=chrf,
        length_ratio=ratio,
        ended=sum(event.reason == "end_of_turn" for event in finished) / len(finished),
        lag_words=sum(delays) / max(1, len(delays)),
    )


def _translated(
    model: nn.Module, tokenizer: Any, text: str, options: LayoutOptions, wait_k: WaitChoice
) -> Finished:
    chosen = session_options(options)
    chosen["policy"] = WaitK(_WHOLE if wait_k is None else wait_k)
    chosen["max_tokens"] = 64 + 8 * len(text.split())
    session = SimulSession(model, tokenizer, **chosen)
    session.push(text)
    return next(event for event in session.finish() if isinstance(event, Finished))


def _scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, float, float]:
    try:
        import sacrebleu
    except ImportError as error:
        raise InvalidOptionError(
            "BLEU is measured by sacrebleu: pip install mlx-simul[train], or leave out "
            "run.bleu_sources."
        ) from error
    n_most = max(map(len, references))
    # sacrebleu wants as many streams as the most references of one source.
    streams = [
        [given[i] if i < len(given) else None for given in references] for i in range(n_most)
    ]
    bleu = sacrebleu.corpus_bleu(hypotheses, streams)  # pyright: ignore[reportArgumentType]
    chrf = sacrebleu.corpus_chrf(hypotheses, streams)  # pyright: ignore[reportArgumentType]
    return bleu.score, chrf.score, bleu.sys_len / bleu.ref_len
