"""How far a translation lags behind its source: pure functions of recorded delays.

The delay of a target unit (a word, or a character) is how much source had been read when it was
written, in source words or in milliseconds of source. A *computation-aware* score is the same
function of *elapsed* times instead: when the unit was really there, in the same unit of measure.

Formulas and edge cases are those of SimulEval 1.1.4, so that the field's figures are these figures;
``docs/evaluation.md`` has them in full. |X| is the source's length, |Y| the target's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

from mlx_simul.errors import InvalidOptionError


@dataclass(frozen=True)
class Latency:
    """The scores of one translation, or their mean over many.

    Attributes:
        al: average lagging.
        laal: length-adaptive average lagging, the one to quote.
        ap: average proportion, from 0 to 1 unless the target is longer than its reference.
        dal: differentiable average lagging.
        atd: average token delay.
    """

    al: float
    laal: float
    ap: float
    dal: float
    atd: float


def latency(
    delays: Sequence[float],
    source_length: float,
    reference_length: int | None = None,
    elapsed: Sequence[float] | None = None,
) -> Latency | None:
    """All scores of one translation.

    Args:
        delays: for each target unit, the source read when it was written; never decreasing.
        source_length: of the whole source, in the unit of the delays.
        reference_length: target units of the reference; ``None`` takes those written.
        elapsed: for computation-aware scores, when each unit was there, in the same unit.

    Returns:
        ``None`` if nothing was written: there is nothing that could lag.

    Raises:
        InvalidOptionError: as the single functions.
    """
    if not delays:
        return None
    times = delays if elapsed is None else elapsed
    return Latency(
        al=average_lagging(times, source_length, reference_length),
        laal=length_adaptive_average_lagging(times, source_length, reference_length),
        ap=average_proportion(times, source_length, reference_length),
        dal=differentiable_average_lagging(times, source_length),
        atd=average_token_delay(delays, elapsed),
    )


def mean_latency(scores: Iterable[Latency | None]) -> Latency | None:
    """The plain mean over translations that have scores; ``None`` if none has."""
    rows = [astuple(score) for score in scores if score is not None]
    if not rows:
        return None
    means = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return Latency(**dict(zip(metric_names(), means, strict=True)))


def metric_names() -> tuple[str, ...]:
    """The fields of :class:`Latency`, in their order."""
    return tuple(field.name for field in fields(Latency))


def average_lagging(
    delays: Sequence[float], source_length: float, target_length: int | None = None
) -> float:
    """AL: by how much the target lags behind an ideal one that keeps pace (Ma et al. 2019).

    The mean of d_i - (i - 1)|X|/|Y| up to the first unit that was written after the whole source.
    A first delay beyond the source is the score. Writing more than the reference has makes it
    smaller, even negative: see :func:`length_adaptive_average_lagging`.

    Args:
        delays: for each target unit, the source read when it was written; never decreasing.
        source_length: of the whole source, in the unit of the delays.
        target_length: |Y|, units of the reference; ``None`` takes those written.

    Raises:
        InvalidOptionError: for no delays, decreasing ones, or a length that is not positive.
    """
    n_target = _checked(delays, source_length, target_length)
    if delays[0] > source_length:
        return delays[0]
    pace = source_length / n_target
    lags: list[float] = []
    for i, delay in enumerate(delays):
        lags.append(delay - i * pace)
        if delay >= source_length:
            break
    return sum(lags) / len(lags)


def length_adaptive_average_lagging(
    delays: Sequence[float], source_length: float, target_length: int | None = None
) -> float:
    """LAAL: AL in which |Y| is the length of the target or of its reference, the longer of the two.

    Polák et al. 2022, Papi et al. 2022: so that writing too much is not rewarded.

    Args:
        delays: as for :func:`average_lagging`, as are the other arguments.
        source_length: likewise.
        target_length: likewise.

    Raises:
        InvalidOptionError: as :func:`average_lagging`.
    """
    n_target = _checked(delays, source_length, target_length)
    return average_lagging(delays, source_length, max(n_target, len(delays)))


def average_proportion(
    delays: Sequence[float], source_length: float, target_length: int | None = None
) -> float:
    """AP: the mean share of the source that was read, sum of d_i / |X||Y| (Cho and Esipova 2016).

    Args:
        delays: as for :func:`average_lagging`, as are the other arguments.
        source_length: likewise.
        target_length: likewise.

    Raises:
        InvalidOptionError: as :func:`average_lagging`.
    """
    return sum(delays) / (source_length * _checked(delays, source_length, target_length))


def differentiable_average_lagging(delays: Sequence[float], source_length: float) -> float:
    """DAL: AL in which each unit takes its time (Arivazhagan et al. 2019).

    With g_i = max(d_i, g_(i-1) + |X|/|Y|), the mean of g_i - (i - 1)|X|/|Y| over all units; |Y| is
    always the number of units written.

    Args:
        delays: as for :func:`average_lagging`.
        source_length: likewise.

    Raises:
        InvalidOptionError: as :func:`average_lagging`.
    """
    pace = source_length / _checked(delays, source_length, None)
    total = at = 0.0
    for i, delay in enumerate(delays):
        at = max(delay, at + pace) if i else delay
        total += at - i * pace
    return total / len(delays)


def yet_another_average_lagging(
    delays: Sequence[float],
    source_length: float,
    target_length: int | None = None,
    recording_end: float | None = None,
) -> float | None:
    """YAAL: LAAL without the units that were only written because the source had ended.

    Polák et al. 2025 (arXiv 2509.17349). LongYAAL, for a sentence of a talk, leaves out what was
    written after the whole talk instead of the sentence.

    Args:
        delays: as for :func:`average_lagging`, as are the other arguments.
        source_length: likewise.
        target_length: likewise.
        recording_end: of a sentence in a talk, where the talk ends, counted from where the sentence
            begins; ``None`` for a source that is all there is.

    Returns:
        ``None`` if all units were written after the end.

    Raises:
        InvalidOptionError: as :func:`average_lagging`.
    """
    n_target = max(_checked(delays, source_length, target_length), len(delays))
    end = source_length if recording_end is None else recording_end
    pace = source_length / n_target
    lags = [delay - i * pace for i, delay in enumerate(delays) if delay < end]
    return sum(lags) / len(lags) if lags else None


def average_token_delay(
    delays: Sequence[float], elapsed: Sequence[float] | None = None, unit: float = 1
) -> float:
    """ATD: the mean time from the end of a source unit to that of the target unit it pairs with.

    Kano et al. 2023, for text: every unit takes the time ``unit``, one after another. A chunk is a
    run of units with the same delay. The t-th target unit pairs with the t-th source unit, moved
    back by as many as were written before its chunk beyond what was read before it, and never with
    one that was not read yet.

    Args:
        delays: for each target unit, the source read when it was written; never decreasing.
        elapsed: when each unit was there, if that is not the delay.
        unit: how long a source word, and a target unit, takes, in the unit of the delays.

    Raises:
        InvalidOptionError: for no delays or decreasing ones, or if ``elapsed`` has another length.
    """
    _checked(delays, 1, None)
    times = delays if elapsed is None else elapsed
    if len(times) != len(delays):
        raise InvalidOptionError(
            f"{len(delays)} delays but {len(times)} elapsed times; give one for each unit."
        )
    total = ends = 0.0
    read_before = read = 0.0
    written_before = 0
    for i, (delay, time) in enumerate(zip(delays, times, strict=True)):
        if i == 0 or delay != delays[i - 1]:
            read_before, read, written_before = read, delay, i
        ends = max(time, ends) + unit
        surplus = max(0.0, written_before * unit - read_before)
        total += ends - min((i + 1) * unit - surplus, read)
    return total / len(delays)


def normalised_erasure(outputs: Sequence[Sequence[str]]) -> float:
    """NE: units taken back, per unit of the last output (Arivazhagan et al. 2020).

    Args:
        outputs: what was on display after each update, each as its units; the last is final.

    Returns:
        0 for a system that only ever appends; above 1 if more was taken back than is left.

    Raises:
        InvalidOptionError: if there is no last output, or it is empty.
    """
    if not outputs or not outputs[-1]:
        raise InvalidOptionError(
            "erasure is counted per unit of the last output, and there is none; leave out "
            "translations that are empty."
        )
    erased = sum(len(old) - n_common(old, new) for old, new in pairwise(outputs))
    return erased / len(outputs[-1])


def n_common(old: Sequence[str], new: Sequence[str]) -> int:
    """With how many equal units, or characters, two outputs begin."""
    pairs = zip(old, new, strict=False)
    shorter = min(len(old), len(new))
    return next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), shorter)


def _checked(delays: Sequence[float], source_length: float, target_length: int | None) -> int:
    """The target's length, if all is as the formulas need it."""
    if not delays:
        raise InvalidOptionError(
            "no delays: an empty translation has no latency; leave it out, and count it."
        )
    if any(later < earlier for earlier, later in pairwise(delays)):
        raise InvalidOptionError(
            f"delays decrease: {list(delays)}; a word written later cannot have been written after "
            "less source."
        )
    n_target = len(delays) if target_length is None else target_length
    if not (source_length > 0 and n_target > 0):
        raise InvalidOptionError(
            f"latency needs positive lengths, got source {source_length} and target {n_target}."
        )
    return n_target
