"""Speech over real sockets: what is said is translated as what is typed."""

import base64
import json
import threading

import pytest
from live_server import Server, numbered, target, until
from prometheus_client.parser import text_string_to_metric_families
from served import WAIT_S, alone
from tone_recogniser import PAUSE, ToneRecogniser, ToneRecognition, tones
from websockets.exceptions import ConnectionClosed

from mlx_simul.events import Write
from mlx_simul.serving.audio import RATE_HZ, SHOWN_MS
from mlx_simul.serving.options import RecordOptions, ServingOptions

TALK = (
    "Good", "evening,", "how", "are", "you", "today?", PAUSE, "She", "bought", "a", "new", "car",
    "last", "week.", "I", "like", "cats", PAUSE, "Thank", "you", "very", "much.",
)  # fmt: skip
TEXT = " ".join(word or "\n\n" for word in TALK)
RECOGNISED = "session.input_audio_buffer.recognised"


def speech(*words):
    return tones(words, RATE_HZ).tobytes()


AUDIO = speech(*TALK)


@pytest.fixture(scope="module")
def hearing(loader):
    running = Server(loader, recogniser=ToneRecogniser)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def translation(model_alone):
    return model_alone(TEXT)


@pytest.fixture(scope="module")
def model_alone(golden_models, tokenizer):
    def translated(text):
        said = alone(golden_models["qwen2-tiny-0"], tokenizer, text)
        return "".join(event.text for event in said if isinstance(event, Write))

    return translated


def source(messages):
    found = [each["delta"] for each in messages if each["type"] == "session.input_transcript.delta"]
    return "".join(found).split()


def of_kind(messages, kind):
    return [each for each in messages if each["type"] == kind]


def metrics(server):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(server.http.get("/metrics").text)
        for sample in family.samples
    }


def test_speech_is_translated_as_the_same_words_in_writing(hearing, translation):
    with hearing.speak() as talk:
        assert talk.session["input_modalities"] == ["text", "audio"]
        assert talk.created["audio_ms"] == 0
        talk.speak(AUDIO)
        talk.send("close")
        messages = talk.to_the_end()
    assert source(messages) == [word for word in TALK if word]
    assert target(messages) == translation
    assert talk.code == 1000 and messages[-1]["type"] == "session.closed"
    found = of_kind(messages, RECOGNISED)
    assert "".join(each["text"] for each in found).split() == TEXT.split()
    assert found[-1]["audio_ms"] == len(AUDIO) // (2 * RATE_HZ // 1000)
    times = [(word["start_ms"], word["end_ms"]) for each in found for word in each["words"]]
    assert times == sorted(times) and len(times) == sum(map(bool, TALK))
    assert of_kind(messages, "session.input_text_buffer.committed") == []
    ends = [each["ended_by"] for each in of_kind(messages, "session.turn.done")]
    assert ends.count("blank_line") == 1  # behind "cats": a sentence had no full stop


def test_other_words_are_translated_otherwise(translation, model_alone):
    assert model_alone(TEXT.replace("cats", "dogs.")) != translation


@pytest.mark.parametrize("piece_bytes", [98, 192_000])
def test_pieces_may_have_any_length(hearing, piece_bytes):
    with hearing.speak() as talk:
        talk.speak(speech("Do", "you"), piece_bytes)
        talk.send("close")
        assert source(talk.to_the_end()) == ["Do", "you"]


def test_text_and_speech_go_into_one_stream(hearing, model_alone):
    with hearing.speak() as talk:
        talk.append("My train leaves ")
        talk.speak(speech("at", "seven", "o'clock"))
        talk.send("input_audio_buffer.commit")
        found = of_kind(talk.until(RECOGNISED, 1), RECOGNISED)
        while found[-1]["audio_ms"] < 900:
            found += of_kind(talk.until(RECOGNISED), RECOGNISED)
        talk.append("tomorrow morning.")
        talk.send("input_text_buffer.commit")
        assert talk.until("session.input_text_buffer.committed")[-1]["commits"] == 1
        talk.send("close")
        messages = talk.to_the_end()
    text = "My train leaves at seven o'clock \n\ntomorrow morning."
    assert source(messages) == text.split() and target(messages) == model_alone(text)
    look = hearing.http.get(f"/v1/streams/{talk.name}").json()
    assert look["source_chars"] == len("My train leaves tomorrow morning.")
    assert look["audio_ms"] == 900


def test_many_speak_at_once_and_hear_their_own(hearing, translation, model_alone):
    talks = {TEXT: AUDIO, "Do you want coffee?": speech("Do", "you", "want", "coffee?")}
    heard = {}

    def one(text, number):
        with hearing.speak() as talk:
            talk.speak(talks[text])
            talk.send("close")
            heard[text, number] = target(talk.to_the_end())

    threads = [
        threading.Thread(target=one, args=(text, number)) for text in talks for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert {text for text, _ in heard} == set(talks) and len(heard) == 6
    assert all(found == model_alone(text) for (text, _), found in heard.items())


def test_a_lost_connection_goes_on_behind_the_audio_that_arrived(hearing, translation):
    cut = len(AUDIO) // 2 // 2 * 2 + 4800  # within a word
    with hearing.speak() as first:
        first.speak(AUDIO[:cut])
        got = first.until("session.output_transcript.delta", 2)
        until(lambda: hearing.http.get(f"/v1/streams/{first.name}").json()["audio_ms"] == cut // 48)
        first.lose()
    until(lambda: hearing.streams._streams[first.name].speaker is None)
    seen = numbered(got)[-1]["seq"]
    with hearing.speak(f"session={first.name}&after={seen}") as second:
        at = second.created["audio_ms"] * 2 * RATE_HZ // 1000
        second.speak(AUDIO[at:])
        second.send("close")
        got += second.to_the_end()
    assert [each["seq"] for each in numbered(got)] == list(range(1, len(numbered(got)) + 1))
    assert target(got) == translation


def test_a_server_that_is_started_again_says_how_much_it_has_heard(loader, tmp_path, translation):
    options = ServingOptions(records=RecordOptions(journal=str(tmp_path)))
    server = Server(loader, options, recogniser=ToneRecogniser)
    with server.speak() as talk:
        talk.append("Typed. ")
        talk.speak(AUDIO[: len(AUDIO) // 4 * 2])
        before = talk.until("session.turn.done", 2)
        server.stop()
        before += talk.to_the_end()[len(before) :]
    server = Server(loader, options, recogniser=ToneRecogniser)
    try:
        with server.speak(f"session={talk.name}&after={numbered(before)[-1]['seq']}") as again:
            assert again.created["source_chars"] == len("Typed. ")
            heard_ms = again.created["audio_ms"]
            assert 0 < heard_ms <= len(AUDIO) // 2 // 48
            again.speak(AUDIO[heard_ms * 48 :])
            again.send("close")
            messages = before + again.to_the_end()
    finally:
        server.stop()
    assert source(messages) == ["Typed.", *(word for word in TALK if word)]
    assert [each["seq"] for each in numbered(messages)] == list(
        range(1, len(numbered(messages)) + 1)
    )


def test_a_speaker_who_comes_back_learns_how_much_was_listened_to(hearing):
    """Silence gives no words, and with them no message that says it."""
    tail = "session.input_transcript.tail"
    with hearing.speak() as first:
        first.speak(bytes(4 * RATE_HZ))
        # How far it has got is said now and then, not to the last piece.
        while (heard_ms := first.until(tail)[-1]["heard_ms"]) <= 2000 - SHOWN_MS:
            pass
    with hearing.speak(f"session={first.name}&after=0") as second:
        assert heard_ms <= second.until(tail)[-1]["heard_ms"] <= 2000
        second.send("close")
        second.to_the_end()


class Held(ToneRecogniser):
    """Hears nothing before it is let go."""

    gate = threading.Event()

    def begin(self, language=None):
        class Recognition(ToneRecognition):
            def hear(self, audio):
                assert Held.gate.wait(WAIT_S)
                return super().hear(audio)

        return Recognition()


@pytest.fixture
def held(loader):
    """A server whose recogniser cannot keep up."""
    Held.gate.clear()
    running = Server(loader, recogniser=Held)
    yield running
    Held.gate.set()
    running.stop()


def test_a_recogniser_that_cannot_keep_up_is_said_and_nothing_is_lost(held, model_alone):
    audio = speech("Do", "you", "want", "coffee?")
    second = bytes(2 * RATE_HZ)
    with held.speak() as talk:
        talk.speak(audio)
        talk.speak(28 * second)
        talk.send(
            "input_audio_buffer.append", audio=base64.b64encode(second).decode(), event_id="x"
        )
        (error,) = [each["error"] for each in talk.until("error")]
        assert (error["code"], error["type"], error["event_id"]) == (
            "audio_backlog_full", "rate_limit_error", "x",
        )  # fmt: skip
        figures = metrics(held)
        assert figures["mlx_simul_refusals_total", "audio_backlog_full"] == 1
        assert figures["mlx_simul_audio_waiting_seconds",] == 29.2
        Held.gate.set()
        talk.send("close")
        messages = talk.to_the_end()
    assert target(messages) == model_alone("Do you want coffee?")
    figures = metrics(held)
    assert figures["mlx_simul_audio_waiting_seconds",] == 0
    assert figures["mlx_simul_audio_seconds_total",] > 29
    assert figures["mlx_simul_recognition_seconds_total",] > 0


def test_a_stream_is_dropped_while_its_audio_waits(held, model_alone):
    with held.speak() as gone, held.speak() as stays:
        gone.speak(AUDIO)
        stays.speak(speech("Do", "you"))
        held.http.delete(
            f"/v1/streams/{gone.name}?now=1",
            headers={"Authorization": f"Bearer {gone.created['secret']}"},
        )
        assert of_kind(gone.to_the_end(), RECOGNISED) == []
        Held.gate.set()
        stays.send("close")
        assert source(stays.to_the_end()) == ["Do", "you"]
    assert metrics(held)["mlx_simul_audio_waiting_seconds",] == 0


def test_a_server_stops_while_audio_waits(held):
    with held.speak() as talk:
        talk.speak(AUDIO)
        until(lambda: held.streams.recognition.stalled_s > 0)
        assert held.http.get("/healthz").json()["seconds_since_progress"] >= 0
        held._uvicorn.should_exit = True
        with pytest.raises(ConnectionClosed) as caught:
            talk.socket.recv(WAIT_S)
        assert caught.value.rcvd.code == 1012


def test_a_recogniser_that_breaks_off_is_said_and_the_stream_goes_on_for_text(loader, model_alone):
    server = Server(loader, recogniser=lambda: ToneRecogniser("broken"))
    try:
        with server.speak() as talk:
            talk.speak(speech("Do"), 10**6)
            error = of_kind(talk.until("error"), "error")[0]
            assert error["error"]["code"] == "recogniser_failed" and error["seq"] == 1
            assert "mistake" not in json.dumps(error)
            talk.speak(speech("you"), 10**6)
            assert talk.until("error")[-1]["error"]["code"] == "recogniser_failed"
            messages = talk.say("Do you want coffee?")
        assert target(messages) == model_alone("Do you want coffee?")
        assert metrics(server)["mlx_simul_refusals_total", "recogniser_failed"] == 2
    finally:
        server.stop()


def test_audio_comes_by_requests_too(hearing):
    stream = hearing.http.post("/v1/streams").json()
    assert stream["session"]["input_modalities"] == ["text", "audio"]
    place, headers = f"/v1/streams/{stream['id']}", {"Authorization": f"Bearer {stream['secret']}"}
    audio = speech("Do", "you", "want", "coffee?")
    answer = hearing.http.post(f"{place}/audio", content=audio, headers=headers)
    assert (answer.status_code, answer.json()) == (202, {"audio_ms": 1200})
    answer = hearing.http.post(f"{place}/audio", content=b"\0", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "audio")
    hearing.http.delete(place, headers=headers)
    heard = [message for _, message in hearing.listen(stream["id"])]
    assert source(heard) == ["Do", "you", "want", "coffee?"]


def test_listeners_see_what_is_not_yet_certain(hearing):
    with hearing.speak() as talk:
        talk.speak(speech("Do")[: 2 * RATE_HZ // 10])
        tail = talk.until("session.input_transcript.tail")[-1]
        assert tail["text"] == "perhaps" and 0 < tail["heard_ms"] <= 100
        talk.send("close")
        talk.to_the_end()


def test_a_server_says_whether_it_hears(hearing, server):
    for each, wanted in ((hearing, ["text", "audio"]), (server, ["text"])):
        (model,) = each.http.get("/v1/models").json()["data"]
        assert model["input_modalities"] == wanted
        assert "microphone=(self)" in each.http.get("/").headers["permissions-policy"]
    with server.speak() as talk:
        assert talk.session["input_modalities"] == ["text"]
        talk.speak(speech("Do"), 10**6)
        assert talk.until("error")[-1]["error"]["code"] == "no_recogniser"
        talk.send("close")
        talk.to_the_end()
