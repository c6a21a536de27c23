"""How other servers of live sessions fell, each as a test by its name (PROTOCOL)."""

import gc
import threading
import time

import mlx.core as mx
import pytest
from live_server import numbered, target, until
from served import SENTENCES, TALK, alone, limit_memory

from mlx_simul import SimulSession
from mlx_simul.events import Write
from mlx_simul.serving import http
from mlx_simul.serving.stream import Stream
from mlx_simul.serving.worker import Worker


def texts_together(server, n=6):
    """What speakers of different texts hear, all at once."""
    talks = [server.speak() for _ in range(n)]
    for at in range(4):
        for i, talk in enumerate(talks):
            talk.append(SENTENCES[(at + i) % 4])
    for talk in talks:
        talk.send("close")
    texts = [target(talk.to_the_end()) for talk in talks]
    for talk in talks:
        talk.socket.close()
    return texts


@pytest.fixture(scope="module")
def texts_alone(golden_models, tokenizer):
    def text(i):
        source = "".join(SENTENCES[(at + i) % 4] for at in range(4))
        said = alone(golden_models["qwen2-tiny-0"], tokenizer, source)
        return "".join(event.text for event in said if isinstance(event, Write))

    return [text(i % 4) for i in range(6)]


def test_one_slots_output_reached_another_session(server, texts_alone):
    assert texts_together(server) == texts_alone


def test_output_that_reaches_another_session_is_noticed(server, texts_alone, monkeypatch):
    """Negative control of the test above."""
    say = Worker._say

    def mixed_up(self, session, event):
        if isinstance(event, Write):
            session = next(iter(self._of))
        say(self, session, event)

    monkeypatch.setattr(Worker, "_say", mixed_up)
    assert texts_together(server) != texts_alone


def test_a_freed_slots_late_output_reached_its_next_owner(server, talk_alone):
    for _ in range(3):
        with server.speak() as first:
            first.append(TALK)
            first.until("session.output_transcript.delta")
            headers = {"Authorization": f"Bearer {first.created['secret']}"}
            server.http.delete(f"/v1/streams/{first.name}?now=1", headers=headers)
            with server.speak() as second:  # it gets the row that has just been freed
                assert target(second.say(TALK)) == talk_alone
            assert first.to_the_end()[-1]["type"] == "session.closed"
            n_said = len(numbered(first.messages))
        assert server.streams._streams[first.name].outbox.seq == n_said


def test_admission_without_bounds_deadlocked_on_memory(own_server, monkeypatch, talk_alone):
    server = own_server
    worker = server.streams.worker
    until(lambda: not worker._live and worker.busy_since_s is None)
    limit_memory(worker, monkeypatch, 400_000)
    admitted, codes = [], []
    for _ in range(40):
        answer = server.http.post("/v1/streams")
        if answer.status_code == 201:
            stream = answer.json()
            admitted.append(stream)
            place, headers = f"/v1/streams/{stream['id']}", bearer(stream)
            server.http.post(f"{place}/text", json={"text": TALK}, headers=headers)
            live = server.streams._streams[stream["id"]]
            until(lambda live=live: live.outbox.seq)
        else:
            codes.append((answer.status_code, answer.json()["error"]["code"]))
    assert admitted and set(codes) == {(503, "server_full")}
    for stream in admitted:
        server.http.delete(f"/v1/streams/{stream['id']}", headers=bearer(stream))
    for stream in admitted:
        assert target(message for _, message in server.listen(stream["id"])) == talk_alone
    until(lambda: not worker._live)
    with server.speak() as talk:  # there is room again
        assert target(talk.say(TALK)) == talk_alone


def bearer(stream):
    return {"Authorization": f"Bearer {stream['secret']}"}


def test_the_output_of_a_client_that_left_was_computed_for_ever(server):
    worker, resume_s = server.streams.worker, server.streams.options.capacity.resume_s
    with server.speak() as talk:
        talk.append(TALK + "And so")
        talk.until("session.output_transcript.delta")
        talk.lose()
    stream = server.streams._streams[talk.name]
    until(lambda: stream.left_s is not None)
    server.run(server.streams.sweep, stream, stream.left_s + resume_s - 1)
    assert stream in worker._live
    server.run(server.streams.sweep, stream, time.monotonic() + resume_s + 1)
    until(lambda: stream.closed_s is not None)
    assert stream not in worker._live
    until(lambda: worker.busy_since_s is None)
    # What had arrived was translated, and a listener knows why it ended.
    errors = [m["error"]["code"] for _, m in server.listen(talk.name) if m["type"] == "error"]
    assert errors == ["speaker_left"]
    until(lambda: not stream.connections)  # a stream is kept while somebody hears it
    server.run(server.streams.sweep, stream, time.monotonic() + 2 * resume_s)
    assert server.http.get(f"/v1/streams/{talk.name}").status_code == 404


def test_liveness_stayed_green_while_passes_hung(server, model, monkeypatch):
    gate, call = threading.Event(), type(model).__call__
    hangs = threading.Event()

    def hanging(*args, **kwargs):
        hangs.set()
        assert gate.wait(60)
        return call(*args, **kwargs)

    monkeypatch.setattr(http, "STALLED_S", 1e-6)
    until(lambda: server.http.get("/healthz").status_code == 200)
    monkeypatch.setattr(type(model), "__call__", hanging)
    with server.speak() as talk:
        talk.append(TALK)
        assert hangs.wait(60)
        until(lambda: server.http.get("/healthz").status_code == 503)
        first = server.http.get("/healthz").json()
        second = server.http.get("/healthz").json()
        assert first["status"] == second["status"] == "stalled"
        assert second["seconds_since_progress"] >= first["seconds_since_progress"]
        gate.set()
        talk.send("close")
        assert talk.to_the_end()[-1]["type"] == "session.closed"
    until(lambda: server.http.get("/healthz").status_code == 200)


def test_memory_grew_with_each_session(own_server):
    server = own_server

    def run(n):
        for _ in range(n):
            with server.speak() as talk:
                talk.say(SENTENCES[0])
        until(lambda: server.streams.n_connections == 0)

    def held():
        gc.collect()
        kinds = (Stream, SimulSession)
        counts = [sum(isinstance(each, kind) for each in gc.get_objects()) for kind in kinds]
        return [*counts, mx.get_active_memory() // 100_000]

    with server.limited(max_sessions=4):
        run(9)
        before = held()
        run(16)
        # The last stream may still be on its way out; what leaks never goes.
        until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))


def test_first_words_after_silence_were_lost(server, talk_alone):
    with server.speak() as talk:
        for sentence in SENTENCES:
            talk.append(sentence)
            talk.send("input_text_buffer.commit")
            talk.until("session.input_text_buffer.committed")
            until(lambda: server.streams.worker.busy_since_s is None)  # silence
        talk.send("close")
        talk.to_the_end()
    source = "".join(m["delta"] for m in talk.messages if "input_transcript" in m["type"])
    assert source.split() == TALK.split()
    assert target(talk.messages).split() == talk_alone.split()


def test_delay_piled_up_over_hours(server):
    """Each sentence of a long stream costs as many passes as the first ones, and none waits."""
    passes, figures = [], server.streams.worker.figures
    until(lambda: server.streams.worker.busy_since_s is None)
    with server.speak() as talk:
        stream = server.streams._streams[talk.name]
        for _ in range(40):
            before = figures.steps
            talk.append(SENTENCES[1])
            talk.send("input_text_buffer.commit")
            talk.until("session.input_text_buffer.committed")
            passes.append(figures.steps - before)
            assert stream.protocol.backlog.words_behind == 0
        session = server.streams.worker._live[stream].session
        assert len(session._turns._waiting) == len(session._turns._finished_pairs) == 0
        talk.send("close")
        talk.to_the_end()
    assert max(passes[2:]) <= max(passes[:2])
    delays, n_words = [[]], len(SENTENCES[1].split())
    for message in talk.messages:
        if message["type"] == "session.turn.done":
            delays[-1] += [at - n_words * (len(delays) - 1) for at in message["delays"]]
        elif "commits" in message:
            delays.append([])
    assert delays == [delays[0]] * 40 + [[]]


def test_a_two_hour_call_stopped_silently(server, talk_alone):
    with server.speak() as talk:
        stream = server.streams._streams[talk.name]
        talk.append(SENTENCES[0])
        stream.began_s -= 2 * 3600
        server.run(server.streams.sweep, stream, time.monotonic())
        talk.append("".join(SENTENCES[1:]))  # two hours are nothing
        talk.until("session.turn.done", 3)
        stream.began_s -= server.streams.options.capacity.max_session_s
        server.run(server.streams.sweep, stream, time.monotonic())
        talk.to_the_end()
        assert talk.code == 1000
    (error,) = [m["error"] for m in talk.messages if m["type"] == "error"]
    assert error["code"] == "too_long" and "43200 seconds" in error["message"]
    assert talk.messages[-1]["type"] == "session.closed"
    assert target(talk.messages) == talk_alone
