"""Real speech through a server with a real recogniser, and its words as text through the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import soundfile
import soxr
from clients.servers import Server, serving
from heard import BECKETT, TWO_CITIES, word_error_rate
from websockets.sync.client import connect

from mlx_simul.serving.audio import RATE_HZ, SAMPLE_BYTES

pytestmark = pytest.mark.real_speech

WAIT_S = 300
PIECE_BYTES = 96_000
RECOGNISED, DELTA = "session.input_audio_buffer.recognised", "session.output_transcript.delta"


@pytest.fixture(scope="module")
def server(folder: Path):
    """It takes each recording at once."""
    model = f"faster-whisper:{folder / 'tiny.en'}"
    with serving("--recogniser", model, "--max-waiting-audio-s", "60") as server:
        yield server


def samples(path: Path) -> bytes:
    """A recording as clients send it."""
    audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(audio.mean(axis=1), rate_hz, RATE_HZ)
    return (mono.clip(-1, 1) * 32767).astype("<i2").tobytes()


def conversation(server: Server, *said: dict) -> list[dict]:
    """All that the server says to some messages and an end."""
    url = f"ws://127.0.0.1:{server.port}/v1/realtime/translations"
    with connect(url, max_size=None) as socket:
        for message in (*said, {"type": "session.close"}):
            socket.send(json.dumps(message))
        messages = [json.loads(socket.recv(WAIT_S))]
        while messages[-1]["type"] != "session.closed":
            messages.append(json.loads(socket.recv(WAIT_S)))
    assert [each["error"] for each in messages if each["type"] == "error"] == []
    return messages


def spoken(server: Server, audio: bytes) -> list[dict]:
    pieces = [audio[at : at + PIECE_BYTES] for at in range(0, len(audio), PIECE_BYTES)]
    kind = "session.input_audio_buffer.append"
    said = [{"type": kind, "audio": base64.b64encode(piece).decode()} for piece in pieces]
    return conversation(server, *said)


def joined(messages: list[dict], kind: str, name: str) -> str:
    return "".join(each[name] for each in messages if each["type"] == kind)


@pytest.mark.parametrize(
    ("name", "known"),
    [("two_cities", TWO_CITIES), ("beckett", BECKETT), ("endgame_nagg_nell", None)],
)
def test_nothing_is_lost_against_the_same_words_as_text(server, folder, name, known):
    audio = samples(folder / f"{name}.wav")
    messages = spoken(server, audio)
    source = joined(messages, RECOGNISED, "text")
    append = {"type": "session.input_text_buffer.append", "text": source}
    typed = conversation(server, append)
    assert joined(messages, DELTA, "delta") == joined(typed, DELTA, "delta") != ""
    recognised = [each for each in messages if each["type"] == RECOGNISED]
    whole_ms = len(audio) // SAMPLE_BYTES * 1000 // RATE_HZ
    assert recognised[-1]["audio_ms"] == whole_ms
    times = [word["end_ms"] for each in recognised for word in each["words"]]
    assert times == sorted(times) and times[-1] <= whole_ms
    assert known is None or word_error_rate(known, source) < 0.1


def test_silence_says_nothing(server):
    messages = spoken(server, bytes(30 * SAMPLE_BYTES * RATE_HZ))
    assert joined(messages, RECOGNISED, "text") == joined(messages, DELTA, "delta") == ""
