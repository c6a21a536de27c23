"""Whisper on Apple silicon, by mlx-whisper, which is installed by itself.

Written against mlx-whisper 0.4.3 and tested with a stand-in for it. The audio is filtered by the
voice activity filter of faster-whisper (the extra ``speech``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mlx_simul.errors import ModelLoadError
from mlx_simul.machine.extras import require_from
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Word
from mlx_simul.speech.voice import find_voice
from mlx_simul.speech.whisper import FRAME_S, Segment, known_language, words_said
from mlx_simul.speech.window import Audio, GrowingWindow, Span, WindowOptions

DEFAULT_MODEL = "mlx-community/whisper-large-v3-turbo"

_IS_ENGLISH_ONLY = re.compile(r"\.en(\W|$)")


def load(model: str | None = None, options: WindowOptions | None = None) -> MLXWhisper:
    """Load a model for mlx-whisper.

    Args:
        model: a folder with weights in MLX's format, or the name of a repository on the Hugging
            Face Hub.
        options: how the window grows, and where it ends.

    Raises:
        InvalidOptionError: mlx-whisper is not installed.
        ModelLoadError: the model cannot be loaded.
    """
    package = require_from("mlx-whisper", "mlx_whisper", "choose another recogniser")
    recogniser = MLXWhisper(package, model or DEFAULT_MODEL, options)
    try:
        # The package loads a model when it is first used, and then keeps it.
        recogniser.transcribe(np.zeros(SAMPLE_RATE_HZ, np.float32), "en")
    except Exception as error:  # its own errors, MLX's and the hub's have no common base
        raise ModelLoadError(
            f"mlx-whisper could not load {recogniser.name!r}: {error}. Give a folder with "
            "weights.safetensors or weights.npz in it, or a repository such as "
            f"{DEFAULT_MODEL}."
        ) from error
    return recogniser


class MLXWhisper:
    """A model of mlx-whisper (:class:`~mlx_simul.speech.recogniser.Recogniser`).

    Args:
        package: mlx-whisper.
        name: of the model, a folder or a repository.
        options: how the window grows, and where it ends.
    """

    def __init__(
        self, package: ModuleType, name: str, options: WindowOptions | None = None
    ) -> None:
        self._package = package
        self._options = options
        self.name = name

    def begin(self, language: str | None = None) -> GrowingWindow:
        """Begin with a stream of audio (``Recogniser.begin``).

        Raises:
            InvalidOptionError: the model does not know the language.
        """
        languages = ["en"]
        if not _IS_ENGLISH_ONLY.search(self.name):
            languages = [*self._package.tokenizer.LANGUAGES]
        code = known_language(language, languages, self.name)

        def transcribe(audio: Audio, voices: Sequence[Span]) -> list[Word]:
            return words_said(_segments(self.transcribe(audio, code)), voices)

        return GrowingWindow(transcribe, find_voice, self._options)

    def transcribe(self, audio: Audio, language: str | None) -> Mapping[str, Any]:
        """What the package makes of a piece of audio."""
        # One temperature: others are drawn by chance, so no two hypotheses would agree.
        return self._package.transcribe(
            audio,
            path_or_hf_repo=self.name,
            language=language,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
        )


def _segments(result: Mapping[str, Any]) -> Iterable[Segment]:
    for segment in result["segments"]:
        words = [Word(word["word"], word["start"], word["end"]) for word in segment["words"]]
        yield Segment(words, segment["seek"] * FRAME_S, segment["compression_ratio"])
