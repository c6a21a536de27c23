"""The server for SimulEval's client: the protocol, its bounds, and the command as a process.

Where no model matters, the session is an echo. The real client is in tests/field.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from streams import words_of
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul import Finished, SimulError, Write
from mlx_simul.console import cli, serve_simuleval
from mlx_simul.console.serve_simuleval import MAX_BODY_BYTES, MAX_SOURCE_CHARS, Server, Service
from mlx_simul.loop.remarks import remark
from mlx_simul.serving.interpreter import Interpreter

LIMIT_S = 60
TEXT = "Good morning, how are you today?"


class Echo:
    """A session that writes each word it hears in capitals, one word late."""

    def __init__(self):
        self._heard = []

    def feed(self, text):
        before, self._heard = self._heard, text.upper().split()
        if "FAIL" in self._heard:
            raise SimulError("it failed.")
        if "BUG" in self._heard:
            raise ZeroDivisionError("a mistake")
        return [Write(0, f" {word}", True, 0, 0) for word in before]

    def finish(self):
        return [*self.feed(""), Finished("end_of_turn", (), "", (), 0)]


def service():
    return Service(Interpreter(Echo))


def text(content, finished=False):
    """A segment as SimulEval's client sends it."""
    segment = {"index": 0, "content": content, "finished": finished, "is_empty": False}
    return segment | {"data_type": "text", "tgt_lang": None, "config": {}}


EMPTY = {"index": 0, "content": [], "finished": True, "is_empty": True, "data_type": None}


@contextmanager
def running():
    """A server in a thread of its own, and a function that asks it."""
    with Server("127.0.0.1", 0) as server:
        server.service = service()
        address = server.server_address
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield partial(ask, address)
        finally:
            server.shutdown()
            thread.join(LIMIT_S)


def ask(address, method, path, body=None, headers=(), raw=False):
    """One request; its status and answer."""
    connection = http.client.HTTPConnection(*address, timeout=LIMIT_S)
    try:
        data = body if body is None or raw else json.dumps(body)
        connection.request(method, path, data, dict(headers))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def evaluate(ask, source, reset=True):
    """What a client gets for a source: each word, and how many it had sent."""
    if reset:
        assert ask("POST", "/reset") == (200, {})
    sent, words, finished = source.split(), [], False
    n = 0
    while not finished:
        segment = text(sent[n], n == len(sent) - 1) if n < len(sent) else EMPTY
        n = min(n + 1, len(sent))
        assert ask("PUT", "/input", segment) == (200, {})
        status, answer = ask("GET", "/output")
        assert status == 200
        assert set(answer) == {"index", "content", "finished", "is_empty", "data_type"}
        finished = answer["finished"]
        words += [(word, n) for word in (answer["content"] or "").split()]
    return words


def test_a_source_goes_in_word_by_word_and_comes_out_so():
    with running() as ask:
        expected = [("A", 2), ("B", 3), ("C", 3)]
        assert evaluate(ask, "a b c") == expected
        assert evaluate(ask, "") == []
        assert evaluate(ask, "a b c") == expected


def test_a_source_that_was_not_reset_does_not_come_out_so():
    with running() as ask:
        ask("PUT", "/input", text("left"))
        ask("PUT", "/input", text("over"))
        assert evaluate(ask, "a b c", reset=False) != [("A", 2), ("B", 3), ("C", 3)]


def test_nothing_to_say_is_an_empty_segment():
    with running() as ask:
        ask("PUT", "/input", text("a"))
        empty = {**EMPTY, "finished": False}
        assert ask("GET", "/output") == (200, empty)
        assert ask("GET", "/output") == (200, empty)


def test_after_the_end_it_says_so_until_it_is_reset():
    with running() as ask:
        evaluate(ask, "a")
        ask("PUT", "/input", text("more"))
        assert ask("GET", "/output")[1]["finished"]
        assert evaluate(ask, "a") == [("A", 1)]


REFUSED = [
    ("GET", "/nowhere", None, 404),
    ("GET", "/../../etc/passwd", None, 404),
    ("PUT", "/output", None, 405),
    ("GET", "/input", None, 405),
    ("DELETE", "/reset", None, 405),
    ("PUT", "/input", b"", 400),
    ("PUT", "/input", b"{", 400),
    ("PUT", "/input", b"\xff\xfe", 400),
    ("PUT", "/input", b"[" * 60_000, 400),
    ("PUT", "/input", b"1" * 60_000, 400),
    ("PUT", "/input", b'"text"', 400),
    ("PUT", "/input", json.dumps({"data_type": "speech", "content": [0.1]}), 400),
    ("PUT", "/input", json.dumps({"data_type": "text"}), 400),
    ("PUT", "/input", json.dumps(text(["a"])), 400),
    ("PUT", "/input", json.dumps(text("a", finished="no")), 400),
    ("PUT", "/input", b" " * (MAX_BODY_BYTES + 1), 413),
]


def test_what_is_refused_is_named_and_changes_nothing(capfd):
    with running() as ask:
        ask("PUT", "/input", text("a"))
        for method, path, body, status in REFUSED:
            got, answer = ask(method, path, body, raw=True)
            assert (got, list(answer)) == (status, ["error"]), (method, path, body)
            # SimulEval's client shows no answer, so whoever runs the server has to see it.
            assert answer["error"] in capfd.readouterr().err
        ask("PUT", "/input", text("b", finished=True))
        assert ask("GET", "/output")[1]["content"] == "A B"


@pytest.mark.parametrize("length", ["-1", "+1", "1_0", "²", "9" * 30, "one"])
def test_a_length_that_is_no_number_is_refused(length):
    with running() as ask:
        headers = {"Content-Length": length.encode("latin-1")}
        assert ask("PUT", "/input", b"", headers, raw=True)[0] == 400


def test_chunks_are_refused():
    with running() as ask:
        status, _ = ask("PUT", "/input", None, {"Transfer-Encoding": "chunked"})
        assert status == 411


def test_a_source_without_end_is_refused_until_it_is_reset():
    with running() as ask:
        word = "a" * 2_000
        statuses = [ask("PUT", "/input", text(word))[0] for _ in range(11)]
        assert MAX_SOURCE_CHARS == 20_000
        assert statuses == [200] * 9 + [413] * 2
        assert evaluate(ask, "a") == [("A", 1)]


def test_an_error_is_told_and_the_next_source_is_served():
    with running() as ask:
        ask("PUT", "/input", text("fail"))
        assert ask("GET", "/output") == (500, {"error": "it failed."})
        assert evaluate(ask, "a b") == [("A", 2), ("B", 2)]


def test_a_mistake_of_ours_is_told_and_the_next_source_is_served(capfd):
    with running() as ask:
        ask("PUT", "/input", text("bug"))
        error = "an unexpected ZeroDivisionError: a mistake"
        assert ask("GET", "/output") == (500, {"error": error})
        assert evaluate(ask, "a b") == [("A", 2), ("B", 2)]
    assert "Traceback" in capfd.readouterr().err


def test_an_end_is_not_taken_back():
    with running() as ask:
        ask("PUT", "/input", text("a", finished=True))
        ask("PUT", "/input", {**EMPTY, "finished": False})
        answer = ask("GET", "/output")[1]
        assert (answer["content"], answer["finished"]) == ("A", True)


@pytest.mark.parametrize("line", [b"OPTIONS / HTTP/1.0", b"nonsense", b"GET / HTTP/x", b"PUT /"])
def test_what_is_no_request_of_the_protocol_is_refused_in_json(line):
    with running() as ask, socket.create_connection(ask.args[0], LIMIT_S) as connection:
        connection.sendall(line + b"\r\n\r\n")
        answer = connection.makefile("rb").read()
        assert list(json.loads(answer.rpartition(b"\r\n")[2])) == ["error"]


def test_a_head_has_no_body():
    with running() as ask, socket.create_connection(ask.args[0], LIMIT_S) as connection:
        connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").read().endswith(b"\r\n\r\n")


def test_a_client_that_leaves_or_keeps_silent_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(serve_simuleval._Handler, "timeout", 1.0)
    head = b"PUT /input HTTP/1.0\r\nContent-Length: 100\r\n\r\n"
    with running() as ask:
        (address,) = ask.args
        silent = [socket.create_connection(address) for _ in range(3)]
        silent[1].sendall(head)
        silent[2].sendall(head + b"{")
        gone = socket.create_connection(address)
        gone.sendall(head + b"{")
        gone.close()
        assert evaluate(ask, "a b") == [("A", 2), ("B", 2)]
        for connection in silent:
            connection.close()


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["data_type", "content", "finished", "x"]), inner | st.just("text")
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_breaks_the_service(body):
    served = service()
    try:
        assert served.answer("PUT", "/input", body) == {}
    except serve_simuleval.Refusal as refusal:
        assert refusal.status == 400
    json.dumps(served.answer("GET", "/output", b""))
    served.answer("POST", "/reset", b"")
    served.answer("PUT", "/input", json.dumps(text("a", finished=True)).encode())
    assert served.answer("GET", "/output", b"")["content"] == "A"


# ---- The command, as a process of its own ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("serve") / "model")


OPTIONS = ["--from", "English", "--to", "French", "--wait-k", "2", "--max-tokens-per-word", "3"]


@pytest.fixture(scope="module")
def process(folder):
    command = [sys.executable, "-m", "mlx_simul", "serve-simuleval", "--model", str(folder)]
    process = subprocess.Popen(
        [*command, *OPTIONS, "--port", "0"],
        env={**os.environ, "MKL_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_the_command_serves_a_model_until_it_is_told_to_end(process, folder):
    said = process.stdout.readline()
    assert said.startswith("listening on http://127.0.0.1:"), process.stderr.read()
    address = "127.0.0.1", int(said.rpartition(":")[2])
    words = evaluate(partial(ask, address), TEXT)
    model, tokenizer = mlx_simul.load(folder)
    options = {"source_language": "English", "target_language": "French"}
    options |= {"policy": mlx_simul.WaitK(2), "max_tokens_per_word": 3}
    events = list(mlx_simul.stream_generate(model, tokenizer, TEXT, **options))
    assert words == words_of(events)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    # Random weights end nothing by themselves.
    said = [f"mlx-simul: warning: {said}\n" for said in map(remark, events) if said]
    assert process.stderr.read() == said[-1]
    with pytest.raises(ConnectionRefusedError):
        ask(address, "GET", "/")


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = cli.main(["serve-simuleval", "--model", "/no/model", "--port", str(port)])
    assert code == cli.EXIT_USAGE
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in (
        capsys.readouterr().err
    )


def test_a_model_that_is_not_there_is_one_message(capsys, tmp_path):
    code = cli.main(["serve-simuleval", "--model", str(tmp_path / "none"), "--port", "0"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (cli.EXIT_FAILED, "")
    assert "none" in captured.err


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_refused(capsys, port):
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve-simuleval", "--model", "any", "--port", port])
    assert ended.value.code == cli.EXIT_USAGE
    capsys.readouterr()
