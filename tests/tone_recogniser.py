"""A language of tones, its speaker, and a recogniser for it: speech that a test can make itself.

Each word is a tone of its own pitch, and a pause is silence. So what is recognised tells which
audio arrived, in which order, and whether it was resampled as it should be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word

TONE_S, GAP_S, PAUSE_S = 0.2, 0.1, 0.6
_FRAME = SAMPLE_RATE_HZ // 50
_LOUD = 0.05
_FIRST_HZ, _STEP_HZ = 400, 100

VOCABULARY = (
    "Do", "you", "want", "coffee?", "She", "bought", "a", "new", "car", "last", "week.", "My",
    "train", "leaves", "at", "seven", "o'clock", "tomorrow", "morning.", "I", "like", "cats",
    "and", "dogs.", "Good", "evening,", "how", "are", "today?", "Thank", "very", "much.",
)  # fmt: skip

PAUSE = ""
"""Said as a word, it is silence that ends a turn."""


def tones(words: Iterable[str], rate_hz: int) -> np.ndarray:
    """Speak.

    Args:
        words: of the vocabulary, and pauses.
        rate_hz: samples a second.

    Returns:
        int16, shape (samples,).
    """
    parts = []
    for word in words:
        if word == PAUSE:
            parts.append(np.zeros(round(PAUSE_S * rate_hz)))
            continue
        at_s = np.arange(round(TONE_S * rate_hz)) / rate_hz
        pitch_hz = _FIRST_HZ + _STEP_HZ * VOCABULARY.index(word)
        parts += [0.5 * np.sin(2 * np.pi * pitch_hz * at_s), np.zeros(round(GAP_S * rate_hz))]
    return np.round(2**15 * np.concatenate(parts)).astype("<i2")


def install(folder: Path) -> str:
    """Make the recogniser known to another process, as an installed plug-in is.

    Args:
        folder: an empty one.

    Returns:
        The PYTHONPATH of that process.
    """
    place = folder / "tones-1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: tones\nVersion: 1\n")
    (place / "entry_points.txt").write_text(
        "[mlx_simul.recognisers]\ntones = tone_recogniser:ToneRecogniser\n"
    )
    own = [str(folder), str(Path(__file__).parent)]
    return os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])


class ToneRecognition:
    """Hears tones frame by frame; a word is stable once it is silent again."""

    def __init__(self, language: str | None = None) -> None:
        self.language = language
        self._rest = np.zeros(0, np.float32)
        self._loud: list[np.ndarray] = []
        self._n_frames = self._n_silent = 0
        self._has_words = False

    def hear(self, audio: np.ndarray) -> list[Hypothesis]:
        """Take the next audio."""
        audio = np.concatenate([self._rest, audio])
        n_frames = len(audio) // _FRAME
        self._rest = audio[n_frames * _FRAME :]
        words: list[Word] = []
        found: list[Hypothesis] = []
        for frame in audio[: n_frames * _FRAME].reshape(n_frames, _FRAME):
            self._n_frames += 1
            if np.sqrt(np.mean(frame**2)) > _LOUD:
                self._loud.append(frame)
                self._n_silent = 0
                continue
            words += self._end_word()
            self._n_silent += 1
            if self._has_words and self._n_silent * _FRAME >= 0.8 * PAUSE_S * SAMPLE_RATE_HZ:
                found.append(Hypothesis(tuple(words), pause=True, heard_s=self._heard_s))
                words, self._has_words = [], False
        tail = "perhaps" if self._loud else ""
        if words or (tail and not found):
            found.append(Hypothesis(tuple(words), tail, heard_s=self._heard_s))
        return found

    def finish(self) -> list[Hypothesis]:
        """End the audio."""
        words = tuple(self._end_word())
        return [Hypothesis(words, heard_s=self._heard_s)] if words else []

    @property
    def _heard_s(self) -> float:
        return self._n_frames * _FRAME / SAMPLE_RATE_HZ

    def _end_word(self) -> Sequence[Word]:
        tone = self._loud[1:-1]  # without its edges
        self._loud = []
        if not tone:
            return ()
        samples = np.concatenate(tone)
        power = np.abs(np.fft.rfft(samples, 2**14))
        pitch_hz = np.argmax(power) * SAMPLE_RATE_HZ / 2**14
        number = round((pitch_hz - _FIRST_HZ) / _STEP_HZ)
        if not 0 <= number < len(VOCABULARY):
            return ()
        self._has_words = True
        end_s = self._heard_s - _FRAME / SAMPLE_RATE_HZ
        return (Word(f" {VOCABULARY[number]}", end_s - TONE_S, end_s),)


class ToneRecogniser:
    """Recognises tones.

    Args:
        model: ``"broken"`` breaks off at the first audio.

    Attributes:
        languages: that it was asked for.
    """

    def __init__(self, model: str | None = None) -> None:
        self._is_broken = model == "broken"
        self.languages: list[str | None] = []

    def begin(self, language: str | None = None) -> ToneRecognition:
        """Begin with a stream of audio."""
        self.languages.append(language)
        if self._is_broken:
            raise ZeroDivisionError("a recogniser's own mistake")
        return ToneRecognition(language)
