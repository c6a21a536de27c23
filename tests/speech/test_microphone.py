"""The microphone, on a stand-in for PortAudio: it goes on, is lost, is missing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_simul.errors import InvalidOptionError, RecogniserError
from mlx_simul.speech import microphone
from mlx_simul.speech.microphone import Microphone

RATE_HZ = 48_000
DEVICES = [
    {"index": 0, "name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 44100.0},
    {"index": 1, "name": "Desk", "max_input_channels": 2, "default_samplerate": float(RATE_HZ)},
]
QUIET, OVERFLOW = SimpleNamespace(input_overflow=False), SimpleNamespace(input_overflow=True)


class PortAudio:
    """What sounddevice has that a microphone needs."""

    class PortAudioError(Exception):
        pass

    def __init__(self, devices=DEVICES, *, opens=True):
        self.devices = devices
        self.opens = opens
        self.stream = None

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self.devices
        inputs = [d for d in self.devices if d["max_input_channels"]]
        found = [d for d in inputs if device in (None, d["index"]) or str(device) in d["name"]]
        if not found:
            raise ValueError(f"No input device matching {device!r}")
        return found[0]

    def InputStream(self, **options):
        if not self.opens:
            raise self.PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.stream = Stream(options)
        return self.stream


class Stream:
    """A stream, whose callbacks a test calls."""

    def __init__(self, options):
        self.options = options
        self.is_running = False

    def start(self):
        self.is_running = True

    def close(self):
        self.is_running = False
        self.options["finished_callback"]()

    def give(self, samples, status=QUIET):
        """As PortAudio does, which uses the memory again."""
        frames = np.array(samples, np.float32)[:, None]
        self.options["callback"](frames, len(frames), None, status)
        frames[:] = 9.0


class ThirdSample:
    """Keeps one sample of some, where soxr would filter."""

    def __init__(self, rate_hz):
        self.step = rate_hz // 16_000

    def feed(self, samples):
        return samples[:: self.step]


@pytest.fixture
def portaudio(monkeypatch):
    made = PortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    monkeypatch.setattr(microphone, "Resampler", ThirdSample)
    return made


def test_what_it_hears_comes_at_the_rate_of_recognisers(portaudio):
    with Microphone() as desk:
        assert portaudio.stream.options["device"] == 1
        assert portaudio.stream.options["samplerate"] == RATE_HZ
        portaudio.stream.give(range(6))
        portaudio.stream.give(range(6, 12))
        assert desk.take().tolist() == [0, 3, 6, 9]
        assert desk.began_s is not None
        desk.stop()
        assert desk.take() is None
    assert not portaudio.stream.is_running


@pytest.mark.parametrize("device", ["1", "Desk"])
def test_it_is_found_by_number_and_by_name(portaudio, device):
    assert Microphone(device).name == "Desk"


def test_one_that_is_unplugged_is_said_behind_what_it_heard(portaudio):
    with Microphone() as desk:
        portaudio.stream.give(range(3))
        portaudio.stream.options["finished_callback"]()
        assert desk.take() is not None
        with pytest.raises(RecogniserError, match="the microphone Desk has stopped; is it still"):
            desk.take()


def test_one_that_falls_silent_without_a_word_is_said_too(portaudio):
    with Microphone(max_gap_s=0.001) as desk:
        portaudio.stream.give(range(3))
        assert desk.take() is not None
        with pytest.raises(RecogniserError, match=r"has given nothing for 0\.001 s"):
            desk.take()


def test_audio_that_the_driver_lost_is_said_once(portaudio):
    with Microphone() as desk:
        portaudio.stream.give(range(3))
        assert desk.remarks() == []
        portaudio.stream.give(range(3), OVERFLOW)
        assert "lost audio" in "".join(desk.remarks())
        assert desk.remarks() == []


def test_it_does_not_drop_audio_for_which_there_is_no_room(portaudio):
    with Microphone() as desk:
        for _ in range(301):
            portaudio.stream.give(np.zeros(RATE_HZ))
        n_heard = 0
        with pytest.raises(RecogniserError, match="300 s of audio wait to be heard"):
            while (block := desk.take()) is not None:
                n_heard += len(block)
        assert n_heard == 300 * 16_000


def test_a_microphone_that_is_not_there_is_refused_with_those_that_are(portaudio):
    with pytest.raises(InvalidOptionError, match=r"no microphone Booth: .* There are: 1 Desk;"):
        Microphone("Booth")
    portaudio.devices = DEVICES[:1]
    with pytest.raises(InvalidOptionError, match="There are: none; or name a file"):
        Microphone()


def test_one_that_cannot_be_opened_is_said(portaudio):
    portaudio.opens = False
    with pytest.raises(RecogniserError, match="Desk cannot be opened: Device unavailable"):
        Microphone().__enter__()


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InvalidOptionError, match=r"pip install 'mlx-simul\[speech\]', or name"):
        Microphone()


def test_a_library_that_is_missing_is_named(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidOptionError, match=r"library not found\. On Debian, apt install"):
        Microphone()
