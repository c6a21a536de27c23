"""Speech that a test can know by heart: audio in which each word is a level, and who hears it.

A word is a stretch of samples of one value, silence is zero. :class:`Listener` reads words off
audio as a recogniser would that makes mistakes only where it must: of a word that was cut in two
it hears what a part of a word sounds like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word
from mlx_simul.speech.window import Audio, Span

_LEVEL = 1e-4


@dataclass
class Speech:
    """Words, and the silence before each.

    Attributes:
        texts: of the words, each with a space before it.
        silences_s: before each word.
        lengths_s: of each word.
        end_s: silence behind the last.
    """

    texts: Sequence[str]
    silences_s: Sequence[float]
    lengths_s: Sequence[float]
    end_s: float = 0.0

    @property
    def audio(self) -> Audio:
        """What is heard of it."""
        parts = [np.zeros(0)]
        for i, (silence_s, length_s) in enumerate(
            zip(self.silences_s, self.lengths_s, strict=True)
        ):
            parts.append(np.zeros(samples(silence_s)))
            parts.append(np.full(samples(length_s), (i + 1) * _LEVEL))
        return np.concatenate([*parts, np.zeros(samples(self.end_s))]).astype(np.float32)

    @property
    def words(self) -> list[Word]:
        """The words, when they are said."""
        at_s, words = 0.0, []
        for text, silence_s, length_s in zip(
            self.texts, self.silences_s, self.lengths_s, strict=True
        ):
            at_s += silence_s
            words.append(Word(text, at_s, at_s + length_s))
            at_s += length_s
        return words


@dataclass
class Listener:
    """Recognises a ``Speech``.

    Attributes:
        speech: what is said.
        jitter_s: the times it gives are so wrong, this way and that.
        late_s: a voice is noticed so much after its beginning.
        heard_s: how long each piece of audio was that it was given.
    """

    speech: Speech
    jitter_s: float = 0.0
    late_s: float = 0.0
    heard_s: list[float] = field(default_factory=list)

    def transcribe(self, audio: Audio, voices: Sequence[Span]) -> list[Word]:
        self.heard_s.append(len(audio) / SAMPLE_RATE_HZ)
        shift_s = self.jitter_s * (-1) ** len(self.heard_s)
        words = []
        for level, start, end in _stretches(audio):
            text = self.speech.texts[level - 1]
            heard = (end - start) / samples(self.speech.lengths_s[level - 1])
            if heard > 0.2:
                start_s, end_s = start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ
                text = text if heard > 0.8 else f"{text}~{len(self.heard_s)}"
                words.append(Word(text, start_s + shift_s, end_s + shift_s))
        return words

    def find_voice(self, audio: Audio) -> list[Span]:
        spans: list[Span] = []
        for _, start, end in _stretches(audio):
            start_s, end_s = start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ
            if spans and start_s - spans[-1][1] < 0.1:
                start_s = spans.pop()[0]
            spans.append((start_s, end_s))
        late_s = self.late_s
        return [(start_s + late_s, end_s) for start_s, end_s in spans if end_s - start_s > late_s]


def in_pieces(audio: Audio, lengths_s: Sequence[float]) -> list[Audio]:
    """Audio in pieces of these lengths, again and again until it ends."""
    pieces, at = [], 0
    while at < len(audio):
        length = samples(lengths_s[len(pieces) % len(lengths_s)])
        pieces.append(audio[at : at + length])
        at += length
    return pieces


def said(hypotheses: Sequence[Hypothesis]) -> list[Word]:
    """All words that were given."""
    return [word for hypothesis in hypotheses for word in hypothesis.words]


def samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)


def _stretches(audio: Audio) -> list[tuple[int, int, int]]:
    """The level, the beginning and the end of each word in a piece of audio."""
    levels = np.rint(audio / _LEVEL).astype(int)
    edges = [0, *np.flatnonzero(np.diff(levels)) + 1, len(levels)]
    return [
        (int(levels[start]), int(start), int(end))
        for start, end in pairwise(edges)
        if end > start and levels[start]
    ]
