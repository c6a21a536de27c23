"""What an attacker may try: keys, origins, names, slow clients, floods, garbage."""

import contextlib
import hmac
import json
import logging
import os
import random
import socket
import threading

import pytest
from live_server import numbered, target, until
from served import SENTENCES, TALK
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from mlx_simul.errors import InvalidOptionError
from mlx_simul.serving import websocket
from mlx_simul.serving.deadlines import PunctualHttp, PunctualWebSocket
from mlx_simul.serving.keys import Keys, read_keys

ANN, BOB, WRONG = "k" * 20, "q" * 20, "w" * 20


def as_bearer(key):
    return {"Authorization": f"Bearer {key}"}


def as_subprotocols(key):
    return ["realtime", f"openai-insecure-api-key.{key}"]


# Keys


@pytest.mark.parametrize("key", [None, "a", WRONG, ANN[:-1], ANN + "k", "ek_no-such"])
def test_a_wrong_key_is_refused_and_not_repeated(locked, key, caplog):
    caplog.set_level(logging.INFO)
    headers = {} if key is None else as_bearer(key)
    answers = [
        locked.http.get("/v1/models", headers=headers),
        locked.http.post("/v1/streams", headers=headers),
        locked.http.post("/v1/realtime/translations/client_secrets", headers=headers),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert key in (None, "a") or key not in answer.text
    for how in ({"additional_headers": headers}, {"subprotocols": as_subprotocols(key or "x")}):
        with pytest.raises(InvalidStatus) as caught:
            locked.speak(**how)
        assert caught.value.response.status_code == 401
        assert key in (None, "a") or key not in caught.value.response.body.decode()
    assert key in (None, "a") or key not in caplog.text


def test_a_browser_sends_its_key_as_a_subprotocol_and_is_answered_realtime_alone(locked):
    with locked.speak(subprotocols=as_subprotocols(ANN)) as talk:
        assert talk.socket.subprotocol == "realtime"
        assert ANN not in str(talk.socket.response.headers)
    with locked.speak(additional_headers=as_bearer(ANN)) as talk:
        assert talk.socket.subprotocol is None


def test_a_session_belongs_to_its_key(locked):
    with locked.speak(additional_headers=as_bearer(ANN)) as talk:
        for how in (BOB, WRONG, talk.created["secret"]):
            with pytest.raises(InvalidStatus) as caught:
                locked.speak(f"session={talk.name}", additional_headers=as_bearer(how))
            assert caught.value.response.status_code in (401, 404)
        place = f"/v1/streams/{talk.name}/text"
        for key, status in ((BOB, 404), (WRONG, 401), (None, 401), (ANN, 202)):
            headers = {} if key is None else as_bearer(key)
            answer = locked.http.post(place, json={"text": "a"}, headers=headers)
            assert answer.status_code == status
        answer = locked.http.post(
            place, json={"text": "b"}, headers=as_bearer(talk.created["secret"])
        )
        assert answer.json() == {"source_chars": 2}


def test_a_page_may_have_a_secret_in_place_of_a_key(locked, monkeypatch):
    place = "/v1/realtime/translations/client_secrets"
    answer = locked.http.post(place, headers=as_bearer(ANN), json={"session": {"model": "tiny"}})
    secret = answer.json()["value"]
    assert secret.startswith("ek_") and answer.json()["session"]["model"] == "tiny"
    with locked.speak(subprotocols=as_subprotocols(secret)) as talk:
        assert locked.streams._streams[talk.name].owner == "ann"
    more = locked.http.post(place, headers=as_bearer(secret), json={})
    assert more.status_code == 401 and "value" not in more.json()
    monkeypatch.setattr(locked.keys, "_clock_s", lambda: answer.json()["expires_at"] + 1.0)
    with pytest.raises(InvalidStatus):
        locked.speak(subprotocols=as_subprotocols(secret))
    monkeypatch.undo()
    for wrong in ({"expires_after": {"seconds": 9}}, {"expires_after": {"seconds": "60"}}):
        answer = locked.http.post(place, headers=as_bearer(ANN), json=wrong)
        assert answer.json()["error"]["param"] == "expires_after.seconds"
    wrong = {"session": {"model": ["tiny"]}}
    assert locked.http.post(place, headers=as_bearer(ANN), json=wrong).status_code == 404


def test_keys_are_compared_in_constant_time_and_all_of_them(monkeypatch):
    compared, compare = [], hmac.compare_digest

    def counting(*pair):
        compared.append(pair)
        return compare(*pair)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    keys = Keys({ANN: "ann", BOB: "bob"})
    for key, owner in ((ANN, "ann"), (BOB, "bob"), (WRONG, None), ("", None), ("\ud800", None)):
        compared.clear()
        assert keys.owner(key) == owner
        assert len(compared) == 2
        assert all(len(each) == 32 for pair in compared for each in pair)  # hashes
    assert keys.owner(None) is None and ANN not in repr(vars(keys))


def test_secrets_expire_and_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("mlx_simul.serving.keys.MAX_SECRETS", 3)
    now_s = [100.0]
    keys = Keys({ANN: "ann"}, lambda: now_s[0])
    made = [keys.make_secret("ann", 10)[0] for _ in range(3)]
    with pytest.raises(OverflowError):
        keys.make_secret("ann", 10)
    assert keys.owner(keys.make_secret("bob", 10)[0]) == "bob"  # ann's are no concern of his
    assert [keys.owner(secret) for secret in made] == ["ann"] * 3
    now_s[0] = 110.0
    assert keys.owner(made[0]) is None
    keys.make_secret("ann", 10)
    assert len(keys._secrets) == 1


@pytest.mark.parametrize("text", ["", "ann\n", "ann short\n", f"ann {ANN} more\n", "# only\n"])
def test_a_wrong_key_file_is_refused_without_its_keys(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InvalidOptionError) as caught:
        read_keys(path)
    assert ANN not in str(caught.value)


def test_a_key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# keys\nann {ANN} # hers\n\nbob\t{BOB}\n")
    assert read_keys(path) == {ANN: "ann", BOB: "bob"}


# Other sites


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://[", "", "file://", "http://127.0.0.1:1", "//", "\x80"],
)
def test_pages_of_other_sites_may_do_nothing(server, origin):
    headers = {"Origin": origin.encode("latin-1")}
    answer = server.http.post("/v1/streams", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    if origin.isascii():
        with pytest.raises(InvalidStatus) as caught:
            server.speak(additional_headers={"Origin": origin})
        assert caught.value.response.status_code == 403


def test_our_own_page_may(server):
    with server.speak(origin=server.url) as talk:
        assert talk.name
    assert server.http.get("/v1/models", headers={"Origin": server.url}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_leads_here_is_not_ours(server, host):
    """DNS rebinding: the page of another site calls us by its own name, so that it is ours."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert server.http.post("/v1/streams", headers=headers).status_code == 400
    assert answer_to(server, f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").startswith(
        b"HTTP/1.1 400"
    )


@pytest.mark.parametrize("host", ["localhost:1", "[::1]:8765", "127.0.0.1"])
def test_these_names_are_ours(server, host):
    assert server.http.get("/v1/models", headers={"Host": host}).status_code == 200


# Headers, logs, pages

HTML = '<img src=x onerror="alert(1)">'


def test_html_comes_back_as_json_text_alone(server, caplog):
    caplog.set_level(logging.DEBUG, "mlx_simul")
    text = {"source_language": HTML, "target_language": HTML, "instruction": HTML, "context": HTML}
    body = {"session": {**text, "glossary": {HTML: HTML}}}
    answer = server.http.post("/v1/streams", json=body)
    stream = answer.json()
    assert stream["session"]["glossary"] == {HTML: HTML}
    place, headers = f"/v1/streams/{stream['id']}", as_bearer(stream["secret"])
    answers = [
        answer,
        server.http.post(f"{place}/session", json={"policy": HTML}, headers=headers),
        server.http.post("/v1/streams", json={"model": HTML}),
        server.http.get(f"/{HTML}"),
        server.http.get(place, headers={"Origin": HTML}),
        server.http.get(f"{place}/events?after={HTML}"),
        server.http.get(f"{place}/transcript.{HTML}"),
    ]
    for each in answers:
        assert each.headers["content-type"] == "application/json"
        assert each.headers["x-content-type-options"] == "nosniff"
    for sent in ({"text": HTML}, {"text": "\r\nX-Evil: 1\x1b[31m"}):
        server.http.post(f"{place}/text", json=sent, headers=headers)
    server.http.delete(place, headers=headers)
    source = "".join(m.get("source_text", "") for _, m in server.listen(stream["id"]))
    assert HTML in source
    for kind in ("txt", "srt", "vtt", "json"):
        answer = server.transcript(stream["id"], kind, side="source")
        assert "html" not in answer.headers["content-type"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert HTML not in caplog.text and "\x1b" not in caplog.text


def answer_to(server, request):
    with socket.create_connection(("127.0.0.1", server.port), 30) as client:
        answer = b""
        with contextlib.suppress(OSError):  # it may answer and hang up before it has read all
            client.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while piece := client.recv(65_536):
                answer += piece
        return answer


@pytest.mark.parametrize(
    "request_text",
    [
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 100_000 + "\r\n\r\n",
        "GET /" + "a" * 100_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n" + "X: a\r\n" * 10_000 + "\r\n",
        "POST /v1/streams HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        "Content-Length: 2\r\n\r\na",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\0\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5,
    ],
)
def test_a_request_that_is_not_one_is_refused(server, request_text):
    assert answer_to(server, request_text)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"")
    assert server.http.get("/healthz").status_code == 200


def test_a_small_frame_cannot_become_a_large_message(server):
    with server.speak(compression="deflate") as talk:
        assert "sec-websocket-extensions" not in talk.socket.response.headers


@pytest.mark.parametrize("place", ["", "no-such", "page/index.html", "v1/streams", "captions/a"])
def test_a_websocket_elsewhere_is_refused(server, place):
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{server.url.replace('http', 'ws')}/{place}")
    assert 400 <= caught.value.response.status_code < 500


# Slow clients


def cut_off(client, send):
    """Whether the server ends a connection, whatever its client goes on to send."""
    client.settimeout(0.05)
    for _ in range(400):
        try:
            send()
            if client.recv(1000) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


HEAD = b"POST /v1/streams HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent", [b"", HEAD[:7], HEAD + b"Content-Length: 9\r\n\r\n{", HEAD + b"Transfer-Encoding: "]
)
@pytest.mark.parametrize("drips", [False, True])
def test_a_client_that_sends_its_request_slowly_is_cut_off(server, monkeypatch, sent, drips):
    monkeypatch.setattr(PunctualHttp, "request_s", 0.3)
    rest = iter(b"X" * 1000)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(sent)
        assert cut_off(client, lambda: client.sendall(bytes([next(rest)]) if drips else b""))


def test_a_request_that_came_in_time_is_not_cut_off(server, monkeypatch):
    monkeypatch.setattr(PunctualHttp, "request_s", 2.0)
    with server.speak() as talk:
        place = f"/v1/streams/{talk.name}/events"
        with server.http.stream("GET", place) as response:
            lines = response.iter_lines()
            next(lines)
            waited = threading.Event()
            assert not waited.wait(2.5)
            talk.append(SENTENCES[0])
            assert talk.until("session.turn.done")
            while "session.turn.done" not in next(lines):
                pass


def test_a_client_that_takes_no_output_is_let_go(server, monkeypatch):
    monkeypatch.setattr(websocket, "CLOSE_S", 0.1)
    monkeypatch.setattr(PunctualWebSocket, "linger_s", 0.1)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", server.port))
    connections = server._uvicorn.server_state.connections
    before = set(connections)
    talk = server.speak(sock=slow, max_queue=1, close_timeout=0.1)
    (ours,) = set(connections) - before
    stream = server.streams._streams[talk.name]
    for _ in range(18):
        server.run(server.streams._tell, stream, stream.protocol.notice("test", "a" * 100_000))
    until(lambda: ours not in connections)
    until(lambda: stream.speaker is None and not stream.connections)
    talk.socket.close()


def test_a_listener_that_takes_no_output_is_let_go(server, monkeypatch):
    monkeypatch.setattr(PunctualHttp, "stuck_s", 0.2)
    with server.speak() as talk, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(
            f"GET /v1/streams/{talk.name}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        stream = server.streams._streams[talk.name]
        until(lambda: len(stream.connections) == 2)
        speaker = stream.speaker
        reader = threading.Thread(target=talk.to_the_end)
        reader.start()
        for _ in range(18):
            notice = stream.protocol.notice("test", "a" * 100_000)
            server.run(server.streams._tell, stream, notice)
            until(lambda: speaker.seq == stream.outbox.seq)  # it keeps up
        until(lambda: len(stream.connections) == 1)
        talk.send("close")
        reader.join()


# Garbage

KINDS = ("append", "commit", "tail")
N_FRAMES = int(os.environ.get("MLX_SIMUL_FUZZ_FRAMES", "2000"))
"""Of the fuzz below; run it with 100000 before a release."""


def garbage(dice):
    """A frame that a client should not send, or might."""
    values = [None, 7, -1e308, "a b. ", "\0\ud7ff", [], {}, {"a": ["b"]}, True, "é" * 50, HTML]

    def value():
        return dice.choice(values)

    match dice.randrange(6):
        case 0:
            return dice.randbytes(dice.randrange(60))
        case 1:
            return json.dumps({"type": value(), "text": value(), "event_id": value()})
        case 2:
            kind = f"session.input_text_buffer.{dice.choice(KINDS)}"
            return json.dumps({"type": kind, "text": value()})
        case 3:
            names = ("policy", "history", "glossary", "pairs", "audio", "model", "context", "x")
            session = {dice.choice(names): value() for _ in range(3)}
            return json.dumps({"type": "session.update", "session": session})
        case 4:
            whole = json.dumps({"type": "session.input_text_buffer.append", "text": "a b. "})
            at = dice.randrange(len(whole))
            return whole[:at] + chr(dice.randrange(1, 0xD7FF)) + whole[at + dice.randrange(3) :]
        case _:
            return dice.choice(["[" * 5000, "{" * 100, "", "null", '"', "\ufeff{}", "{}" * 9])


def seen(talk, mark):
    """Whether an error about a message has come."""
    last = talk.messages[-300:]
    return any(each["type"] == "error" and each["error"]["event_id"] == mark for each in last)


def test_a_fuzz_harms_no_other_session_and_not_the_server(own_server, talk_alone):
    server, dice = own_server, random.Random(15)
    with server.speak(max_queue=None) as calm, server.speak(max_queue=None) as wild:
        reader = threading.Thread(target=wild.to_the_end)
        reader.start()
        for number in range(N_FRAMES):
            wild.socket.send(garbage(dice))
            if number % 200 == 199:  # else its pings would be late, behind what waits
                mark = f"frame {number}"
                wild.send("nonsense", event_id=mark)
                until(lambda mark=mark: seen(wild, mark))
            if number % (N_FRAMES // 8) == 0:
                at = number // (N_FRAMES // 8)
                calm.append(TALK[at * 12 : at * 12 + 12])
        calm.append(TALK[96:])
        calm.send("close")
        assert target(calm.to_the_end()) == talk_alone and calm.code == 1000
        headers = as_bearer(wild.created["secret"])
        server.http.delete(f"/v1/streams/{wild.name}?now=1", headers=headers)
        reader.join()
        assert wild.code == 1000 and wild.messages[-1]["type"] == "session.closed"
    said = numbered(wild.messages)
    assert [each["seq"] for each in said] == list(range(1, len(said) + 1))
    errors = [each["error"] for each in wild.messages if each["type"] == "error"]
    assert errors and not any(each["type"] == "server_error" for each in errors)
    assert server.http.get("/healthz").status_code == 200


def test_frames_that_are_not_frames_end_their_socket_alone(server, talk_alone):
    dice = random.Random(16)
    with server.speak() as calm:
        for _ in range(20):
            with server.speak() as wild:
                wild.socket.socket.sendall(b"\xff" + dice.randbytes(200))
                with pytest.raises(ConnectionClosed):
                    while True:
                        wild.socket.recv(30)
            headers = as_bearer(wild.created["secret"])
            server.http.delete(f"/v1/streams/{wild.name}?now=1", headers=headers)
        assert target(calm.say(TALK)) == talk_alone
