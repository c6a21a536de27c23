"""The official Python client speaks to us as it speaks to OpenAI."""

import base64
import signal
import subprocess
import sys
import wave

import pytest
import tone_recogniser
from clients.servers import Server, serving
from clients.test_the_page_of_documentation import ADDRESS, examples
from tone_recogniser import PAUSE, tones

from mlx_simul.serving.audio import RATE_HZ

openai = pytest.importorskip("openai", reason="tox -e clients installs the official client")
pytestmark = pytest.mark.clients

TALK = (
    "Do", "you", "want", "coffee?", "I", "like", "cats", PAUSE, "My", "train", "leaves", "at",
    "seven", "o'clock", "tomorrow", "morning.", "She", "bought", "a", "new", "car", "last", "week.",
)  # fmt: skip
TEXT = " ".join(word or "\n\n" for word in TALK)
AUDIO = tones(TALK, RATE_HZ).tobytes()
PIECE_BYTES = 2 * RATE_HZ // 5
HEARS = ("--recogniser", "tones")


@pytest.fixture(scope="session", autouse=True)
def installed(tmp_path_factory):
    """Servers that tests start know the recogniser of tones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", tone_recogniser.install(tmp_path_factory.mktemp("tones")))
        yield


@pytest.fixture(scope="session")
def hearing(installed):
    with serving(*HEARS) as server:
        yield server


def client_of(server):
    return openai.OpenAI(
        api_key="any",
        base_url=f"{server.url}/v1",
        websocket_base_url=f"ws://127.0.0.1:{server.port}/v1",
    )


def speak(connection, audio):
    for at in range(0, len(audio), PIECE_BYTES):
        piece = base64.b64encode(audio[at : at + PIECE_BYTES]).decode()
        connection.session.input_audio_buffer.append(audio=piece)


def text_of(events, side="output"):
    return "".join(e.delta for e in events if e.type == f"session.{side}_transcript.delta")


def test_speech_becomes_the_translation_of_its_words(hearing, translation):
    with client_of(hearing).realtime.translations.connect(model="en-fr") as connection:
        created = connection.recv()
        assert created.session.input_modalities == ["text", "audio"]
        speak(connection, AUDIO)
        connection.session.close()
        events = list(connection)
    assert text_of(events, "input").split() == [word for word in TALK if word]
    assert text_of(events) == translation(TEXT)
    assert events[-1].type == "session.closed"


def test_the_example_of_the_page_speaks_a_file(hearing, translation, tmp_path):
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", None))
        file.writeframes(AUDIO)
    _, example = examples("python")
    done = subprocess.run(
        [sys.executable, "-c", example.replace(ADDRESS, f"127.0.0.1:{hearing.port}")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == translation(TEXT)


def test_another_talk_is_translated_otherwise(translation):
    assert translation(TEXT.replace("cats", "dogs.")) != translation(TEXT)


def test_what_openai_lets_a_client_say_of_its_audio_is_taken(hearing):
    audio = {
        "input": {"noise_reduction": {"type": "near_field"}, "transcription": {"model": "any"}},
        "output": {"language": "fr"},
    }
    with client_of(hearing).realtime.translations.connect(model="en-fr") as connection:
        connection.session.update(session={"audio": audio})
        speak(connection, AUDIO[: 4 * PIECE_BYTES])
        connection.session.close()
        events = list(connection)
    assert "session.updated" in [event.type for event in events]
    assert not [event for event in events if event.type == "error"]


def test_a_server_that_is_killed_says_how_much_it_had_heard(installed, tmp_path, translation):
    options = (*HEARS, "--journal", str(tmp_path))
    servers, n_created, known = [], 0, {}

    def resume(_):
        return {"extra_query": {"model": "en-fr", **known}}

    with serving(*options) as first:
        manager = client_of(first).realtime.translations.connect(
            model="en-fr", on_reconnecting=resume, max_retries=60, max_delay=2
        )
        events = []
        try:
            with manager as connection:
                for event in connection:
                    events.append(event)
                    known["after"] = str(getattr(event, "seq", known.get("after", 0)))
                    if event.type == "session.created":
                        n_created += 1
                        known["session"] = event.session.id
                        heard = AUDIO[event.audio_ms * 2 * RATE_HZ // 1000 :]
                        speak(connection, heard if n_created == 2 else heard[: len(heard) // 2])
                        if n_created == 2:
                            assert len(AUDIO) // 4 < len(heard) < len(AUDIO)
                            connection.session.close()
                    elif event.type == "session.turn.done" and event.turn == 1 and not servers:
                        first.end(signal.SIGKILL)
                        servers.append(Server("--port", str(first.port), *options))
                    elif event.type == "session.closed":
                        break
        finally:
            for server in servers:
                server.kill_if_alive()
    assert n_created == 2
    assert text_of(events, "input").split() == [word for word in TALK if word]
    assert text_of(events) == translation(TEXT)
