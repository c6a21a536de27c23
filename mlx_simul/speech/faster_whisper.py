"""Whisper on any machine, by faster-whisper (the extra ``speech``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_simul.errors import ModelLoadError
from mlx_simul.machine.extras import require
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Word
from mlx_simul.speech.voice import find_voice
from mlx_simul.speech.whisper import FRAME_S, Segment, known_language, words_said
from mlx_simul.speech.window import Audio, GrowingWindow, Span, WindowOptions

DEFAULT_MODEL = "small"

# A language is looked for in each piece until it was found in one this long, this surely.
_SURE_S, _SURE = 3.0, 0.5


def load(model: str | None = None, options: WindowOptions | None = None) -> FasterWhisper:
    """Load a model for faster-whisper.

    Args:
        model: a folder that CTranslate2 converted, or a name that faster-whisper downloads from
            the Hugging Face Hub ("tiny.en", "small", "large-v3-turbo", "Systran/…").
        options: how the window grows, and where it ends.

    Raises:
        InvalidOptionError: faster-whisper is not installed.
        ModelLoadError: the model cannot be loaded.
    """
    package = require("faster_whisper", "speech", "choose another recogniser")
    name = model or DEFAULT_MODEL
    try:
        # "auto" is the fastest type of the machine: on a CPU int8, twice as fast as float32.
        whisper = package.WhisperModel(name, compute_type="auto")
    except Exception as error:  # its own errors, CTranslate2's and the hub's have no common base
        raise ModelLoadError(
            f"faster-whisper could not load {name!r}: {error}. Give a folder with model.bin in "
            f"it, or one of {', '.join(package.available_models())}."
        ) from error
    return FasterWhisper(whisper, name, options)


class FasterWhisper:
    """A model of faster-whisper (:class:`~mlx_simul.speech.recogniser.Recogniser`).

    Args:
        model: the package's WhisperModel.
        name: of the model, for errors.
        options: how the window grows, and where it ends.
    """

    def __init__(self, model: Any, name: str, options: WindowOptions | None = None) -> None:
        self._model = model
        self._name = name
        self._options = options

    def begin(self, language: str | None = None) -> GrowingWindow:
        """Begin with a stream of audio (``Recogniser.begin``).

        Raises:
            InvalidOptionError: the model does not know the language.
        """
        code = known_language(language, self._model.supported_languages, self._name)
        return GrowingWindow(_Transcriber(self._model, code), find_voice, self._options)


class _Transcriber:
    """Recognises the pieces of one stream, which is spoken in one language."""

    def __init__(self, model: Any, language: str | None) -> None:
        self._model = model
        self._language = language

    def __call__(self, audio: Audio, voices: Sequence[Span]) -> list[Word]:
        # Greedy: in the clean recordings a beam of 5 makes as many errors, costs more and delays
        # words, since its hypotheses differ more (p90 2.4 s, not 1.8). It is better where the audio
        # is bad: in beckett.wav, clipped at 30 times its level, 3 of 12 words are wrong without it.
        # One temperature: others draw words by chance. No text before as a prompt: with one,
        # Whisper goes on in silence as texts often end ("Thanks for watching").
        segments, info = self._model.transcribe(
            audio,
            language=self._language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        if len(audio) >= _SURE_S * SAMPLE_RATE_HZ and info.language_probability >= _SURE:
            self._language = info.language
        return words_said(map(_segment, segments), voices)


def _segment(segment: Any) -> Segment:
    words = [Word(word.word, float(word.start), float(word.end)) for word in segment.words or ()]
    return Segment(words, segment.seek * FRAME_S, segment.compression_ratio)
