"""What records come to: latency, computation-aware latency, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.units import Unit, reference_length
from mlx_simul.latency import Latency, latency, live_times_ms, mean_latency


def elapsed_ms(record: Record, word_ms: float) -> list[float]:
    """When each unit would have been there, had the source come at a pace; since its beginning."""
    return live_times_ms(record.times_ms, record.fed_ms, word_ms)


def policy_figures(
    items: Sequence[Item], records: Sequence[Record], unit: Unit, word_ms: float
) -> dict[str, Any]:
    """Figures of one policy; those of quality excepted.

    Args:
        items: the test set.
        records: of each source in it, under that policy.
        unit: what latency is counted in.
        word_ms: milliseconds from one source word to the next, for computation-aware scores.

    Returns:
        ``latency`` and ``latency_ca``, means over sources for which anything was written, in source
        words (``None`` if nothing was for any); ``lag_words``, the mean delay;
        ``ms_per_word``, the work on a unit since its source was there or the one before it was
        written; ``passes_per_token``, ``tokens_per_s``; ``ended``, the share of translations that
        the model ended by itself with the whole source read; ``n_empty``; ``seconds`` of work.
    """
    if not 0 < word_ms < math.inf:
        raise InvalidOptionError(
            f"word_ms must be a number above 0, got {word_ms}; 400 is a calm speaker."
        )
    plain: list[Latency | None] = []
    aware: list[Latency | None] = []
    for record in records:
        n_reference = reference_length(items[record.index].references[0], unit)
        elapsed = [time / word_ms for time in elapsed_ms(record, word_ms)]
        plain.append(latency(record.delays, record.source_words, n_reference))
        aware.append(latency(record.delays, record.source_words, n_reference, elapsed))
    n_tokens = sum(record.n_tokens for record in records)
    seconds = sum(record.total_ms for record in records) / 1000
    waits = sorted(wait for record in records for wait in record.response_ms)
    delays = [delay for record in records for delay in record.delays]
    return {
        "latency": _as_dict(mean_latency(plain)),
        "latency_ca": _as_dict(mean_latency(aware)),
        "lag_words": sum(delays) / max(1, len(delays)),
        "ms_per_word": {"p50": _quantile(waits, 0.5), "p95": _quantile(waits, 0.95)},
        "passes_per_token": sum(record.n_passes for record in records) / max(1, n_tokens),
        "tokens_per_s": n_tokens / seconds,
        "ended": sum(record.reason == "end_of_turn" for record in records) / len(records),
        "n_empty": sum(not record.delays for record in records),
        "seconds": seconds,
    }


def _as_dict(scores: Latency | None) -> dict[str, float] | None:
    return None if scores is None else asdict(scores)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * (len(ordered) - 1))] if ordered else None
