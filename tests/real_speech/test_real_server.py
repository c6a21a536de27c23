"""Real speech through a server with a real recogniser, and its words as text through the same."""

from __future__ import annotations

import base64
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from clients.servers import serving
from repository import ROOT

from mlx_simul.serving.audio import RATE_HZ

pytestmark = pytest.mark.real_speech

WAIT_S = 300
PIECE_BYTES = 96_000
TWO_CITIES = """
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to Heaven, we were all
going direct the other way; in short, the period was so far like the present period, that some of
its noisiest authorities insisted on its being received, for good or for evil, in the superlative
degree of comparison only.
"""


def fetched(name: str) -> Path:
    """The first file of a bundle, by tools/fetch_speech.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return import_module("fetch_speech").fetch(name)[0]
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def server():
    """It takes each recording at once."""
    model = fetched("tiny.en").parent
    with serving(
        "--recogniser", f"faster-whisper:{model}", "--max-waiting-audio-s", "60"
    ) as server:
        yield server


def samples(name: str) -> bytes:
    soundfile, soxr = import_module("soundfile"), import_module("soxr")
    path = fetched("recordings").parent / name
    audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(audio.mean(axis=1), rate_hz, RATE_HZ)
    return (mono.clip(-1, 1) * 32767).astype("<i2").tobytes()


def conversation(server, *said: dict) -> list[dict]:
    """All that the server says to some messages and an end."""
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{server.port}/v1/realtime/translations"
    with connect(url, max_size=None) as socket:
        for message in (*said, {"type": "session.close"}):
            socket.send(json.dumps(message))
        messages = [json.loads(socket.recv(WAIT_S))]
        while messages[-1]["type"] != "session.closed":
            messages.append(json.loads(socket.recv(WAIT_S)))
    assert [each["error"] for each in messages if each["type"] == "error"] == []
    return messages


def spoken(server, audio: bytes) -> list[dict]:
    pieces = [audio[at : at + PIECE_BYTES] for at in range(0, len(audio), PIECE_BYTES)]
    kind = "session.input_audio_buffer.append"
    said = [{"type": kind, "audio": base64.b64encode(piece).decode()} for piece in pieces]
    return conversation(server, *said)


def joined(messages: list[dict], kind: str, name: str) -> str:
    return "".join(each[name] for each in messages if each["type"] == kind)


def plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


@pytest.mark.parametrize("name", ["two_cities.wav", "beckett.wav", "endgame_nagg_nell.wav"])
def test_nothing_is_lost_against_the_same_words_as_text(server, name):
    audio = samples(name)
    messages = spoken(server, audio)
    source = joined(messages, "session.input_audio_buffer.recognised", "text")
    assert len(source.split()) > 10
    append = {"type": "session.input_text_buffer.append", "text": source}
    typed = conversation(server, append)
    delta = "session.output_transcript.delta"
    assert joined(messages, delta, "delta") == joined(typed, delta, "delta") != ""
    recognised = [each for each in messages if each["type"].endswith(".recognised")]
    assert recognised[-1]["audio_ms"] == len(audio) // 2 * 1000 // RATE_HZ
    times = [word["end_ms"] for each in recognised for word in each["words"]]
    assert times == sorted(times) and times[-1] <= recognised[-1]["audio_ms"]
    if name == "two_cities.wav":
        jiwer = pytest.importorskip("jiwer")
        assert jiwer.wer(plain(TWO_CITIES), plain(source)) < 0.1


def test_silence_says_nothing(server):
    messages = spoken(server, bytes(30 * 2 * RATE_HZ))
    assert joined(messages, "session.input_audio_buffer.recognised", "text") == ""
    assert joined(messages, "session.output_transcript.delta", "delta") == ""
