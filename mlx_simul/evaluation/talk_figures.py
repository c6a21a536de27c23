"""What realigned talks come to: quality, long-form latency, delay drift, erasure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from mlx_simul.evaluation.latency import (
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    length_adaptive_average_lagging,
    yet_another_average_lagging,
)
from mlx_simul.evaluation.quality import TextQuality, text_quality
from mlx_simul.evaluation.talk_sentences import Lag, RealignedSentence, RealignedTalk, lags

DRIFT_WINDOW_MS = 600_000.0
"""The first and the last ten minutes of a talk are compared."""


@dataclass(frozen=True)
class LongLatency:
    """Latency of sentences within talks, in milliseconds of source (``ap`` excepted).

    Each is the mean over the sentences for which anything was written, of a score that counts from
    where the sentence begins. OmniSTEval puts ``Long`` before their names.

    Attributes:
        yaal: LongYAAL; ``None`` if everything was written after the talks.
        laal: StreamLAAL (Papi et al. 2024), over the sentences of this alignment.
        al: average lagging.
        ap: average proportion.
        dal: differentiable average lagging.
    """

    yaal: float | None
    laal: float
    al: float
    ap: float
    dal: float


def talk_quality(talks: Sequence[RealignedTalk], tokenizer: str = "13a") -> TextQuality:
    """BLEU and chrF of all sentences of some talks, one without translation being an empty one.

    Args:
        talks: realigned.
        tokenizer: sacrebleu's for BLEU.

    Raises:
        InvalidOptionError: as :func:`mlx_simul.evaluation.quality.text_quality`.
    """
    sentences = [sentence for talk in talks for sentence in talk.sentences]
    return text_quality(
        [sentence.prediction for sentence in sentences],
        [sentence.references for sentence in sentences],
        tokenizer,
    )


def talk_figures(talks: Sequence[RealignedTalk]) -> dict[str, Any]:
    """Figures of some talks, translated under one policy; those of quality excepted.

    Returns:
        ``latency`` and ``latency_ca``, the fields of :class:`LongLatency`, computation-aware ones
        in the second (``None`` if nothing was written); ``drift``, as :func:`drift` gives it;
        ``erasure``: ``n_units`` that changed after they had been shown, and their share of all
        units; ``n_talks``, ``n_sentences``, ``n_empty`` sentences without translation, ``n_units``,
        and ``n_unplaced`` units in none of the sentences; ``n_lost`` sentences of which no word is
        in a turn that has a translation; ``n_turns``, and ``ends``, how many of them ended for
        which reason; ``seconds`` of work, up to the last change.
    """
    sentences = [sentence for talk in talks for sentence in talk.sentences]
    n_units = sum(talk.n_units for talk in talks)
    n_erased = sum(talk.record.n_erased(talk.unit) for talk in talks)
    plain, aware = long_latency(sentences, False), long_latency(sentences, True)
    return {
        "latency": plain and asdict(plain),
        "latency_ca": aware and asdict(aware),
        "drift": drift(talks),
        "erasure": {"n_units": n_erased, "share": n_erased / max(1, n_units)},
        "n_talks": len(talks),
        "n_sentences": len(sentences),
        "n_empty": sum(not sentence.prediction for sentence in sentences),
        "n_units": n_units,
        "n_unplaced": sum(talk.n_unplaced for talk in talks),
        "n_lost": sum(len(talk.record.lost_sentences()) for talk in talks),
        "n_turns": sum(len(talk.record.ends) for talk in talks),
        "ends": dict(
            Counter(end.reason for talk in talks for end in talk.record.ends).most_common()
        ),
        "seconds": sum(talk.record.work_ms for talk in talks) / 1000,
    }


def long_latency(sentences: Sequence[RealignedSentence], aware: bool) -> LongLatency | None:
    """Mean latency of sentences, with the time to compute if ``aware``; ``None`` if all are empty.

    Args:
        sentences: of any talks.
        aware: take the times at which units were really there instead of their delays.
    """
    scores: list[LongLatency] = []
    for sentence in sentences:
        times = sentence.elapsed_ms if aware else sentence.delays_ms
        if times:
            scores.append(_sentence_latency(sentence, times))
    if not scores:
        return None
    columns = zip(*map(astuple, scores), strict=True)
    return LongLatency(*map(_mean_of_known, columns))


def drift(talks: Sequence[RealignedTalk]) -> dict[str, Any] | None:
    """Mean lag in the first ten minutes of source beside that in the last ten.

    Of a talk under twenty minutes its two halves are compared. Units written after the end of a
    talk are left out, as LongYAAL does: they could lag no further.

    Args:
        talks: all units that lie in one of the two are counted alike.

    Returns:
        ``window_ms``, the longest; ``first`` and ``last``, each with the means of the fields of
        :class:`mlx_simul.evaluation.talk_sentences.Lag` but ``at_ms``, and ``drift``, by how much
        the last are larger. ``None`` if there are no units in one of the two.
    """
    first: list[Lag] = []
    last: list[Lag] = []
    windows_ms: list[float] = []
    for talk in talks:
        end_ms = talk.sentences[-1].talk_end_ms
        windows_ms.append(min(DRIFT_WINDOW_MS, end_ms / 2))
        for lag in lags(talk):
            if lag.at_ms < windows_ms[-1]:
                first.append(lag)
            elif lag.at_ms >= end_ms - windows_ms[-1]:
                last.append(lag)
    if not first or not last:
        return None
    means = {"first": _mean_lag(first), "last": _mean_lag(last)}
    gain = {name: means["last"][name] - means["first"][name] for name in means["first"]}
    return {"window_ms": max(windows_ms), **means, "drift": gain}


def _sentence_latency(sentence: RealignedSentence, times: Sequence[float]) -> LongLatency:
    duration_ms, n_reference = sentence.duration_ms, sentence.reference_length
    left_ms = sentence.talk_end_ms - sentence.start_ms
    return LongLatency(
        yaal=yet_another_average_lagging(times, duration_ms, n_reference, left_ms),
        laal=length_adaptive_average_lagging(times, duration_ms, n_reference),
        al=average_lagging(times, duration_ms, n_reference),
        ap=average_proportion(times, duration_ms, n_reference),
        dal=differentiable_average_lagging(times, duration_ms),
    )


def _mean_of_known(column: Sequence[float | None]) -> Any:
    known = [value for value in column if value is not None]
    return sum(known) / len(known) if known else None


def _mean_lag(some: Sequence[Lag]) -> dict[str, float]:
    names = ("words", "ms", "ca_ms")
    return {name: sum(getattr(lag, name) for lag in some) / len(some) for name in names}
