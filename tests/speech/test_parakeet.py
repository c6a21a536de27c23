"""Parakeet on a stand-in that counts frames and times as parakeet-mlx 0.7.0 does.

Its tokens have times from the beginning of what is heard again, its spectrogram has a frame more
for each piece, and its list of finalized tokens is only ever added to.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken import Speech, in_pieces, said

from mlx_simul.errors import ModelLoadError, RecogniserError, SessionClosedError
from mlx_simul.speech.parakeet_mlx import Parakeet, load
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis
from mlx_simul.speech.window import WindowOptions

_SUBSAMPLING = 8
_HOP = 160


def tokens_of(speech: Speech) -> list[tuple[str, float]]:
    """Each word in two tokens, and when each begins."""
    return [
        (part, word.start_s + i * (word.end_s - word.start_s) / 2)
        for word in speech.words
        for i, part in enumerate((word.text[:2], word.text[2:]))
        if part
    ]


class _Stream:
    """As StreamingParakeet, but for what it hears: the tokens of a speech, by their times."""

    def __init__(self, tokens: list[tuple[str, float]], context_size: tuple[int, int]) -> None:
        self._tokens = tokens
        self._drop = context_size[1]
        self._heard = 0
        self._frames_s: list[float] = []  # when each frame of the spectrogram begins in truth
        self.audio_buffer: Any = np.zeros(0)
        self.mel_buffer: Any = None
        self.finalized_tokens: list[SimpleNamespace] = []
        self.draft_tokens: list[SimpleNamespace] = []
        self.is_open = False

    def __enter__(self) -> _Stream:
        self.is_open = True
        return self

    def __exit__(self, *args: object) -> None:
        self.is_open = False

    def add_audio(self, audio: Any) -> None:
        assert self.is_open and type(audio).__name__ == "array" and audio.ndim == 1
        start_s = self._heard / SAMPLE_RATE_HZ
        self._heard += len(audio)
        n_new = len(audio) // _HOP + 1
        frames_s = [*self._frames_s, *(start_s + i * 0.01 for i in range(n_new))]
        n_features = len(frames_s) // _SUBSAMPLING
        n_final = max(0, n_features - self._drop)
        features_s = [*frames_s[::_SUBSAMPLING][:n_features], self._heard / SAMPLE_RATE_HZ]
        self.finalized_tokens += self._between(features_s, 0, n_final)
        self.draft_tokens = self._between(features_s, n_final, n_features)
        leftover = len(frames_s) - n_features * _SUBSAMPLING
        self._frames_s = frames_s[-(self._drop * _SUBSAMPLING + leftover) :]
        self.mel_buffer = np.zeros((1, len(self._frames_s), 4))

    def _between(self, features_s: list[float], start: int, end: int) -> list[SimpleNamespace]:
        found = []
        for text, at_s in self._tokens:
            if features_s[start] <= at_s < features_s[end]:
                start_s = (bisect_left(features_s, at_s) - start) * 0.08
                found.append(SimpleNamespace(text=text, start=start_s, end=start_s + 0.08))
        return found


class _Model:
    preprocessor_config = SimpleNamespace(hop_length=_HOP, sample_rate=SAMPLE_RATE_HZ)
    time_ratio = 0.08

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self.attention: list[tuple[str, tuple[int, int]]] = []
        self.encoder = SimpleNamespace(set_attention_model=lambda *a: self.attention.append(a))
        self.streams: list[_Stream] = []

    def transcribe_stream(
        self,
        context_size: tuple[int, int] = (256, 256),
        depth: int = 1,
        *,
        keep_original_attention: bool = False,
    ) -> _Stream:
        assert keep_original_attention
        self.streams.append(_Stream(tokens_of(self._speech), context_size))
        return self.streams[-1]


def recognised(speech: Speech, lengths_s: Sequence[float]) -> list[Hypothesis]:
    recognition = Parakeet(_Model(speech)).begin()
    found = [h for piece in in_pieces(speech.audio, lengths_s) for h in recognition.hear(piece)]
    return [*found, *recognition.finish()]


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.4, 3.0]), st.sampled_from([0.3, 0.6])), min_size=1),
    st.lists(st.sampled_from([0.1, 0.9, 2.3, 14.0]), min_size=1, max_size=3),
)
def test_each_word_comes_once_in_order_with_its_time(
    timing: list[tuple[float, float]], lengths_s: list[float]
) -> None:
    speech = Speech([f" w{i}." for i in range(len(timing))], *zip(*timing, strict=True), end_s=0.5)
    words = said(recognised(speech, lengths_s))
    assert [word.text for word in words] == list(speech.texts)
    for word, true in zip(words, speech.words, strict=True):
        assert word.start_s == pytest.approx(true.start_s, abs=0.25)


def test_times_do_not_drift() -> None:
    """A frame more a second would be 6 s in ten minutes."""
    speech = Speech([f" w{i}" for i in range(300)], [1.7] * 300, [0.3] * 300, 2.0)
    words = said(recognised(speech, [0.1]))
    assert len(words) == 300
    assert words[-1].start_s == pytest.approx(speech.words[-1].start_s, abs=0.25)


def test_pauses_are_told_behind_their_words() -> None:
    speech = Speech([" Ever", " tried.", " Ever", " failed."], [0.5, 0.2, 4.0, 0.2], [0.4] * 4, 4.0)
    found = recognised(speech, [0.1])
    n_words, told = 0, []
    for hypothesis in found:
        n_words += len(hypothesis.words)
        told += [n_words] if hypothesis.pause else []
    assert told == [2, 4]


def test_draft_tokens_are_the_tail() -> None:
    speech = Speech([f" word{i}" for i in range(12)], [0.1] * 12, [0.4] * 12)
    given: list[str] = []
    for hypothesis in recognised(speech, [0.1]):
        given += [word.text for word in hypothesis.words]
        shown = ("".join(given) + " " + hypothesis.tail).split()
        assert shown[: len(given)] == [text.strip() for text in speech.texts[: len(given)]]
    assert len(given) == 12


def test_nothing_grows_and_a_stream_is_closed() -> None:
    speech = Speech([f" w{i}" for i in range(100)], [0.2] * 100, [0.3] * 100)
    model = _Model(speech)
    recognition = Parakeet(model).begin()
    for piece in in_pieces(speech.audio, [0.5]):
        recognition.hear(piece)
        assert len(model.streams[0].finalized_tokens) == 0
        assert model.streams[0].is_open
    recognition.finish()
    assert not model.streams[0].is_open
    for call in (lambda: recognition.hear(speech.audio), recognition.finish):
        with pytest.raises(SessionClosedError, match="begin a new recognition"):
            call()


def test_a_stream_that_ends_leaves_the_attention_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _Model(Speech([], [], []))
    package = ModuleType("parakeet_mlx")
    package.from_pretrained = lambda name: model if name != "broken" else {}["config"]
    monkeypatch.setitem(sys.modules, "parakeet_mlx", package)
    recogniser = load("folder", WindowOptions())
    recogniser.begin("French").finish()
    assert model.attention == [("rel_pos_local_attn", (256, 16))]
    with pytest.raises(ModelLoadError, match=r"could not load 'broken': .* Give a folder"):
        load("broken")


def test_a_model_that_fails_ends_the_recognition(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _Model(Speech([], [], []))
    recognition = Parakeet(model).begin()
    monkeypatch.setattr(model.streams[0], "add_audio", lambda audio: 1 / 0)
    with pytest.raises(RecogniserError, match=r"between 0\.0 and 1\.0 s .* ZeroDivisionError"):
        recognition.hear(np.zeros(SAMPLE_RATE_HZ, np.float32))
    assert not model.streams[0].is_open
    with pytest.raises(SessionClosedError):
        recognition.finish()
