"""All streams of a server, without sockets: who hears what, limits, ends, and resuming."""

import asyncio
import hmac
import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import OPTIONS, SENTENCES, TALK, WAIT_S, alone
from streams import Stumble

from mlx_simul.events import TurnEnd, Write
from mlx_simul.serving.backlog import StreamLimits
from mlx_simul.serving.commands import Drop
from mlx_simul.serving.logs import logging_to
from mlx_simul.serving.messages import ProtocolError, Settings
from mlx_simul.serving.options import RecordOptions, ServingOptions, memory_limit_bytes
from mlx_simul.serving.outbox import Outbox
from mlx_simul.serving.streams import Streams
from mlx_simul.stream.journal import read_entries

APPEND, COMMIT, CLOSE = (
    "session.input_text_buffer.append",
    "session.input_text_buffer.commit",
    "session.close",
)


@pytest.fixture(scope="module")
def running(golden_models, tokenizer):
    """An event loop, and streams of a server on it."""
    model = golden_models["qwen2-tiny-0"]
    with asyncio.Runner() as loop:
        loader = {"tiny": lambda: (model, tokenizer, OPTIONS)}
        streams = Streams(loader, ServingOptions())
        streams.worker.start()
        loop.run(streams.start())
        streams._sweeper.cancel()  # the tests sweep when it suits them
        yield loop, streams
        loop.run(streams.stop())


@pytest.fixture
def streams(running):
    """Those of a server with the default options, and without a stream."""
    _, streams = running
    options = streams.options
    yield streams
    for stream in list(streams._streams.values()):
        streams.drop(stream)
        streams._forget(stream)
    streams.options = options


@pytest.fixture
def run(running):
    """Runs a coroutine on the loop of the streams."""
    loop, _ = running
    return lambda coroutine: loop.run(asyncio.wait_for(coroutine, WAIT_S))


def limit(streams, **capacity):
    streams.options = replace(
        streams.options, capacity=replace(streams.options.capacity, **capacity)
    )


def journal_in(streams, folder):
    streams.options = replace(streams.options, records=RecordOptions(journal=str(folder)))


async def opened(streams, owner="ann", **settings):
    stream, _ = await streams.open(owner, None, Settings(**settings))
    return stream, streams.connect(stream, 0, speaks=True)


def tell(streams, stream, kind, **values):
    streams.obey(stream, stream.protocol.receive(json.dumps({"type": kind, **values})))


async def heard(connection, until=None):
    """What a connection hears: to its end, or up to a message of a kind."""
    messages = []
    while found := await connection.next():
        messages += [json.loads(data) for _, data in found]
        if until is not None and any(each["type"] == until for each in messages):
            return messages
    return messages


def target(messages):
    kind = "session.output_transcript.delta"
    return "".join(each["delta"] for each in messages if each["type"] == kind)


def text_alone(model, tokenizer, text, **options):
    said = alone(model, tokenizer, text, **options)
    return "".join(event.text for event in said if isinstance(event, Write))


async def refused(awaitable):
    with pytest.raises(ProtocolError) as caught:
        await awaitable
    return caught.value


# Speaking and hearing


def test_all_hear_what_a_speaker_makes(streams, run, model, tokenizer):
    async def scene():
        stream, speaker = await opened(streams, instruction="Say it")
        listeners = [streams.connect(stream, 0, speaks=False) for _ in range(3)]
        assert stream.protocol.session["instruction"] == "Say it"
        for sentence in SENTENCES:
            tell(streams, stream, APPEND, text=sentence)
        tell(streams, stream, CLOSE)
        return [await heard(each) for each in (speaker, *listeners)]

    first, *others = run(scene())
    assert target(first) == text_alone(model, tokenizer, TALK, instruction="Say it")
    assert [each["seq"] for each in first] == list(range(1, len(first) + 1))
    assert all(other == first for other in others)


def test_a_tail_is_shown_to_all_and_to_those_who_come_later(streams, run):
    async def scene():
        stream, speaker = await opened(streams)
        tell(streams, stream, "session.input_text_buffer.tail", text="perhaps")
        listener = streams.connect(stream, 0, speaks=False)
        for connection in (speaker, listener):
            assert await connection.next() == [
                (None, b'{"type":"session.input_transcript.tail","text":"perhaps"}')
            ]
        for text in ("perha", ""):
            tell(streams, stream, "session.input_text_buffer.tail", text=text)
        ((_, last),) = await listener.next()  # each takes the place of the one before
        assert json.loads(last)["text"] == ""
        assert stream.outbox.seq == 0

    run(scene())


def test_a_refusal_is_told_to_the_speaker_alone(streams, run):
    async def scene():
        stream, speaker = await opened(streams)
        listener = streams.connect(stream, 0, speaks=False)
        wrong = {"policy": "no-such"}
        tell(streams, stream, "session.update", session=wrong, event_id="mine")
        (error,) = await heard(speaker, "error")
        assert error["error"]["event_id"] == "mine" and "seq" not in error
        tell(streams, stream, CLOSE)
        assert [each["type"] for each in await heard(listener)] == ["session.closed"]

    run(scene())


def test_a_request_for_other_options_waits_for_its_answer(streams, run):
    async def scene():
        stream, speaker = await opened(streams)
        await streams.change(stream, Settings(policy="wait-k:1"))
        assert stream.protocol.session["policy"] == "wait-k:1"
        error = await refused(streams.change(stream, Settings(policy="no-such")))
        assert (error.code, error.param) == ("invalid_value", "session.policy")
        late = asyncio.ensure_future(streams.change(stream, Settings(policy="wait-k:2")))
        await asyncio.sleep(0)
        streams.drop(stream)  # no answer will come
        assert (await refused(late)).code == "session_closed"
        assert stream.changes == {}
        kinds = [each["type"] for each in await heard(speaker)]
        # The error of the request comes first: those that have no number wait for none.
        assert kinds[:2] == ["error", "session.updated"] and kinds[-1] == "session.closed"

    run(scene())


def test_a_lost_connection_goes_on_where_it_was(streams, run, model, tokenizer):
    async def scene():
        stream, speaker = await opened(streams)
        tell(streams, stream, APPEND, text=SENTENCES[0])
        got = await heard(speaker, "session.output_transcript.delta")
        streams.disconnect(speaker)
        tell(streams, stream, APPEND, text=SENTENCES[1])
        assert await streams.find(stream.name, "ann") is stream
        speaker = streams.connect(stream, got[-1]["seq"], speaks=True)
        tell(streams, stream, CLOSE)
        return got + await heard(speaker)

    messages = run(scene())
    assert [each["seq"] for each in messages] == list(range(1, len(messages) + 1))
    assert target(messages) == text_alone(model, tokenizer, "".join(SENTENCES[:2]))


def test_a_second_speaker_takes_the_place_of_the_first(streams, run):
    async def scene():
        stream, first = await opened(streams)
        second = streams.connect(stream, 0, speaks=True)
        assert await first.ended() == 4003 and await first.next() == []
        streams.disconnect(first)
        assert stream.speaker is second and stream.left_s is None
        streams.disconnect(second)
        assert stream.speaker is None and stream.left_s is not None

    run(scene())


@pytest.mark.parametrize("after", [-1, 1])
def test_what_was_never_said_cannot_be_known(streams, run, after):
    async def scene():
        stream, _ = await opened(streams)
        with pytest.raises(ProtocolError) as caught:
            streams.connect(stream, after, speaks=True)
        return caught.value.code

    assert run(scene()) in ("invalid_value", "too_late")


# Limits


def test_there_are_at_most_so_many_sessions(streams, run):
    limit(streams, max_sessions=3, max_sessions_per_key=2)

    async def scene():
        ann = [await opened(streams) for _ in range(2)]
        error = await refused(streams.open("ann", None, Settings()))
        assert (error.code, error.kind) == ("too_many_sessions", "rate_limit_error")
        await opened(streams, "bob")
        assert (await refused(streams.open("bob", None, Settings()))).code == "server_full"
        stream, speaker = ann[0]
        tell(streams, stream, CLOSE)
        await heard(speaker)
        await opened(streams)
        assert len(streams) == 3

    run(scene())


def test_an_unknown_model_or_option_leaves_no_stream(streams, run):
    async def scene():
        error = await refused(streams.open("ann", "no-such", Settings()))
        assert error.code == "unknown_model" and "tiny" in str(error)
        error = await refused(streams.open("ann", None, Settings(policy="no-such")))
        assert error.code == "invalid_option"
        assert len(streams) == 0 and not streams._streams

    run(scene())


def test_listeners_are_bounded_and_do_not_lock_the_speaker_out(streams, run):
    limit(streams, max_listeners=2)

    async def scene():
        stream, speaker = await opened(streams)
        streams.disconnect(speaker)
        for _ in range(2):
            streams.connect(stream, 0, speaks=False)
        with pytest.raises(ProtocolError) as caught:
            streams.connect(stream, 0, speaks=False)
        assert caught.value.code == "too_many_listeners"
        streams.connect(stream, 0, speaks=True)

    run(scene())


def test_a_client_that_leaves_while_its_session_begins_leaves_nothing(streams, run, tmp_path):
    journal_in(streams, tmp_path)

    async def scene():
        opening = asyncio.ensure_future(streams.open("ann", None, Settings()))
        await asyncio.sleep(0)
        assert len(streams) == 1
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert len(streams) == 0
        await opened(streams)  # behind it in the queue
        assert len(streams.worker._live) == 1

    run(scene())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".journal", ".messages"]


def test_what_was_taken_is_in_the_journal(streams, run, tmp_path):
    journal_in(streams, tmp_path)

    async def scene():
        stream, _ = await opened(streams)

        def held():
            return list(read_entries(tmp_path / f"{stream.name}.journal"))

        for ask, is_held in (
            (lambda: [stream.protocol.append("I like ")], lambda: held()[-1].text == "I like "),
            (lambda: [stream.protocol.commit()], lambda: held()[-1].mark == "end_turn"),
            (stream.protocol.close, lambda: "close" in [entry.mark for entry in held()]),
        ):
            taking = asyncio.ensure_future(streams.take(stream, ask()))
            await asyncio.sleep(0)
            assert not taking.done()  # the worker's answer comes by the loop, so not yet
            await taking
            assert is_held()
        await streams.take(stream, stream.protocol.close())  # nothing is asked, and waited for

    run(scene())


def test_what_is_taken_when_a_stream_is_dropped_is_answered(streams, run):
    async def scene():
        stream, _ = await opened(streams)
        taking = asyncio.ensure_future(streams.take(stream, [stream.protocol.append("I like ")]))
        await asyncio.sleep(0)
        streams.drop(stream)
        assert (await refused(taking)).code == "session_closed"

    run(scene())


def test_one_that_leaves_while_a_stream_is_resumed_does_not_hold_others_up(streams, run, tmp_path):
    journal_in(streams, tmp_path)

    async def scene():
        stream, _ = await opened(streams)
        forget(streams, stream)
        first = asyncio.ensure_future(streams.find(stream.name, "ann"))
        second = asyncio.ensure_future(streams.find(stream.name, "ann"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).name == stream.name

    run(scene())


def test_a_stream_that_cannot_be_resumed_is_not_kept(streams, run, recorded, tmp_path):
    whole, name = recorded
    path, _ = records(whole)
    (tmp_path / path.name).write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    (tmp_path / f"{name}.journal").write_text("not a journal\n")
    journal_in(streams, tmp_path)

    async def scene():
        leaving = asyncio.ensure_future(streams.find(name))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await refused(streams.find(name))).code == "journal_failed"
        assert not streams._streams
        error = await refused(streams.find(name))
        assert (error.code, error.kind) == ("journal_failed", "server_error")
        assert str(tmp_path) not in str(error)

    run(scene())


def test_what_breaks_a_session_off_is_logged_where_it_happened(streams, run, monkeypatch):
    log = io.StringIO()

    def stumble(text):
        raise Stumble(f"about {text}")

    async def scene():
        stream, speaker = await opened(streams)
        monkeypatch.setattr(streams.worker._live[stream].session, "push", stumble)
        tell(streams, stream, APPEND, text="a client's words")
        await heard(speaker)
        return stream.name

    with logging_to(log):
        name = run(scene())
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (line,) = (line for line in lines if line["event"] == "a session broke off")
    assert line["session"][:-3] in name and "in stumble" in line["traceback"]
    assert "client's" not in log.getvalue()


# What waits too long ends


def swept(streams, stream, **later):
    streams.sweep(stream, time.monotonic() + later.pop("later_s", 0))


@pytest.mark.parametrize("code", ["speaker_left", "idle", "too_long"])
def test_what_lasts_too_long_is_closed_as_its_client_would(streams, run, model, tokenizer, code):
    capacity = streams.options.capacity

    async def scene():
        stream, speaker = await opened(streams)
        listener = streams.connect(stream, 0, speaks=False)
        tell(streams, stream, APPEND, text=TALK)
        wait_s = {"idle": capacity.idle_s, "speaker_left": capacity.resume_s}.get(code, 0)
        if code == "speaker_left":
            streams.disconnect(speaker)
        elif code == "too_long":
            stream.began_s -= capacity.max_session_s - 30
            swept(streams, stream)
            stream.began_s -= 60
        else:
            swept(streams, stream, later_s=wait_s - 30)
        assert not stream.protocol.closing
        swept(streams, stream, later_s=wait_s + 30)
        assert stream.protocol.closing
        swept(streams, stream, later_s=wait_s + 30)
        return await heard(listener)

    n_before = streams.counts.refusals.get(code, 0)
    messages = run(scene())
    errors = [each["error"] for each in messages if each["type"] == "error"]
    assert [(each["code"], each["type"]) for each in errors] == [(code, "server_error")]
    assert target(messages) == text_alone(model, tokenizer, TALK)
    assert messages[-1]["type"] == "session.closed"
    assert streams.counts.refusals[code] == n_before + 1


def test_a_client_that_speaks_by_requests_has_not_left(streams, run):
    capacity = streams.options.capacity

    async def scene():
        stream, speaker = await opened(streams)
        streams.disconnect(speaker)
        tell(streams, stream, APPEND, text="It goes on by requests")
        swept(streams, stream, later_s=capacity.resume_s + 2)
        assert not stream.protocol.closing
        swept(streams, stream, later_s=capacity.idle_s + 2)
        assert stream.protocol.closing

    run(scene())


def test_a_slow_reader_is_disconnected_and_may_resume(streams, run, model, tokenizer):
    limit(streams, max_backlog_bytes=500)

    async def scene():
        stream, speaker = await opened(streams)
        slow = streams.connect(stream, 0, speaks=False)
        tell(streams, stream, APPEND, text=TALK)
        await heard(speaker, "session.turn.done")
        swept(streams, stream)
        assert await slow.ended() == 4008 and await slow.next() == []
        assert speaker.closed_with is None
        streams.disconnect(slow)
        again = streams.connect(stream, 0, speaks=False)
        tell(streams, stream, CLOSE)
        return await heard(again)

    assert target(run(scene())) == text_alone(model, tokenizer, TALK)


def test_messages_are_kept_up_to_a_limit(streams, run):
    limit(streams, keep_bytes=600, max_backlog_bytes=500)

    async def scene():
        stream, _ = await opened(streams)
        tell(streams, stream, APPEND, text=TALK)
        tell(streams, stream, CLOSE)
        await stream_closed(stream)
        with pytest.raises(ProtocolError) as caught:
            streams.connect(stream, 0, speaks=False)
        assert caught.value.code == "too_late"
        turns = list(stream.outbox.turns())
        assert [end.turn for end in turns] == list(range(len(turns)))
        assert " ".join(end.source_text for end in turns) == TALK.strip()
        seq = stream.outbox.seq
        assert len(await streams.connect(stream, seq - 1, speaks=False).next()) == 1

    run(scene())


async def stream_closed(stream):
    while stream.closed_s is None:
        await asyncio.sleep(0.005)


def test_a_stream_that_has_ended_is_kept_for_a_while(streams, run):
    resume_s = streams.options.capacity.resume_s

    async def scene():
        stream, speaker = await opened(streams)
        tell(streams, stream, CLOSE)
        await heard(speaker)
        swept(streams, stream, later_s=2 * resume_s)
        assert await streams.find(stream.name) is stream  # somebody listens
        streams.disconnect(speaker)
        swept(streams, stream, later_s=resume_s - 2)
        assert await streams.find(stream.name) is stream
        swept(streams, stream, later_s=resume_s + 2)
        assert (await refused(streams.find(stream.name))).code == "unknown_session"

    run(scene())


def test_those_that_have_ended_do_not_pile_up(streams, run):
    limit(streams, max_sessions=3)

    async def scene():
        for _ in range(9):
            stream, speaker = await opened(streams)
            tell(streams, stream, CLOSE)
            await heard(speaker)
            streams.disconnect(speaker)
        assert len(streams._streams) == 4 and stream.name in streams._streams

    run(scene())


# Records


def forget(streams, stream):
    """What a kill does: nothing is said any more, and the records stay as they are."""
    live = streams.worker._live.get(stream)
    streams._forget(stream)
    if live is not None:
        live.session._journal.close()
        streams.worker.send(stream, Drop())


def records(folder):
    (path,) = folder.glob("*.messages")
    return path, path.with_suffix(".journal")


def plain(path):
    """The messages of a file, without their times."""
    header, *lines = path.read_bytes().splitlines()
    assert json.loads(header)["messages"] == 1
    messages = [json.loads(line) for line in lines]
    for message in messages:
        for name in ("elapsed_ms", "began_ms", "word_times_ms", "time_ms"):
            message.pop(name, None)
        if message.get("usage"):
            message["usage"] = {
                name: message["usage"][name] for name in ("source_words", "target_words", "turns")
            }
    return messages


@pytest.fixture(scope="module")
def recorded(running, tmp_path_factory):
    """The records of a stream that nothing disturbed."""
    loop, streams = running
    folder = tmp_path_factory.mktemp("records")
    options = streams.options
    journal_in(streams, folder)

    async def scene():
        stream, speaker = await opened(streams, history=1)
        for at in range(0, len(TALK), 9):
            tell(streams, stream, APPEND, text=TALK[at : at + 9])
            if at == 45:
                tell(streams, stream, COMMIT)
                await heard(speaker, "session.input_text_buffer.committed")
        tell(streams, stream, COMMIT)
        tell(streams, stream, CLOSE)
        await stream_closed(stream)
        streams.disconnect(speaker)
        streams._forget(stream)
        return stream.name

    name = loop.run(asyncio.wait_for(scene(), WAIT_S))
    streams.options = options
    return folder, name


def test_a_stream_of_many_words_takes_more_after_a_kill(streams, run, tmp_path):
    journal_in(streams, tmp_path)
    n_words = len(TALK.split())

    async def scene():
        stream, speaker = await opened(streams)
        tell(streams, stream, APPEND, text=TALK)
        tell(streams, stream, COMMIT)
        await heard(speaker, "session.input_text_buffer.committed")
        forget(streams, stream)
        again = await streams.find(stream.name, "ann")
        # No word is whole yet, so none is read, and nothing but these counts tells what waits.
        tell(streams, again, APPEND, text="Hel")
        await streams.change(again, Settings())
        assert (again.protocol.backlog.words_taken, again.protocol.backlog.words_behind) == (
            n_words,
            0,
        )

    run(scene())


@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_server_that_was_killed_says_what_it_would_have_said(
    streams, run, recorded, tmp_path_factory, data
):
    """The messages cut at any byte; the journal is ahead of them, since it is written first."""
    whole, name = recorded
    folder = tmp_path_factory.mktemp("killed")
    for path in records(whole):
        shutil.copy(path, folder)
    path, _ = records(folder)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    path.write_bytes(content[: data.draw(st.integers(first, len(content)))])
    held = [
        line for line in path.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"\n")
    ]
    journal_in(streams, folder)

    async def scene():
        stream = await streams.find(name, "ann")
        assert stream.protocol.source_chars in (len(TALK), 0)
        assert stream.outbox.seq >= len(held)
        listener = streams.connect(stream, len(held), speaks=False)
        messages = await heard(listener)
        streams.disconnect(listener)
        streams._forget(stream)
        return messages

    messages = run(scene())
    assert plain(path) == plain(records(whole)[0])
    assert [each["seq"] for each in messages] == [*range(len(held) + 1, len(plain(path)) + 1)]
    assert list(path.read_bytes().splitlines(keepends=True)[1 : len(held) + 1]) == held


def test_turns_that_were_not_told_are_told(streams, run, recorded, tmp_path):
    """Negative control of the law above: without forgetting them it would not hold."""
    whole, name = recorded
    for path in records(whole):
        shutil.copy(path, tmp_path)
    path, journal = records(tmp_path)
    n_turns = sum(entry.turn is not None for entry in read_entries(journal))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    journal_in(streams, tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("mlx_simul.serving.worker.forget_turns", lambda path, first: None)

        async def scene():
            stream = await streams.find(name, "ann")
            await stream_closed(stream)
            streams._forget(stream)

        run(scene())
    assert n_turns > 1 and plain(path) != plain(records(whole)[0])


def test_a_stream_goes_on_after_a_kill(streams, run, tmp_path, model, tokenizer):
    journal_in(streams, tmp_path)

    async def scene():
        stream, secret = await streams.open("ann", None, Settings())
        speaker = streams.connect(stream, 0, speaks=True)
        tell(streams, stream, APPEND, text=SENTENCES[0] + "I wo")
        before = await heard(speaker, "session.turn.done")
        forget(streams, stream)
        assert (await refused(streams.find(stream.name, "bob"))).code == "unknown_session"
        again = await streams.find(stream.name, "ann")
        assert again is not stream and again.knows(secret) and not again.knows(secret + "a")
        assert again.protocol.source_chars == len(SENTENCES[0]) + 4
        late = TurnEnd(9, "late", "late", (0, 1), (0, 1), (), (), "sentence", "end_of_turn")
        streams._take([(stream, late)])  # what the first life had under way reaches nobody
        speaker = streams.connect(again, before[-1]["seq"], speaks=True)
        tell(streams, again, APPEND, text=SENTENCES[1][4:])
        tell(streams, again, CLOSE)
        return before + await heard(speaker)

    messages = run(scene())
    assert [each["seq"] for each in messages] == list(range(1, len(messages) + 1))
    assert target(messages) == text_alone(model, tokenizer, "".join(SENTENCES[:2]))
    assert "late" not in json.dumps(messages)


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"{}\n", b'{"owner": "ann"}\n'])
def test_damaged_records_are_refused(streams, run, tmp_path, content, caplog):
    journal_in(streams, tmp_path)
    name = "sess_" + "a" * 22
    (tmp_path / f"{name}.messages").write_bytes(content)
    assert run(refused(streams.find(name, "ann"))).code == "journal_failed"


def test_a_damaged_message_is_refused(streams, run, recorded, tmp_path):
    whole, name = recorded
    for path in records(whole):
        shutil.copy(path, tmp_path)
    path, _ = records(tmp_path)
    path.write_bytes(path.read_bytes() + b"{\n")
    journal_in(streams, tmp_path)
    assert run(refused(streams.find(name, "ann"))).code == "journal_failed"


class FullDisk:
    """A file that takes half of what it is given."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        return self._file.write(data[: len(data) // 2])

    def close(self):
        self._file.close()


def test_a_full_disk_ends_the_stream_and_no_other(streams, run, tmp_path, model, tokenizer):
    journal_in(streams, tmp_path)

    async def scene():
        stream, speaker = await opened(streams)
        other, listener = await opened(streams, "bob")
        stream.outbox._file = FullDisk(stream.outbox._file)
        for each in (stream, other):
            tell(streams, each, APPEND, text=TALK)
        tell(streams, other, CLOSE)
        assert await speaker.ended() == 1011 and await speaker.next() == []
        got = await heard(listener)
        again = await streams.find(stream.name, "ann")  # there is room again
        tell(streams, again, CLOSE)
        return got, await heard(streams.connect(again, 0, speaks=True))

    wanted = text_alone(model, tokenizer, TALK)
    assert [target(each) for each in run(scene())] == [wanted, wanted]


def test_a_full_disk_does_not_end_the_sweeping(streams, run, tmp_path):
    journal_in(streams, tmp_path)

    async def scene():
        stream, speaker = await opened(streams)
        stream.outbox._file = FullDisk(stream.outbox._file)
        swept(streams, stream, later_s=2 * streams.options.capacity.idle_s)
        assert await speaker.ended() == 1011 and len(streams) == 0

    run(scene())


# Names and secrets


@pytest.mark.parametrize(
    "name",
    ["../evil", "evil", "", "sess_", "sess_../../../../../../evil", "sess_" + "a" * 21 + "/",
     "sess_" + "é" * 22, "sess_\0" + "a" * 21, "sess_" + "a" * 100_000, "/etc/passwd",
     "sess_" + "." * 22],
)  # fmt: skip
def test_a_name_that_is_not_one_never_reaches_the_disk(streams, run, tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "evil.messages").write_text("{}\n")
    journal_in(streams, tmp_path / "folder")
    touched = []
    monkeypatch.setattr(Path, "exists", lambda path: touched.append(path))
    monkeypatch.setattr(Path, "open", lambda path, *rest: touched.append(path))
    assert run(refused(streams.find(name, "ann"))).code == "unknown_session"
    assert touched == []


def test_a_secret_is_compared_in_constant_time(streams, run, monkeypatch):
    compared, compare = [], hmac.compare_digest

    def counting(*pair):
        compared.append(pair)
        return compare(*pair)

    async def scene():
        stream, secret = await streams.open("ann", None, Settings())
        monkeypatch.setattr(hmac, "compare_digest", counting)
        assert [stream.knows(each) for each in (secret, "x", "", None, "\ud800")] == [
            True, False, False, False, False,
        ]  # fmt: skip
        assert all(secret not in pair for pair in compared) and len(compared) == 5

    run(scene())


def test_an_outbox_gives_what_stands_behind_a_message():
    box = Outbox(10**6)
    assert list(box.after(0)) == [] and box.bytes_after(0) == 0
    messages = [{"type": "a", "seq": seq} for seq in range(1, 5)]
    box.add(messages[:3])
    box.add(messages[3:])
    assert [seq for seq, _ in box.after(2)] == [3, 4]
    assert box.bytes_after(2) == sum(len(msgspec.json.encode(each)) for each in messages[2:])
    assert box.bytes_after(4) == 0


def test_limits_of_a_stream_come_from_the_options(streams):
    capacity = streams.options.capacity
    assert streams._limits == StreamLimits(
        capacity.max_waiting_chars, capacity.max_words_per_s, capacity.max_prompt_chars
    )
    assert memory_limit_bytes(capacity) > 2**20
    assert memory_limit_bytes(replace(capacity, memory_mb=5)) == 5 * 2**20
    assert streams.worker._memory_limit_bytes == memory_limit_bytes(capacity)
