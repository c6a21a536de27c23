"""Files and streams of any rate and channels become the same speech."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import RecogniserError, SimulWarning
from mlx_simul.speech.audio import BLOCK_S, Resampler, from_pcm16, read_file, read_pcm16
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ


def tone(rate_hz: int, seconds: float = 2.0) -> np.ndarray:
    """A low voice's frequencies, rising and falling; shape (n,)."""
    at_s = np.arange(round(rate_hz * seconds)) / rate_hz
    swell = np.sin(np.pi * at_s / seconds)
    return (0.4 * swell * np.sin(2 * np.pi * 220 * at_s)).astype(np.float32)


def written(
    path: Path, rate_hz: int = SAMPLE_RATE_HZ, n_channels: int = 1, subtype: str | None = None
) -> Path:
    audio = np.repeat(tone(rate_hz)[:, None], n_channels, axis=1)
    soundfile.write(path, audio, rate_hz, subtype=subtype)
    return path


def whole(path: Path) -> np.ndarray:
    return np.concatenate([*read_file(path)])


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-3),
        ("wav", "PCM_24", 1e-3),
        ("wav", "PCM_U8", 2e-2),
        ("wav", "FLOAT", 1e-3),
        ("wav", "ULAW", 3e-2),
        ("flac", None, 1e-3),
        ("ogg", None, 5e-2),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_any_file_is_the_same_audio(
    tmp_path: Path,
    suffix: str,
    subtype: str | None,
    tolerance: float,
    n_channels: int,
    rate_hz: int,
) -> None:
    audio = whole(written(tmp_path / f"tone.{suffix}", rate_hz, n_channels, subtype))
    expected = tone(SAMPLE_RATE_HZ)
    assert audio.dtype == np.float32
    assert abs(len(audio) - len(expected)) <= 2
    n = min(len(audio), len(expected)) - 200  # where the filter has no end to look beyond
    assert np.abs(audio[200:n] - expected[200:n]).max() < tolerance


def test_a_file_comes_in_blocks(tmp_path: Path) -> None:
    blocks = [*read_file(written(tmp_path / "tone.wav"))]
    assert {len(block) for block in blocks[:-1]} == {round(BLOCK_S * SAMPLE_RATE_HZ)}


@given(st.lists(st.integers(0, 5000), max_size=6), st.sampled_from([8_000, 24_000, 44_100]))
def test_pieces_are_resampled_as_the_whole_is(cuts: list[int], rate_hz: int) -> None:
    """Negative control: each piece alone loses what the filter holds back."""
    audio = tone(rate_hz, 0.3)
    pieces = np.split(audio, sorted(min(cut, len(audio)) for cut in cuts))
    resampler = Resampler(rate_hz)
    found = np.concatenate([*map(resampler.feed, pieces), resampler.finish()])
    expected = soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ)
    assert abs(len(found) - len(expected)) <= 1
    n = min(len(found), len(expected))
    assert np.abs(found[:n] - expected[:n]).max() < 1e-4


def test_the_law_rejects_pieces_that_are_resampled_alone() -> None:
    audio = tone(24_000, 0.3)
    alone = np.concatenate(
        [soxr.resample(piece, 24_000, SAMPLE_RATE_HZ) for piece in np.split(audio, [1001, 2003])]
    )
    expected = soxr.resample(audio, 24_000, SAMPLE_RATE_HZ)
    n = min(len(alone), len(expected))
    assert np.abs(alone[:n] - expected[:n]).max() > 1e-3


# Raw audio


class _Trickle(io.RawIOBase):
    """A pipe that gives as many bytes as it likes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = data, sizes

    def read(self, n: int = -1) -> bytes:
        size = min(n, self._sizes[0])
        self._sizes = [*self._sizes[1:], self._sizes[0]]
        data, self._data = self._data[:size], self._data[size:]
        return data


@given(
    st.lists(st.integers(-32768, 32767), max_size=50),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_raw_audio_is_read_whole_however_it_arrives(samples: list[int], sizes: list[int]) -> None:
    data = struct.pack(f"<{len(samples)}h", *samples)
    found = np.concatenate([*read_pcm16(_Trickle(data, sizes))])
    assert (found * 32768).tolist() == samples


def test_channels_of_raw_audio_are_mixed() -> None:
    data = struct.pack("<4h", 100, 300, -100, -300)
    assert (from_pcm16(data, 2) * 32768).tolist() == [200, -200]


def test_raw_audio_that_ends_within_a_sample_is_told() -> None:
    with pytest.warns(SimulWarning, match="raw audio ends within a sample"):
        assert len(np.concatenate([*read_pcm16(io.BytesIO(bytes(7)))])) == 3
    with pytest.raises(RecogniserError, match="7 bytes are not whole samples"):
        from_pcm16(bytes(7))


@pytest.mark.parametrize("n_channels", [0, -1, 65])
def test_channels_outside_their_range_are_refused(n_channels: int) -> None:
    with pytest.raises(RecogniserError, match=rf"1 to 64 channels, got {n_channels}"):
        from_pcm16(bytes(8), n_channels)


@pytest.mark.parametrize("rate_hz", [0, 999, 2**31 - 1])
def test_rates_outside_their_range_are_refused(rate_hz: int) -> None:
    with pytest.raises(RecogniserError, match=rf"{rate_hz} samples a second"):
        Resampler(rate_hz)


# Broken files


def _with(data: bytes, at: int, *new: int) -> bytes:
    return data[:at] + bytes(new) + data[at + len(new) :]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda wav: b"", "Format not recognised"),
        (lambda wav: b"hello " * 100, "Format not recognised"),
        (lambda wav: wav[:30], "cannot be read as audio"),
        (lambda wav: _with(wav, 22, 0, 0), "cannot be read as audio"),  # no channels
        (lambda wav: _with(wav, 22, 255, 1), "511 channels"),
        (lambda wav: _with(wav, 24, 0, 0, 0, 0), "cannot be read as audio"),  # no rate
        (lambda wav: _with(wav, 24, 255, 255, 255, 127), "2147483647 samples a second"),
        (lambda wav: _with(wav, 34, 77), "cannot be read as audio"),  # 77 bits
    ],
)
def test_a_broken_wav_is_refused(
    tmp_path: Path, broken: Callable[[bytes], bytes], message: str
) -> None:
    path = written(tmp_path / "tone.wav")
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(RecogniserError, match=message):
        read_file(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(RecogniserError, match=r"there is no audio file .*; check the path"):
            read_file(path)


@pytest.mark.parametrize(("keep", "n_samples"), [(0.5, 15_989), (0.0014, 22)])
def test_a_wav_that_was_cut_off_is_read_and_told(
    tmp_path: Path, keep: float, n_samples: int
) -> None:
    path = written(tmp_path / "tone.wav")
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * keep)])
    with pytest.warns(SimulWarning, match=r"tone\.wav is shorter than its header says"):
        assert abs(len(whole(path)) - n_samples) < 20


def test_a_wav_of_unknown_length_is_not_cut(tmp_path: Path) -> None:
    """As ffmpeg writes it to a pipe."""
    path = written(tmp_path / "tone.wav")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(_with(data, at, 255, 255, 255, 255))
    assert len(whole(path)) == 2 * SAMPLE_RATE_HZ


def test_a_file_with_damage_inside_gives_what_is_before_it(tmp_path: Path) -> None:
    path = tmp_path / "noise.flac"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 2 * SAMPLE_RATE_HZ)
    soundfile.write(path, noise, SAMPLE_RATE_HZ)
    data = path.read_bytes()
    path.write_bytes(_with(data, len(data) // 2, *[0] * 3000))
    blocks = read_file(path)
    assert len(next(blocks)) == round(BLOCK_S * SAMPLE_RATE_HZ)
    with pytest.raises(RecogniserError, match=r"noise\.flac cannot be read as audio"):
        list(blocks)


def test_a_sample_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.array([0, np.nan, 0], np.float32), SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(RecogniserError, match="not a number"):
        whole(path)
