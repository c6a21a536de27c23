"""A translated talk as sentences: the translation of each, its delays, and its lagging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from mlx_simul.evaluation.realign import Tokenize, realign
from mlx_simul.evaluation.talk_record import TalkRecord
from mlx_simul.evaluation.units import Unit, joined, reference_length


@dataclass(frozen=True)
class RealignedSentence:
    """A reference sentence and the part of the target that stands for it.

    Delays and times count from where the sentence begins, so they may be negative.

    Attributes:
        prediction: that part; empty if nothing stands for it.
        references: in the form that is scored: white space normalised, or none between characters.
        reference_length: units of the first reference.
        delays_words: for each unit, words of speech read when it was written.
        delays_ms: for each, when the last of these had been said.
        elapsed_ms: for each, when it was there.
        said_words: words of speech in the source sentence.
        start_ms: when the sentence began, since the beginning of the talk.
        duration_ms: of the source sentence.
        talk_end_ms: when the talk ended.
    """

    prediction: str
    references: tuple[str, ...]
    reference_length: int
    delays_words: tuple[float, ...]
    delays_ms: tuple[float, ...]
    elapsed_ms: tuple[float, ...]
    said_words: float
    start_ms: float
    duration_ms: float
    talk_end_ms: float


@dataclass(frozen=True)
class RealignedTalk:
    """A talk whose target is divided among its reference sentences.

    Attributes:
        record: of the talk.
        unit: what the target is counted in.
        sentences: one for each of the talk.
        n_units: units of the whole target.
        n_unplaced: of these, how many belong to none of the sentences
            (:func:`mlx_simul.evaluation.realign.realign` says which).
    """

    record: TalkRecord
    unit: Unit
    sentences: tuple[RealignedSentence, ...]
    n_units: int
    n_unplaced: int


@dataclass(frozen=True)
class Lag:
    """How far one unit lags behind an ideal one, which keeps pace with the source.

    Attributes:
        at_ms: when the ideal one is there, since the beginning of the talk.
        words: words of speech read since then.
        ms: milliseconds of speech since then.
        ca_ms: when the unit was really there, since then.
    """

    at_ms: float
    words: float
    ms: float
    ca_ms: float


def realigned_talk(
    record: TalkRecord, unit: Unit, tokenize: Tokenize | None = None
) -> RealignedTalk:
    """Divide the target of a talk among its sentences, by their first references.

    Args:
        record: of the talk.
        unit: what its target is counted in.
        tokenize: as for :func:`mlx_simul.evaluation.realign.realign`.

    Raises:
        InvalidOptionError: as :func:`mlx_simul.evaluation.realign.realign`.
    """
    units, said = record.units(unit), record.talk.said
    delays_ms, elapsed_ms = record.delays_ms(units.delays), record.elapsed_ms(units.times_ms)
    sentences = record.talk.sentences
    references = [tuple(joined(each.split(), unit) for each in s.references) for s in sentences]
    spans = realign([given[0] for given in references], units.texts, unit, tokenize)
    first_words = accumulate((len(sentence.said_ms) for sentence in sentences), initial=0)
    realigned = tuple(
        RealignedSentence(
            prediction=joined(units.texts[span.start : span.stop], unit),
            references=given,
            reference_length=reference_length(given[0], unit),
            delays_words=tuple(said[units.delays[i]] - said[first] for i in span),
            delays_ms=tuple(delays_ms[i] - sentence.start_ms for i in span),
            elapsed_ms=tuple(elapsed_ms[i] - sentence.start_ms for i in span),
            said_words=said[first + len(sentence.said_ms)] - said[first],
            start_ms=sentence.start_ms,
            duration_ms=sentence.duration_ms,
            talk_end_ms=sentences[-1].said_ms[-1],
        )
        for sentence, given, span, first in zip(
            sentences, references, spans, first_words, strict=False
        )
    )
    return RealignedTalk(record, unit, realigned, len(units.texts), spans[0].start)


def lags(talk: RealignedTalk) -> Iterator[Lag]:
    """The lag of each unit that was written before the talk ended, as LongYAAL counts it."""
    for sentence in talk.sentences:
        n_units = max(len(sentence.delays_ms), sentence.reference_length)
        times = zip(sentence.delays_words, sentence.delays_ms, sentence.elapsed_ms, strict=True)
        for i, (words, ms, ca_ms) in enumerate(times):
            if sentence.start_ms + ms >= sentence.talk_end_ms:
                break
            ideal_ms = i * sentence.duration_ms / n_units
            yield Lag(
                at_ms=sentence.start_ms + ideal_ms,
                words=words - i * sentence.said_words / n_units,
                ms=ms - ideal_ms,
                ca_ms=ca_ms - ideal_ms,
            )
