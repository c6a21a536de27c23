"""Recordings, recognised by Whisper tiny.en while they are heard (tox -e speech).

tiny.en is the smallest Whisper; the bounds leave it some room. ``-s`` prints the figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from heard import BECKETT, TWO_CITIES, Heard, word_error_rate

from mlx_simul.errors import ModelLoadError
from mlx_simul.speech.audio import read_file
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Recogniser
from mlx_simul.speech.registry import load_recogniser
from mlx_simul.speech.window import Audio

pytestmark = pytest.mark.real_speech

Listen = Callable[[Audio], Heard]
Recording = Callable[[str], Audio]


def offline(recogniser: Recogniser, audio: Audio) -> str:
    """What the same model makes of the audio as a whole."""
    segments, _ = recogniser._model.transcribe(audio)
    return "".join(segment.text for segment in segments).strip()


@pytest.mark.parametrize(
    ("name", "expected", "most_errors"),
    [("two_cities", TWO_CITIES, 0.04), ("beckett", BECKETT, 0.0)],
)
def test_what_is_known_is_heard(
    recogniser: Recogniser,
    listen: Listen,
    recording: Recording,
    name: str,
    expected: str,
    most_errors: float,
) -> None:
    audio = recording(name)
    heard, whole = listen(audio), offline(recogniser, audio)
    errors, errors_offline = (word_error_rate(expected, text) for text in (heard.text, whole))
    median_s = statistics.median(heard.delays_s)
    p90_s = float(np.quantile(heard.delays_s, 0.9))
    print(
        f"\n{name}: word error rate {errors:.1%} (whole file at once {errors_offline:.1%}), a word "
        f"is stable {median_s:.2f} s behind its end (median; p90 {p90_s:.2f} s, longest "
        f"{max(heard.delays_s):.2f} s)\n{heard.text}"
    )
    assert errors <= most_errors
    assert median_s < 2 and p90_s < 3.5
    times_s = [time_s for word in heard.words for time_s in (word.start_s, word.end_s)]
    assert times_s == sorted(times_s) and times_s[-1] <= len(audio) / SAMPLE_RATE_HZ + 0.1


def test_two_voices_are_heard_as_in_the_whole_file(
    recogniser: Recogniser, listen: Listen, recording: Recording
) -> None:
    """The text is under copyright, so it is compared and not kept."""
    audio = recording("endgame_nagg_nell")
    heard = listen(audio)
    difference = word_error_rate(offline(recogniser, audio), heard.text)
    print(f"\nendgame_nagg_nell: {difference:.1%} of words differ from the whole file at once")
    assert difference <= 0.12


def test_a_pause_is_told_and_nothing_is_heard_in_it(listen: Listen, recording: Recording) -> None:
    """The same again after half a minute: in silence Whisper would write what was not said."""
    beckett = recording("beckett")
    silence = np.zeros(30 * SAMPLE_RATE_HZ, np.float32)
    heard = listen(np.concatenate([silence, beckett, silence, beckett]))
    assert word_error_rate(f"{BECKETT} {BECKETT}", heard.text) == 0
    assert heard.words[0].start_s == pytest.approx(30.3, abs=0.2)
    between_s = [t for t in heard.pauses_s if 30 + len(beckett) / SAMPLE_RATE_HZ - 1 < t < 60]
    assert len(between_s) == 1


def _noise(level: float) -> Audio:
    noise = np.random.default_rng(16).normal(0, level, 60 * SAMPLE_RATE_HZ)
    return noise.clip(-1, 1).astype(np.float32)


def _hum() -> Audio:
    at_s = np.arange(60 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    return (0.2 * np.sign(np.sin(2 * np.pi * 50 * at_s))).astype(np.float32)


def _clicks() -> Audio:
    clicks = np.zeros(60 * SAMPLE_RATE_HZ, np.float32)
    clicks[:: SAMPLE_RATE_HZ // 2] = 1.0
    return clicks


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(lambda: np.zeros(600 * SAMPLE_RATE_HZ, np.float32), id="ten silent minutes"),
        pytest.param(lambda: _noise(0.003), id="quiet noise"),
        pytest.param(lambda: _noise(0.1), id="loud noise"),
        pytest.param(lambda: _noise(2.0), id="clipped noise"),
        pytest.param(_hum, id="hum"),
        pytest.param(_clicks, id="clicks"),
    ],
)
def test_without_speech_nothing_is_heard(listen: Listen, sound: Callable[[], Audio]) -> None:
    heard = listen(sound())
    assert (heard.text, heard.pauses_s) == ("", [])


@pytest.mark.parametrize(
    "change",
    [
        # Not at 30 times: there greedy decoding by tiny.en fails in 3 of the 12 words.
        pytest.param(lambda audio: np.clip(audio * 10, -1, 1), id="clipped"),
        pytest.param(lambda audio: audio * 30, id="outside -1 to 1"),
        pytest.param(lambda audio: audio * 0.01, id="faint"),
        pytest.param(lambda audio: audio + _noise(0.002)[: len(audio)], id="with noise"),
    ],
)
def test_speech_that_is_badly_recorded_is_heard(
    listen: Listen, recording: Recording, change: Callable[[Audio], Audio]
) -> None:
    heard = listen(change(recording("beckett")).astype(np.float32))
    assert word_error_rate(BECKETT, heard.text) <= 0.2, heard.text


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(8_000, 1), (44_100, 2)])
def test_files_of_other_rates_and_channels_are_heard(
    listen: Listen, recording: Recording, tmp_path: Path, rate_hz: int, n_channels: int
) -> None:
    audio = soxr.resample(recording("beckett"), SAMPLE_RATE_HZ, rate_hz)
    path = tmp_path / "other.wav"
    soundfile.write(path, np.repeat(audio[:, None], n_channels, axis=1), rate_hz)
    heard = listen(np.concatenate([*read_file(path)]))
    assert word_error_rate(BECKETT, heard.text) <= 0.2, heard.text


def test_a_recording_given_at_once_is_heard(recogniser: Recogniser, recording: Recording) -> None:
    """Faster than it is spoken, or after recognition could not keep up."""
    recognition = recogniser.begin()
    hypotheses = [*recognition.hear(recording("two_cities")), *recognition.finish()]
    text = "".join(word.text for found in hypotheses for word in found.words)
    print(f"\ntwo_cities at once: word error rate {word_error_rate(TWO_CITIES, text):.1%}\n{text}")
    assert len(hypotheses) < 20
    assert word_error_rate(TWO_CITIES, text) <= 0.06


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_a_model_is_refused_offline(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"could not load .*model\.bin"):
        load_recogniser(f"faster-whisper:{tmp_path / name}")
