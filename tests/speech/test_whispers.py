"""Both Whispers on stand-ins with the surface of faster-whisper 1.2.1 and mlx-whisper 0.4.3.

What the stand-ins hear is a :class:`spoken.Speech`. A call with an argument that the package does
not have fails as it would there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from spoken import Listener, Speech, in_pieces, said

from mlx_simul.errors import InvalidOptionError, ModelLoadError, RecogniserError
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ
from mlx_simul.speech.registry import load_recogniser

SPEECH = Speech(
    [" Ever", " tried.", " Ever", " failed.", " No", " matter."],
    [0.5, 0.2, 1.0, 0.2, 1.0, 0.2],
    [0.3] * 6,
    end_s=3.0,
)
MADE_UP = " Thanks for watching!"


@dataclass
class _VadOptions:
    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: int = 0
    max_speech_duration_s: float = float("inf")
    min_silence_duration_ms: int = 2000
    speech_pad_ms: int = 400


class _Heard:
    """Segments of what is said in a piece of audio, and one that nobody said."""

    def __init__(self) -> None:
        self.listener = Listener(SPEECH)
        self.languages: list[str | None] = []

    def segments(self, audio: np.ndarray, language: str | None) -> Iterator[dict[str, Any]]:
        self.languages.append(language)
        words = self.listener.transcribe(audio, [])
        end_s = words[-1].end_s if words else 0.0
        made_up = {"word": MADE_UP, "start": end_s, "end": len(audio) / SAMPLE_RATE_HZ}
        spoken = [{"word": w.text, "start": w.start_s, "end": w.end_s} for w in words]
        yield {"words": spoken, "seek": 0, "compression_ratio": 1.0}
        yield {"words": [made_up], "seek": round(end_s * 100), "compression_ratio": 0.9}

    def voices(self, audio: np.ndarray, options: _VadOptions, sampling_rate: int) -> list[dict]:
        assert (options.speech_pad_ms, sampling_rate) == (0, SAMPLE_RATE_HZ)
        spans = self.listener.find_voice(audio)
        return [
            {"start": round(start_s * sampling_rate), "end": round(end_s * sampling_rate)}
            for start_s, end_s in spans
        ]


class _FasterWhisper:
    def __init__(self, heard: _Heard, name: str, *, compute_type: str = "default") -> None:
        if name == "broken":
            raise RuntimeError("Unable to open file 'model.bin'")
        assert compute_type == "auto"
        self._heard = heard
        self.supported_languages = ["en"] if name.endswith(".en") else ["de", "en", "fr"]

    def transcribe(
        self,
        audio: np.ndarray,
        language: str | None = None,
        temperature: Any = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        condition_on_previous_text: bool = True,
        word_timestamps: bool = False,
    ) -> tuple[Iterator[SimpleNamespace], SimpleNamespace]:
        assert word_timestamps and not condition_on_previous_text and temperature == 0.0
        segments = (
            SimpleNamespace(
                **{**part, "words": [SimpleNamespace(**word) for word in part["words"]]}
            )
            for part in self._heard.segments(audio, language)
        )
        return segments, SimpleNamespace(language="fr", language_probability=0.9)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> _Heard:
    """Installs the stand-ins."""
    heard = _Heard()
    faster, vad = ModuleType("faster_whisper"), ModuleType("faster_whisper.vad")
    faster.WhisperModel = lambda name, **options: _FasterWhisper(heard, name, **options)
    faster.available_models = lambda: ["tiny", "tiny.en"]
    vad.VadOptions, vad.get_speech_timestamps = _VadOptions, heard.voices

    def transcribe(
        audio: np.ndarray,
        *,
        path_or_hf_repo: str = "mlx-community/whisper-tiny",
        verbose: bool | None = None,
        temperature: Any = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        condition_on_previous_text: bool = True,
        word_timestamps: bool = False,
        **decode_options: Any,
    ) -> dict[str, Any]:
        if path_or_hf_repo == "broken":
            raise FileNotFoundError("weights.npz")
        assert word_timestamps and not condition_on_previous_text and temperature == 0.0
        assert {*decode_options} == {"language"}
        return {"segments": [*heard.segments(audio, decode_options["language"])]}

    mlx = ModuleType("mlx_whisper")
    mlx.transcribe = transcribe
    mlx.tokenizer = SimpleNamespace(LANGUAGES={"de": "german", "en": "english", "fr": "french"})
    for module in (faster, vad, mlx):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return heard


NAMES = pytest.mark.parametrize("name", ["faster-whisper", "mlx-whisper"])


def recognised(recogniser: Any, language: str | None = None) -> list[Any]:
    recognition = recogniser.begin(language)
    found = [h for piece in in_pieces(SPEECH.audio, [0.1]) for h in recognition.hear(piece)]
    return [*found, *recognition.finish()]


@NAMES
def test_what_is_said_comes_once_and_what_is_made_up_never(heard: _Heard, name: str) -> None:
    words = said(recognised(load_recogniser(f"{name}:tiny.en")))
    assert [word.text for word in words] == list(SPEECH.texts)
    for word, true in zip(words, SPEECH.words, strict=True):
        assert word.start_s == pytest.approx(true.start_s, abs=0.05)


@NAMES
def test_streams_that_share_a_model_do_not_disturb_each_other(heard: _Heard, name: str) -> None:
    recogniser = load_recogniser(name)
    alone = recognised(recogniser)
    recognitions = [recogniser.begin() for _ in range(3)]
    found: list[list[Any]] = [[] for _ in recognitions]
    for piece in in_pieces(SPEECH.audio, [0.1]):
        for recognition, hypotheses in zip(recognitions, found, strict=True):
            hypotheses += recognition.hear(piece)
    for recognition, hypotheses in zip(recognitions, found, strict=True):
        assert said([*hypotheses, *recognition.finish()]) == said(alone)


@NAMES
def test_a_language_is_told_to_the_model(heard: _Heard, name: str) -> None:
    recogniser = load_recogniser(f"{name}:tiny")
    heard.languages.clear()
    recognised(recogniser, "German")
    assert {*heard.languages} == {"de"}
    with pytest.raises(InvalidOptionError, match=r"tiny does not recognise 'cy'; .* de, en, fr"):
        recogniser.begin("cy")
    with pytest.raises(InvalidOptionError, match=r"tiny\.en does not recognise 'fr'; it knows en"):
        load_recogniser(f"{name}:tiny.en").begin("fr")


def test_a_language_that_was_found_is_kept(heard: _Heard) -> None:
    """In a second encoder pass each time, from as little as a second of speech, it would change."""
    speech = Speech([f" w{i}" for i in range(12)], [0.2] * 12, [0.3] * 12)
    heard.listener = Listener(speech)
    recognition = load_recogniser("faster-whisper:tiny").begin()
    for piece in in_pieces(speech.audio, [0.1]):
        recognition.hear(piece)
    recognition.finish()
    n_looked = heard.languages.index("fr")
    assert {*heard.languages[:n_looked]} == {None} and {*heard.languages[n_looked:]} == {"fr"}


@NAMES
def test_a_model_that_does_not_load_is_an_error(heard: _Heard, name: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"{name} could not load 'broken': .* Give a folder"):
        load_recogniser(f"{name}:broken")


@NAMES
def test_a_model_that_fails_is_an_error(
    heard: _Heard, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = load_recogniser(name)
    monkeypatch.setattr(heard, "segments", lambda audio, language: 1 / 0)
    with pytest.raises(RecogniserError, match=r"ZeroDivisionError: .* begin a new recognition"):
        recognised(recogniser)
