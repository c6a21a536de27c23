"""What records come to: latency, computation-aware latency, speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.latency import Latency, latency, mean_latency
from mlx_simul.evaluation.live_times import live_times_ms
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.units import Unit, reference_length, said_by


def elapsed_ms(record: Record, word_ms: float, said: Sequence[float] | None = None) -> list[float]:
    """When each unit would have been there, had the source come at a pace; since its beginning."""
    return live_times_ms(record.times_ms, record.fed_ms, word_ms, said)


def said_before(item: Item, record: Record) -> tuple[float, ...]:
    """Words of speech in the first words of a source, from none to all, as its record counts them.

    Raises:
        DataError: if the record was made of other words.
    """
    said = said_by(item.source)
    if len(said) - 1 != record.source_words:
        raise DataError(
            f"source {record.index} was translated as {record.source_words} words and has "
            f"{len(said) - 1} here: {item.source!r:.80}. Another version made the record; evaluate "
            "into a new folder."
        )
    return said


def policy_figures(
    items: Sequence[Item], records: Sequence[Record], unit: Unit, word_ms: float
) -> dict[str, Any]:
    """Figures of one policy; those of quality excepted.

    Args:
        items: the test set.
        records: of each source in it, under that policy.
        unit: what latency is counted in.
        word_ms: milliseconds from one source word of speech to the next, for computation-aware
            scores.

    Returns:
        ``latency`` and ``latency_ca``, means over sources for which anything was written, in source
        words of speech (``None`` if nothing was for any); ``lag_words``, the mean delay, likewise;
        ``ms_per_word``, the work on a unit since its source was there or the one before it was
        written; ``passes_per_token``, ``tokens_per_s``; ``ended``, the share of translations that
        the model ended by itself with the whole source read; ``ends``, how many ended for which
        reason; ``n_empty``; ``seconds`` of work.
    """
    if not 0 < word_ms < math.inf:
        raise InvalidOptionError(
            f"word_ms must be a number above 0, got {word_ms}; 400 is a calm speaker."
        )
    plain: list[Latency | None] = []
    aware: list[Latency | None] = []
    delays: list[float] = []
    for record in records:
        item = items[record.index]
        n_reference = reference_length(item.references[0], unit)
        said = said_before(item, record)
        lags = [said[delay] for delay in record.delays]
        elapsed = [time / word_ms for time in elapsed_ms(record, word_ms, said)]
        plain.append(latency(lags, said[-1], n_reference))
        aware.append(latency(lags, said[-1], n_reference, elapsed))
        delays += lags
    n_tokens = sum(record.n_tokens for record in records)
    seconds = sum(record.total_ms for record in records) / 1000
    waits = sorted(wait for record in records for wait in record.response_ms)
    return {
        "latency": _as_dict(mean_latency(plain)),
        "latency_ca": _as_dict(mean_latency(aware)),
        "lag_words": sum(delays) / max(1, len(delays)),
        "ms_per_word": {"p50": _quantile(waits, 0.5), "p95": _quantile(waits, 0.95)},
        "passes_per_token": sum(record.n_passes for record in records) / max(1, n_tokens),
        "tokens_per_s": n_tokens / seconds,
        "ended": sum(record.reason == "end_of_turn" for record in records) / len(records),
        "ends": dict(Counter(record.reason for record in records).most_common()),
        "n_empty": sum(not record.delays for record in records),
        "seconds": seconds,
    }


def _as_dict(scores: Latency | None) -> dict[str, float] | None:
    return None if scores is None else asdict(scores)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * (len(ordered) - 1))] if ordered else None
