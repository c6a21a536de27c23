"""Audio from files and streams, of any rate and channels, as recognisers take it.

Shapes: n is a number of samples, c of channels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import RecogniserError, SimulWarning
from mlx_simul.machine.extras import require
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ

BLOCK_S = 0.1
"""Seconds of audio in a block of a file or a stream."""

_RATES_HZ = range(1_000, 768_001)
_MAX_CHANNELS = 64
_WAV_IS_CUT = re.compile(r"^data : (\d+) \(should be (\d+)\)$", re.MULTILINE)
# What a WAV file that was written to a pipe says for its length.
_UNKNOWN_BYTES = 0x7FFF_FFFF


class Resampler:
    """Makes audio of one rate, piece by piece, audio of ``SAMPLE_RATE_HZ``.

    All pieces together give what the whole would give; the filter holds some milliseconds back.

    Args:
        rate_hz: of the pieces, 1,000 to 768,000.

    Raises:
        RecogniserError: ``rate_hz`` is outside its range.
        InvalidOptionError: soxr is not installed.
    """

    def __init__(self, rate_hz: int) -> None:
        if rate_hz not in _RATES_HZ:
            raise RecogniserError(
                f"audio with {rate_hz!r} samples a second cannot be recognised; convert it to "
                f"{SAMPLE_RATE_HZ}."
            )
        self._stream: Any = None
        if rate_hz != SAMPLE_RATE_HZ:
            soxr = require("soxr", "speech", f"give audio of {SAMPLE_RATE_HZ} Hz")
            self._stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def feed(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next piece, shape (n,); return what is ready, shape (m,)."""
        return audio if self._stream is None else self._stream.resample_chunk(audio)

    def finish(self) -> NDArray[np.float32]:
        """End the audio; return the rest, shape (m,)."""
        rest = np.zeros(0, np.float32)
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)


def from_pcm16(data: bytes, n_channels: int = 1) -> NDArray[np.float32]:
    """Raw audio, 16-bit little-endian integers, as samples of one channel.

    Args:
        data: whole samples of all channels.
        n_channels: whose samples alternate; their mean is taken.

    Returns:
        Shape (n,), from -1 to 1.

    Raises:
        RecogniserError: ``data`` ends within a sample, or ``n_channels`` is outside its range.
    """
    if n_channels not in range(1, _MAX_CHANNELS + 1):
        raise RecogniserError(
            f"raw audio must have 1 to {_MAX_CHANNELS} channels, got {n_channels!r}; give their "
            "number."
        )
    if len(data) % (2 * n_channels):
        raise RecogniserError(
            f"{len(data)} bytes are not whole samples of 16 bits and {n_channels} channels; send "
            f"a multiple of {2 * n_channels}."
        )
    samples = np.frombuffer(data, "<i2").reshape(-1, n_channels).astype(np.float32)
    return mono(samples * np.float32(1 / 32768))


def mono(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of all channels: shape (n, c) -> (n,)."""
    return audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1, dtype=np.float32)


def read_file(path: str | Path) -> Iterator[NDArray[np.float32]]:
    """The audio of a file (WAV, FLAC, Ogg, MP3 and others), block by block.

    Args:
        path: of the file. What libsndfile does not read, a video for example, ffmpeg converts.

    Returns:
        Blocks of shape (n,), ``BLOCK_S`` long but for the last. A ``SimulWarning`` says if the file
        ends before its header says.

    Raises:
        RecogniserError: the file is missing, damaged or of an unknown format: at once, or when the
            block at the damage is asked for.
        InvalidOptionError: soundfile is not installed.
    """
    soundfile = require("soundfile", "speech", "pipe raw audio from ffmpeg")
    if not Path(path).is_file():
        raise RecogniserError(f"there is no audio file {path}; check the path.")
    try:
        file = soundfile.SoundFile(path)
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error
    if file.channels > _MAX_CHANNELS:
        file.close()
        raise RecogniserError(
            f"{path} has {file.channels} channels, more than {_MAX_CHANNELS}; is it audio?"
        )
    return _blocks(file, path, Resampler(file.samplerate), soundfile.SoundFileError)


def _blocks(
    file: Any, path: str | Path, resampler: Resampler, failure: type[Exception]
) -> Iterator[NDArray[np.float32]]:
    n_read, n_block = 0, round(file.samplerate * BLOCK_S)
    with file:
        while True:
            try:
                block = file.read(n_block, dtype="float32", always_2d=True)
            except failure as error:
                raise _unreadable(path, error) from error
            n_read += len(block)
            if not len(block):
                break
            yield checked(resampler.feed(mono(block)))
        if n_read < file.frames or _is_cut_wav(file.extra_info):
            _warn_of_cut(f"{path} is shorter than its header says")
    yield resampler.finish()


def read_pcm16(
    stream: BinaryIO, rate_hz: int = SAMPLE_RATE_HZ, n_channels: int = 1
) -> Iterator[NDArray[np.float32]]:
    """Raw audio from a pipe, as ``ffmpeg -i … -f s16le -ar 16000 -ac 1 -`` writes it.

    Args:
        stream: of 16-bit little-endian integers, read until it ends.
        rate_hz: samples a second.
        n_channels: whose samples alternate.

    Returns:
        Blocks of shape (n,), ``BLOCK_S`` long but for the last. A ``SimulWarning`` says if the
        stream ends within a sample.

    Raises:
        RecogniserError: ``rate_hz`` is outside its range.
    """
    return _pcm_blocks(stream, Resampler(rate_hz), round(rate_hz * BLOCK_S), n_channels)


def _pcm_blocks(
    stream: BinaryIO, resampler: Resampler, n_block: int, n_channels: int
) -> Iterator[NDArray[np.float32]]:
    width = 2 * n_channels
    held = b""
    while data := stream.read(n_block * width - len(held)):
        held += data
        whole, held = held[: len(held) // width * width], held[len(held) // width * width :]
        if whole:
            yield resampler.feed(from_pcm16(whole, n_channels))
    if held:
        _warn_of_cut("the raw audio ends within a sample")
    yield resampler.finish()


def checked(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio, if it is what recognisers take.

    Raises:
        RecogniserError: it is not float32 of shape (n,), or a sample is not a finite number.
    """
    if not isinstance(audio, np.ndarray):
        raise RecogniserError(f"audio must be a float32 array, got {type(audio).__name__}.")
    if audio.dtype != np.float32 or audio.ndim != 1:
        raise RecogniserError(
            f"audio must be float32 of shape (samples,), got {audio.dtype} of shape {audio.shape}; "
            "mlx_simul.speech.audio converts it."
        )
    if not np.isfinite(audio).all():
        raise RecogniserError(
            "a sample of the audio is infinite or not a number, so the recording is damaged; "
            "convert it to 16-bit PCM."
        )
    return audio


def _unreadable(path: str | Path, error: Exception) -> RecogniserError:
    return RecogniserError(
        f"{path} cannot be read as audio: {error} If a player plays it, convert it: "
        f"ffmpeg -i FILE -ar {SAMPLE_RATE_HZ} -ac 1 NEW.wav"
    )


def _is_cut_wav(log: str) -> bool:
    """Whether libsndfile has found less audio in a WAV file than the header says."""
    match = _WAV_IS_CUT.search(log)
    return match is not None and int(match[2]) < int(match[1]) < _UNKNOWN_BYTES


def _warn_of_cut(what: str) -> None:
    warnings.warn(
        f"{what}: it was cut off. All that is there has been read.", SimulWarning, stacklevel=3
    )
