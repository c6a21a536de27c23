"""A growing window gives each word once, in order, with its time, however the audio arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken import Listener, Speech, in_pieces, said

from mlx_simul.errors import InvalidOptionError, RecogniserError, SessionClosedError
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word
from mlx_simul.speech.window import Audio, GrowingWindow, Span, WindowOptions

OPTIONS = WindowOptions(min_chunk_s=1.0, pause_s=0.8, max_window_s=6.0)
# It often cuts the window behind words after which the speaker has paused, as it turns out.
EAGER = WindowOptions(min_chunk_s=0.25, pause_s=1.5, max_window_s=5.0)
TEXTS = st.sampled_from([" it", " was", " was,", " the", " very", " best.", " times?", " No"])


@st.composite
def speeches(draw: st.DrawFn, max_words: int = 40) -> Speech:
    texts = draw(st.lists(TEXTS, min_size=1, max_size=max_words))
    n_words = len(texts)
    # Between words of a breath, between clauses, and pauses.
    silence_s = st.sampled_from([0.05, 0.12, 0.4, 0.65, 1.0, 3.0])
    silences_s = draw(st.lists(silence_s, min_size=n_words, max_size=n_words))
    length_s = st.sampled_from([0.15, 0.3, 0.6])
    lengths_s = draw(st.lists(length_s, min_size=n_words, max_size=n_words))
    return Speech(texts, silences_s, lengths_s, draw(silence_s))


def recognised(window: GrowingWindow, audio: Audio, lengths_s: Sequence[float]) -> list[Hypothesis]:
    found = [found for piece in in_pieces(audio, lengths_s) for found in window.hear(piece)]
    return [*found, *window.finish()]


def heard(
    speech: Speech,
    lengths_s: Sequence[float],
    options: WindowOptions = OPTIONS,
    kind: type[GrowingWindow] = GrowingWindow,
    jitter_s: float = 0.0,
    late_s: float = 0.0,
) -> list[Hypothesis]:
    listener = Listener(speech, jitter_s, late_s)
    window = kind(listener.transcribe, listener.find_voice, options)
    found = recognised(window, speech.audio, lengths_s)
    assert max(listener.heard_s, default=0) <= options.max_window_s
    return found


PIECES = st.lists(st.sampled_from([0.02, 0.1, 0.25, 0.7, 2.0, 9.0]), min_size=1, max_size=4)


@given(
    speeches(),
    PIECES,
    st.sampled_from([OPTIONS, EAGER]),
    st.sampled_from([0.0, 0.03]),
    st.sampled_from([0.0, 0.1]),
)
def test_each_word_comes_once_in_order_and_all(
    speech: Speech, lengths_s: list[float], options: WindowOptions, jitter_s: float, late_s: float
) -> None:
    words = said(heard(speech, lengths_s, options, jitter_s=jitter_s, late_s=late_s))
    assert [word.text for word in words] == list(speech.texts)
    for word, true in zip(words, speech.words, strict=True):
        assert abs(word.start_s - true.start_s) < 0.1 and abs(word.end_s - true.end_s) < 0.1
    times_s = [time_s for word in words for time_s in (word.start_s, word.end_s)]
    assert times_s == sorted(times_s)


@given(speeches(max_words=12), st.data())
def test_small_pieces_give_the_same_however_they_are_cut(speech: Speech, data) -> None:
    small = st.lists(st.floats(0.001, 0.25), min_size=1, max_size=5)
    assert heard(speech, data.draw(small)) == heard(speech, [0.25])


@given(speeches(), PIECES, st.sampled_from([OPTIONS, EAGER]))
def test_a_pause_is_told_once_and_behind_the_words_before_it(
    speech: Speech, lengths_s: list[float], options: WindowOptions
) -> None:
    found, n_words, told = heard(speech, lengths_s, options), 0, []
    for hypothesis in found:
        n_words += len(hypothesis.words)
        assert not (hypothesis.pause and hypothesis.tail)
        told += [n_words] if hypothesis.pause else []
    silences_s = [*speech.silences_s[1:], speech.end_s]
    pauses = [n for n, silence_s in enumerate(silences_s, 1) if silence_s >= options.pause_s]
    assert told == pauses


LONG = Speech([f" w{i}{'.' * (i % 7 == 6)}" for i in range(60)], [0.12] * 60, [0.3] * 60)


def test_stable_words_come_while_the_speaker_goes_on() -> None:
    """In a talk without a pause, and no later than two steps behind."""
    delays_s = [
        hypothesis.heard_s - word.end_s
        for hypothesis in heard(LONG, [0.1])
        for word in hypothesis.words
    ]
    assert len(delays_s) == 60 and max(delays_s) <= 2 * OPTIONS.min_chunk_s + 0.3


def test_the_tail_is_what_may_still_change() -> None:
    speech = Speech([" one", " two", " three"], [0.2, 0.2, 0.2], [0.5, 0.5, 0.5], 1.0)
    shown = [
        ("".join(word.text for word in hypothesis.words), hypothesis.tail)
        for hypothesis in heard(speech, [0.1])
    ]
    assert shown == [("", "one"), (" one", "two three~2"), (" two three", "")]


class _CutsBehindTheBeginningOfAWord(GrowingWindow):
    def _cut_between(self, words: Sequence[Word], n_before: int) -> float:
        return super()._cut_between(words, n_before) + 0.2


class _BelievesWhatWasSaidOnce(GrowingWindow):
    def _revise(self, spans: Sequence[Span], *, is_full: bool) -> Hypothesis:
        hypothesis = super()._revise(spans, is_full=is_full)
        return replace(hypothesis, words=(*hypothesis.words, *self._transcript.finish()))


class _KeepsNoSilence(GrowingWindow):
    def _drop(self, until_s: float) -> None:
        super()._drop(until_s + 0.5)


WITH_PAUSES = Speech(LONG.texts, [0.17, 0.12, 1.17] * 20, LONG.lengths_s)


@pytest.mark.parametrize(
    ("kind", "speech"),
    [
        (_CutsBehindTheBeginningOfAWord, LONG),
        (_BelievesWhatWasSaidOnce, LONG),
        (_KeepsNoSilence, WITH_PAUSES),
    ],
)
def test_the_law_rejects_windows_that_are_broken(kind: type[GrowingWindow], speech: Speech) -> None:
    right, wrong = (said(heard(speech, [0.1], kind=k, late_s=0.1)) for k in (GrowingWindow, kind))
    assert [word.text for word in right] == list(speech.texts)
    assert [word.text for word in wrong] != list(speech.texts)


# What costs nothing, what takes too long


def test_ten_minutes_of_silence_cost_nothing_and_keep_nothing() -> None:
    speech = Speech([" Well."], [600.0], [0.3], 1.0)
    listener = Listener(speech)
    window = GrowingWindow(listener.transcribe, listener.find_voice, OPTIONS)
    audio = speech.audio
    silence = audio[: 600 * SAMPLE_RATE_HZ]
    for piece in in_pieces(silence, [0.5]):
        assert window.hear(piece) == []
        assert len(window._audio) <= SAMPLE_RATE_HZ
    assert listener.heard_s == []
    found = [*window.hear(audio[len(silence) :]), *window.finish()]
    assert [word.text for word in said(found)] == [" Well."]
    assert said(found)[0].start_s == pytest.approx(600)


def test_sound_without_words_is_let_go() -> None:
    """Music for two minutes: a voice to the filter, and nothing to Whisper."""
    heard_s: list[float] = []

    def transcribe(audio: Audio, voices: Sequence[Span]) -> list[Word]:
        heard_s.append(len(audio) / SAMPLE_RATE_HZ)
        return []

    window = GrowingWindow(transcribe, lambda audio: [(0.0, len(audio) / SAMPLE_RATE_HZ)], OPTIONS)
    found = recognised(window, np.ones(120 * SAMPLE_RATE_HZ, np.float32), [0.1])
    assert said(found) == [] and not any(hypothesis.pause for hypothesis in found)
    assert max(heard_s) <= OPTIONS.max_window_s and len(heard_s) <= 121


@pytest.mark.parametrize("piece_s", [0.1, 1.0, 3.0, 12.0])
def test_chunks_get_longer_where_recognition_is_slow(piece_s: float) -> None:
    """Audio that has arrived meanwhile is recognised at once, as far as the window holds it."""
    listener = Listener(LONG)
    window = GrowingWindow(listener.transcribe, listener.find_voice, OPTIONS)
    found = recognised(window, LONG.audio, [piece_s])
    seconds = len(LONG.audio) / SAMPLE_RATE_HZ
    steps_s = min(max(piece_s, OPTIONS.min_chunk_s), OPTIONS.max_window_s / 2)
    assert len(listener.heard_s) <= seconds / steps_s + 3
    assert [word.text for word in said(found)] == list(LONG.texts)


# What goes wrong


def test_a_recogniser_that_raises_ends_the_recognition() -> None:
    def transcribe(audio: Audio, voices: Sequence[Span]) -> list[Word]:
        raise ValueError("out of memory")

    window = GrowingWindow(transcribe, Listener(LONG).find_voice, OPTIONS)
    with pytest.raises(RecogniserError, match=r"0\.0 and .* ValueError: out of memory") as caught:
        recognised(window, LONG.audio, [0.1])
    assert isinstance(caught.value.__cause__, ValueError)
    for call in (lambda: window.hear(LONG.audio), window.finish):
        with pytest.raises(SessionClosedError, match="begin a new recognition"):
            call()


@pytest.mark.parametrize("pieces_s", [0.1, 9.0])
def test_what_was_recognised_before_a_failure_is_given(pieces_s: float) -> None:
    speech = Speech([" one", " two."], [0.3, 2.0], [0.5, 0.5], 1.0)
    listener = Listener(speech)

    def transcribe(audio: Audio, voices: Sequence[Span]) -> list[Word]:
        words = listener.transcribe(audio, voices)
        if any(word.text == " two." for word in words):
            raise ValueError("out of memory")
        return words

    window = GrowingWindow(transcribe, listener.find_voice, OPTIONS)
    found: list[Hypothesis] = []
    with pytest.raises(RecogniserError, match="out of memory"):
        for piece in in_pieces(speech.audio, [pieces_s]):
            found += window.hear(piece)
        window.finish()
    assert [word.text for word in said(found)] == [" one"]
    with pytest.raises(SessionClosedError):
        window.finish()


def test_a_finished_recognition_is_closed() -> None:
    listener = Listener(LONG)
    window = GrowingWindow(listener.transcribe, listener.find_voice)
    assert window.finish() == []
    for call in (lambda: window.hear(LONG.audio), window.finish):
        with pytest.raises(SessionClosedError, match=r"after finish\(\)"):
            call()


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([0.0], "got list"),
        (np.zeros(8), "got float64 of shape"),
        (np.zeros((8, 2), np.float32), r"shape \(8, 2\)"),
        (np.array([0, np.nan], np.float32), "not a number"),
        (np.array([0, np.inf], np.float32), "infinite"),
    ],
)
def test_what_is_not_audio_is_refused_and_changes_nothing(audio: object, message: str) -> None:
    listener = Listener(LONG)
    window = GrowingWindow(listener.transcribe, listener.find_voice, OPTIONS)
    with pytest.raises(RecogniserError, match=message):
        window.hear(audio)
    found = recognised(window, LONG.audio, [0.1])
    assert [word.text for word in said(found)] == list(LONG.texts)


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_chunk_s", 0.1), ("pause_s", 11), ("max_window_s", 30), ("pause_s", "1")],
)
def test_options_outside_their_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidOptionError, match=rf"{name} must be .* got {value!r}"):
        WindowOptions(**{name: value})
