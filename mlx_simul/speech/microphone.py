"""The microphone, through sounddevice (PortAudio)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import InvalidOptionError, RecogniserError
from mlx_simul.machine.extras import require
from mlx_simul.speech.audio import Resampler
from mlx_simul.speech.capture import MAX_WAITING_S, Arriving

MAX_GAP_S = 5.0
"""A microphone that gives nothing for this long has gone: silence is audio too."""

_OTHERWISE = "name a file, or write raw PCM to standard input"


class Microphone(Arriving):
    """What a microphone hears, at its own rate, resampled as it comes.

    Args:
        device: its number, or a part of its name; by default the system's.
        max_gap_s: it has gone if it gives nothing for this long.

    Raises:
        InvalidOptionError: if there is no such microphone, or sounddevice is not installed.
    """

    def __init__(self, device: str | None = None, *, max_gap_s: float = MAX_GAP_S) -> None:
        super().__init__(max_gap_s=max_gap_s)
        self._portaudio = _portaudio()
        about = _input_device(self._portaudio, device)
        self._index, self.name = about["index"], about["name"]
        self._rate_hz = int(about["default_samplerate"])
        self._resampler = Resampler(self._rate_hz)
        self._n_overflows = self._n_said = 0

    def __enter__(self) -> Self:
        try:
            self._stream = self._portaudio.InputStream(
                device=self._index,
                samplerate=self._rate_hz,
                channels=1,
                dtype="float32",
                callback=self._hear,
                finished_callback=self._finish,
            )
            self._stream.start()
        except self._portaudio.PortAudioError as error:
            raise RecogniserError(
                f"the microphone {self.name} cannot be opened: {error}. Is another program using "
                "it, or is this one not allowed to?"
            ) from error
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._stream.close()

    def remarks(self) -> list[str]:
        """How late listening is, and audio that was lost before it came here."""
        said, self._n_said = self._n_said, self._n_overflows
        if self._n_said == said:
            return super().remarks()
        lost = "the microphone's driver lost audio, since the machine was too busy to take it."
        return [lost, *super().remarks()]

    def _hear(self, frames: NDArray[np.float32], _: int, __: Any, status: Any) -> None:
        """Called by PortAudio, on a thread of its own, with frames of shape (samples, 1)."""
        self._n_overflows += bool(status.input_overflow)
        # PortAudio uses the memory again.
        block = self._resampler.feed(frames[:, 0].copy())
        if not self.put(block, wait=False):
            self.end(
                RecogniserError(
                    f"{MAX_WAITING_S:.0f} s of audio wait to be heard, and no more can be held: "
                    "this machine cannot keep up. Take a smaller recogniser or a smaller model."
                )
            )

    def _finish(self) -> None:
        """Called by PortAudio when the stream has ended, whatever ended it."""
        self.end(RecogniserError(f"the microphone {self.name} has stopped; is it still connected?"))


def _portaudio() -> Any:
    try:
        return require("sounddevice", "speech", _OTHERWISE)
    except OSError as error:  # the package is there, and the library that it loads is not
        raise InvalidOptionError(
            f"the microphone needs PortAudio: {error}. On Debian, apt install libportaudio2; or "
            f"{_OTHERWISE}."
        ) from error


def _input_device(portaudio: Any, device: str | None) -> Any:
    """What PortAudio says of the input device that is meant."""
    wanted = int(device) if device is not None and device.isdecimal() else device
    try:
        return portaudio.query_devices(wanted, "input")
    except (ValueError, portaudio.PortAudioError) as error:
        names = [
            f"{about['index']} {about['name']}"
            for about in portaudio.query_devices()
            if about["max_input_channels"] > 0
        ]
        raise InvalidOptionError(
            f"there is no microphone {device or 'here'}: {error}. There are: "
            f"{', '.join(names) or 'none'}; or {_OTHERWISE}."
        ) from error
