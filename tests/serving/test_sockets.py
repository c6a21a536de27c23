"""The server over real sockets: what a client sends and gets, by WebSocket and by HTTP."""

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_server import Server, events, numbered, target, until
from prometheus_client.parser import text_string_to_metric_families
from served import SENTENCES, TALK
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mlx_simul.serving.options import RecordOptions, ServingOptions


def seqs(messages):
    return [each["seq"] for each in numbered(messages)]


def in_a_row(messages):
    return seqs(messages) == list(range(1, len(numbered(messages)) + 1))


# WebSocket


def test_a_speaker_hears_the_translation(server, talk_alone):
    with server.speak("model=tiny") as talk:
        assert talk.created["type"] == "session.created" and not talk.created["resumed"]
        assert talk.session["type"] == "translation" and talk.session["model"] == "tiny"
        messages = talk.say(TALK)
    assert target(messages) == talk_alone
    assert in_a_row(messages) and talk.code == 1000
    assert messages[-1]["type"] == "session.closed"
    assert messages[-1]["usage"]["source_words"] == len(TALK.split())
    source = "".join(each["delta"] for each in messages if "input_transcript" in each["type"])
    assert source.split() == TALK.split()


def test_nothing_is_lost_and_nothing_comes_twice_when_a_connection_is_lost(server, talk_alone):
    with server.speak() as first:
        first.append(SENTENCES[0] + SENTENCES[1][:7])
        first.send("input_text_buffer.commit")
        got = first.until("session.output_transcript.delta", 2)
        until(lambda: server.streams._streams[first.name].protocol.commits == 1)
        first.lose()
    after = got[-1]["seq"]
    until(lambda: server.streams._streams[first.name].speaker is None)
    with server.speak(f"session={first.name}&after={after}") as second:
        assert second.created["resumed"] and "secret" not in second.created
        assert (second.created["source_chars"], second.created["commits"]) == (39 + 1, 1)
        got += second.say("".join(SENTENCES[2:]))
    assert in_a_row(got) and got[-1]["type"] == "session.closed"
    (secret,) = [first.created["secret"]]
    assert secret and secret not in json.dumps(got)


def test_another_connection_takes_the_stream_over(server):
    with server.speak() as first, server.speak(f"session={first.name}") as second:
        first.to_the_end()
        assert first.code == 4003
        assert numbered(second.say(SENTENCES[0]))[-1]["type"] == "session.closed"
        assert second.code == 1000


def test_an_ended_stream_can_be_heard_again(server, talk_alone):
    with server.speak() as talk:
        messages = talk.say(TALK)
    with server.speak(f"session={talk.name}&after={len(messages) // 2}") as again:
        rest = again.to_the_end()
        assert again.code == 1000
    assert messages[: len(messages) // 2] + rest == messages


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=no-such", 404, "unknown_model"),
        ("session=no-such", 404, "unknown_session"),
        ("session=..%2F..%2Fetc%2Fpasswd", 404, "unknown_session"),
        ("session=", 404, "unknown_session"),
    ],
)
def test_what_is_not_there_is_refused_before_the_socket_opens(server, query, status, code):
    with pytest.raises(InvalidStatus) as caught:
        server.speak(query)
    response = caught.value.response
    assert response.status_code == status
    assert json.loads(response.body)["error"]["code"] == code


@pytest.mark.parametrize("after", ["x", "-1", "1e3", "9" * 30, "٣", "99"])
def test_a_wrong_place_to_resume_is_refused(server, after):
    with server.speak() as talk:
        with pytest.raises(InvalidStatus) as caught:
            server.speak(f"session={talk.name}&after={after}")
        assert json.loads(caught.value.response.body)["error"]["param"] == "after"
        assert numbered(talk.say("a"))[-1]["type"] == "session.closed"  # it speaks on


def test_a_wrong_message_is_named_and_the_socket_stays_open(server, talk_alone):
    with server.speak() as talk:
        talk.socket.send("{")
        talk.socket.send(b"\xff\xff")
        talk.send("nonsense", event_id="mine")
        talk.send("update", session={"policy": "no-such"}, event_id="yours")
        errors = [each["error"] for each in talk.until("error", 4)]
        assert [each["param"] for each in errors] == [None, None, "type", "session.policy"]
        assert [each["event_id"] for each in errors[2:]] == ["mine", "yours"]
        assert target(talk.say(TALK)) == talk_alone


def test_a_message_that_is_too_large_closes_the_socket_and_not_the_stream(server, talk_alone):
    with server.speak() as talk:
        talk.append(SENTENCES[0])
        got = talk.until("session.turn.done")
        most = server.streams.options.capacity.max_message_bytes
        # The last piece alone is too much: what a server has not read when it closes a connection
        # may cost the client the reason. It may close before the client has sent all of it.
        with contextlib.suppress(ConnectionClosed):
            talk.socket.send(["a" * (most - 10), "a" * 11])
        got += talk.to_the_end()[len(got) :]
        assert talk.code == 1009
    with server.speak(f"session={talk.name}&after={seqs(got)[-1]}") as again:
        assert again.created["source_chars"] == len(SENTENCES[0])
        got += again.say("".join(SENTENCES[1:]))
    assert in_a_row(got) and target(got) == talk_alone


def test_a_reader_that_takes_nothing_is_told_and_may_resume(server):
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", server.port))
    with server.speak(sock=slow, max_queue=1) as talk:
        stream = server.streams._streams[talk.name]
        for _ in range(18):  # more than the sockets hold
            notice = stream.protocol.notice("test", "a" * 100_000)
            server.run(server.streams._tell, stream, notice)
        connection = stream.speaker
        until(lambda: connection.closed_with == 4008)  # by the sweep of each second
        talk.to_the_end()
        assert talk.code == 4008 and len(talk.messages) < 18
    with server.speak(f"session={talk.name}&after={len(talk.messages)}") as again:
        again.send("close")
        got = talk.messages + again.to_the_end()
    assert in_a_row(got) and len(got) == 19


# HTTP


def opened(server, **body):
    answer = server.http.post("/v1/streams", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def bearer(stream):
    return {"Authorization": f"Bearer {stream['secret']}"}


def test_text_goes_in_by_requests_and_events_come_out(server, talk_alone):
    stream = opened(server, model="tiny", session={"instruction": "Say it", "policy": "wait-k:2"})
    place, headers = f"/v1/streams/{stream['id']}", bearer(stream)
    assert stream["session"]["instruction"] == "Say it"
    assert (stream["events"], stream["captions"]) == (
        f"{place}/events",
        f"/captions/{stream['id']}",
    )
    answer = server.http.post(f"{place}/session", json={"instruction": None}, headers=headers)
    assert answer.json()["session"]["instruction"] is None
    n_chars = 0
    for number, sentence in enumerate(SENTENCES):
        n_chars += len(sentence)
        if number % 2:
            plain = {**headers, "Content-Type": "text/plain; charset=utf-8"}
            answer = server.http.post(f"{place}/text", content=sentence, headers=plain)
        else:
            answer = server.http.post(f"{place}/text", json={"text": sentence}, headers=headers)
        assert (answer.status_code, answer.json()) == (202, {"source_chars": n_chars})
    assert server.http.post(f"{place}/tail", json={"text": "a"}, headers=headers).status_code == 202
    answer = server.http.post(f"{place}/commit", headers=headers)
    assert (answer.status_code, answer.json()) == (202, {"commits": 1})
    assert server.http.get(place).json()["source_chars"] == n_chars
    assert server.http.delete(place, headers=headers).status_code == 202
    heard = server.listen(stream["id"])
    assert heard[0][1]["type"] == "session.created" and "secret" not in heard[0][1]
    assert [name for name, message in heard] == [message.get("seq") for _, message in heard]
    assert target(message for _, message in heard) == talk_alone
    answer = server.http.post(f"{place}/text", json={"text": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_closed")


def test_a_stream_can_be_dropped_at_once(server):
    stream = opened(server)
    place = f"/v1/streams/{stream['id']}"
    server.http.post(f"{place}/text", json={"text": TALK}, headers=bearer(stream))
    assert server.http.delete(f"{place}?now=1", headers=bearer(stream)).status_code == 202
    *_, (_, error), (_, closed) = server.listen(stream["id"])
    assert (error["error"]["code"], closed["reason"]) == ("dropped", "failed")


def test_listeners_come_late_and_come_back(server):
    with server.speak() as talk:
        talk.append(SENTENCES[0])
        talk.until("session.turn.done")
        place = f"/v1/streams/{talk.name}/events"
        with server.http.stream("GET", place) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = events(response.iter_lines())
            next(lines)  # session.created
            first = [next(lines) for _ in range(3)]
        until(lambda: server.http.get(place.removesuffix("/events")).json()["listeners"] == 1)
        wanted = numbered(talk.say("".join(SENTENCES[1:])))
    rest = server.listen(talk.name, headers={"Last-Event-ID": str(first[-1][0])})[1:]
    assert [message for _, message in first + rest] == wanted
    assert server.listen(talk.name, params={"after": first[-1][0]})[1:] == rest
    assert [message for _, message in server.listen(talk.name)[1:]] == wanted


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b c", "a\x0b\x0cb", "\x00 <b>", "🎉 e\u0301"])
def test_odd_characters_come_through_a_stream_of_lines(server, text):
    with server.speak() as talk:
        wanted = numbered(talk.say(text))
    with server.http.stream("GET", f"/v1/streams/{talk.name}/events") as response:
        lines = response.read().decode().split("\r\n")
    assert [message for _, message in events(lines)][1:] == wanted


@pytest.fixture(scope="module")
def ended(server):
    with server.speak("model=tiny") as talk:
        return talk.name, talk.say(TALK)


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt"])
def test_transcripts_have_both_sides(server, ended, kind):
    name, messages = ended
    turns = [each for each in messages if each["type"] == "session.turn.done"]
    for side, texts in {
        "source": ["source_text"], "target": ["target_text"], "both": ["source_text", "target_text"]
    }.items():  # fmt: skip
        answer = server.transcript(name, kind, side=side)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="transcript.{kind}"'
        shown = "".join(answer.text.split())
        for turn in turns:
            for text in texts:
                assert "".join(turn[text].split()) in shown or kind != "txt"
    assert server.transcript(name, kind).text == server.transcript(name, kind, side="target").text
    if kind == "vtt":
        assert answer.text.startswith("WEBVTT")


def test_a_transcript_as_json(server, ended):
    name, messages = ended
    values = server.transcript(name, "json").json()
    assert values["session"]["id"] == name
    done = [each for each in messages if each["type"] == "session.turn.done"]
    for turn, message in zip(values["turns"], done, strict=True):
        assert (turn["source_text"], turn["target_text"]) == (
            message["source_text"],
            message["target_text"],
        )


@pytest.mark.parametrize(
    ("place", "code"),
    [("transcript.exe", "unknown_session"), ("transcript.txt?side=back", "invalid_value"),
     ("transcript.jsonl", "unknown_session")],
)  # fmt: skip
def test_a_transcript_of_another_kind_is_refused(server, ended, place, code):
    name, _ = ended
    assert server.http.get(f"/v1/streams/{name}/{place}").json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [
        ("GET", "/no-such", 404), ("GET", "/v1/streams/no-such", 404),
        ("GET", "/v1/streams/no-such/events", 404), ("POST", "/v1/streams/no-such/text", 404),
        ("GET", "/v1/streams/..%2F..%2Fx/transcript.txt", 404), ("GET", "/page/no-such.js", 404),
        ("GET", "/page/..%2fhttp.py", 404), ("PUT", "/v1/streams", 405),
        ("GET", "/v1/streams/%00/events", 404), ("GET", "/%0d%0aX-Evil:%201", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_is_an_error_as_json(server, method, place, status):
    answer = server.http.request(method, place, json={"text": "a"})
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "x-evil" not in answer.headers and "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"model": 7}', b'{"session": 7}', b'{"session": {"history": -1}}',
             b"\xff", b"[" * 50_000, b'{"session": {"policy": "no-such"}}']
)  # fmt: skip
def test_a_wrong_body_is_refused(server, body):
    answer = server.http.post("/v1/streams", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(server):
    stream = opened(server)
    place = f"/v1/streams/{stream['id']}/text"
    most = server.streams.options.capacity.max_message_bytes
    answer = server.http.post(place, json={"text": "a" * most}, headers=bearer(stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "message_too_large")

    pieces = (b"a" * 1000 for _ in range(300))  # whose length is not said
    answer = server.http.post(place, content=pieces, headers=bearer(stream))
    assert answer.status_code == 413
    server.http.delete(f"/v1/streams/{stream['id']}?now=1", headers=bearer(stream))


def test_a_server_that_is_full_says_so(own_server):
    server = own_server
    with server.limited(max_sessions=1), server.speak() as talk:
        answer = server.http.post("/v1/streams")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_full")
        with pytest.raises(InvalidStatus) as caught:
            server.speak()
        assert caught.value.response.status_code == 503
        talk.say("a")
        assert talk.code == 1000


# What the server says of itself


def test_models(server):
    (model,) = server.http.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["languages"]) == ("tiny", "model", "any")


def test_metrics_can_be_read(server, ended):
    _, messages = ended
    server.http.get("/v1/streams/no-such")
    text = server.http.get("/metrics").text
    figures = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    words = messages[-1]["usage"]["target_words"]
    assert figures["mlx_simul_target_words_total",] >= words > 0
    assert figures["mlx_simul_source_words_total",] >= len(TALK.split())
    assert figures["mlx_simul_refusals_total", "unknown_session"] >= 1
    assert figures["mlx_simul_passes_total",] > 0 < figures["mlx_simul_memory_bytes",]
    assert figures["mlx_simul_lag_words_count",] >= words
    assert figures["mlx_simul_sessions",] == len(server.streams)


def test_the_page_may_load_nothing_from_elsewhere(server):
    answer = server.http.get("/")
    assert (
        answer.status_code == 200
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


def test_a_server_that_is_started_again_goes_on(loader, tmp_path, talk_alone):
    options = ServingOptions(records=RecordOptions(journal=str(tmp_path)))
    server = Server(loader, options)
    with server.speak() as talk:
        talk.append(SENTENCES[0] + SENTENCES[1])
        before = talk.until("session.turn.done")
        server.stop()
    server = Server(loader, options)
    try:
        # A listener comes back first, then one who has the secret only, then the speaker.
        assert server.http.get(f"/v1/streams/{talk.name}").json()["last_seq"] >= len(before)
        place, headers = f"/v1/streams/{talk.name}", bearer(talk.created)
        answer = server.http.post(f"{place}/text", json={"text": SENTENCES[2]}, headers=headers)
        assert answer.json()["source_chars"] == sum(map(len, SENTENCES[:3]))
        with server.speak(f"session={talk.name}&after={before[-1]['seq']}") as again:
            messages = before + again.say(SENTENCES[3])
        heard = server.listen(talk.name, headers={"Last-Event-ID": str(before[-1]["seq"])})
        assert in_a_row(messages) and target(messages) == talk_alone
        assert [message for _, message in heard[1:]] == messages[len(before) :]
    finally:
        server.stop()


def test_a_request_is_answered_though_its_stream_ends_meanwhile(server):
    stream = opened(server)
    place, headers = f"/v1/streams/{stream['id']}", bearer(stream)

    def post():
        return server.http.post(f"{place}/text", json={"text": TALK}, headers=headers)

    with ThreadPoolExecutor() as pool:
        posting = [pool.submit(post) for _ in range(8)]
        server.http.delete(f"{place}?now=1", headers=headers)
        assert {each.result().status_code for each in posting} <= {202, 409}


def test_a_server_that_stops_says_so(loader):
    server = Server(loader)
    talk = server.speak()
    server.stop()
    with pytest.raises(ConnectionClosed) as caught:
        talk.socket.recv(30)
    assert caught.value.rcvd.code == 1012
