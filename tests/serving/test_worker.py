"""The thread that owns MLX: each stream writes what it would alone, whatever happens to others."""

import random
import threading

import mlx.core as mx
import pytest
from served import OPTIONS, SENTENCES, TALK, Gate, Heard, Stumbling, alone, limit_memory
from streams import Stumble

from mlx_simul import SimulSession
from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Finished, Read, TurnEnd, Write
from mlx_simul.serving.commands import (
    Change,
    Changed,
    Close,
    Drop,
    EndTurn,
    Failed,
    Open,
    Opened,
    Push,
    Refused,
    Taken,
    TurnEnded,
)
from mlx_simul.serving.worker import Worker

EVENTS = Read | Write | TurnEnd | Finished


@pytest.fixture(scope="module")
def served(golden_models, tokenizer):
    heard = Heard(golden_models["qwen2-tiny-0"], tokenizer)
    yield heard
    heard.worker.stop()


@pytest.fixture
def name(request):
    """Names of streams of this test."""
    numbers = iter(range(1000))
    return lambda: (request.node.name, next(numbers))


def begin(**options):
    return Open("tiny", options)


def events(answers):
    return [answer for answer in answers if isinstance(answer, EVENTS)]


def whole(served, stream):
    """All events of a stream that has ended."""
    return events(served.until(stream, Finished))


def test_a_stream_writes_what_it_would_alone(served, name, model, tokenizer):
    stream = name()
    served.send(stream, begin(), *map(Push, SENTENCES), Close())
    assert whole(served, stream) == alone(model, tokenizer, TALK)
    answers = served.by_stream[stream]
    assert isinstance(answers[0], Opened)
    assert [a.source_words for a in answers if isinstance(a, Taken)][-1] == len(TALK.split())
    assert sum(isinstance(a, Taken) for a in answers) == len(SENTENCES) + 1


def test_what_clients_see_of_a_session(served, name):
    stream = name()
    served.send(stream, begin(instruction="Translate", target_language="French"))
    session = served.until(stream, Opened)[0].session
    assert (session["model"], session["policy"], session["history"]) == ("tiny", "wait-k:2", 0)
    assert session["audio"] == {"input": {}, "output": {"language": "fr"}}
    assert session["fixed"] == [] and session["instruction"] == "Translate"
    served.send(stream, Drop())


# Commits


def test_a_commit_is_answered_once_all_before_it_is_out(served, name):
    stream = name()
    served.send(stream, begin(), EndTurn(1), Push("Good morn"), EndTurn(2), EndTurn(3))
    served.send(stream, Push("to Paris. I would"), EndTurn(4), Close())
    whole(served, stream)
    words, done, numbers, answered_at = 0, 0, [], []
    for answer in served.by_stream[stream]:
        if isinstance(answer, TurnEnd):
            done = answer.source_span_words[1]
        elif isinstance(answer, TurnEnded):
            numbers.append(answer.number)
            answered_at.append((words, done))
        elif isinstance(answer, Read) and answer.source:
            words = answer.source_words_read
    assert numbers == [1, 2, 3, 4]
    assert answered_at == [(0, 0), (2, 2), (2, 2), (6, 6)]


# Changes


def test_options_that_change_hold_from_the_next_turn_on(served, name, model, tokenizer):
    stream, change = name(), {"instruction": "Say it", "policy": "wait-k:1"}
    served.send(stream, begin(), Push(SENTENCES[0]), EndTurn(1))
    served.until(stream, TurnEnded)
    served.send(stream, Change(change, "e"), Push(SENTENCES[1]), Close())
    got = whole(served, stream)
    session = SimulSession(model, tokenizer, OPTIONS)
    wanted = session.feed(SENTENCES[0])
    session.end_turn()
    wanted += session.events()
    session.update(**change)
    assert got == [*wanted, *session.feed(SENTENCES[1]), *session.finish()]
    (changed,) = [each for each in served.by_stream[stream] if isinstance(each, Changed)]
    assert changed.event_id == "e"
    assert (changed.session["instruction"], changed.session["policy"]) == ("Say it", "wait-k:1")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"policy": "no-such"}, "session.policy"),
        ({"policy": "wait-k:0"}, "session.policy"),
        ({"instruction": "Say it", "history": -1}, "session.history"),
    ],
)
def test_a_change_that_cannot_be_leaves_all_as_it_was(
    served, name, model, tokenizer, options, param
):
    stream = name()
    served.send(stream, begin(), Change(options, "e"), Push(TALK), Close())
    assert whole(served, stream) == alone(model, tokenizer, TALK)
    (refused,) = [each for each in served.by_stream[stream] if isinstance(each, Refused)]
    assert (refused.param, refused.event_id) == (param, "e")


def test_changes_that_nothing_follows_do_not_pile_up(served, name, model, tokenizer):
    stream, n = name(), 50
    changes = [Change({"instruction": f"Say {i}"}) for i in range(n)]
    served.send(stream, begin(), *changes)
    served.until(stream, Changed, n)
    live = served.worker._live[stream]
    assert len(live.session._turns._changes) == 1
    served.send(stream, Push(TALK), Close())
    wanted = alone(model, tokenizer, TALK, instruction=f"Say {n - 1}")
    assert whole(served, stream) == wanted


# What ends one stream disturbs no other


def test_a_session_that_fails_takes_no_other_with_it(served, name, model, tokenizer, caplog):
    failing, well, later = name(), name(), name()
    served.send(failing, begin(policy=Stumbling()), Push(TALK))
    served.send(well, begin(), Push(TALK), Close())
    failed = served.until(failing, Failed)[-1]
    assert (failed.message, failed.code) == ("this session broke off.", "internal_error")
    served.send(failing, Push("more"), EndTurn(1), Close())
    served.send(later, begin(), Push(TALK), Close())
    assert whole(served, well) == whole(served, later) == alone(model, tokenizer, TALK)
    assert served.by_stream[failing][-1] is failed
    assert any(isinstance(r.exc_info[1], Stumble) for r in caplog.records if r.exc_info)
    assert TALK.split()[0] not in caplog.text


@pytest.mark.parametrize(
    "options", [{"policy": "no-such"}, {"kv_bits": 3}, {"instruction": 7}, {"no_such": 1}]
)
def test_a_stream_that_cannot_begin_says_why(served, name, options):
    stream = name()
    served.send(stream, begin(**options), Push("a"), Close())
    (failed,) = served.until(stream, Failed)
    assert failed.code == "invalid_option"


def test_a_pass_that_fails_ends_those_in_it_alone(served, name, model, tokenizer, monkeypatch):
    calls, call = [], type(model).__call__

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError
        return call(*args, **kwargs)

    streams = [name(), name()]
    idle, later = name(), name()
    served.send(idle, begin())
    served.until(idle, Opened)
    monkeypatch.setattr(type(model), "__call__", failing)
    for stream in streams:
        served.send(stream, begin(), Push(TALK))
    failures = [served.until(stream, Failed)[-1] for stream in streams[:1]]
    assert [failed.code for failed in failures] == ["internal_error"]
    monkeypatch.undo()
    served.send(idle, Push(TALK), Close())
    served.send(later, begin(), Push(TALK), Close())
    wanted = alone(model, tokenizer, TALK)
    assert whole(served, idle) == whole(served, later) == wanted


def test_nothing_is_said_of_a_stream_that_was_dropped(served, name):
    dropped, after = name(), name()
    served.send(dropped, begin(), Push(TALK))
    served.until(dropped, Write)
    served.send(dropped, Drop(), Drop(), Push("a"))
    served.send(after, begin())
    served.until(after, Opened)
    n_said = len(served.by_stream[dropped])
    served.send(after, Push(TALK), Close())
    whole(served, after)
    assert len(served.by_stream[dropped]) == n_said
    assert not any(isinstance(each, Finished) for each in served.by_stream[dropped])


def test_a_flood_of_commands_does_not_keep_passes_from_being_run(model, tokenizer):
    class Flooded(Worker):
        """Each command of one stream brings another one: there is never an end of them."""

        def _do(self, stream, command):
            super()._do(stream, command)
            if stream == "flood" and not isinstance(command, Drop):
                self.send("flood", Push(""))

    served = Heard(model, tokenizer, Flooded)
    served.send("flood", begin())
    served.send("calm", begin(), Push(TALK), Close())
    assert whole(served, "calm") == alone(model, tokenizer, TALK)
    served.worker.stop()


# All at once


class Visitor:
    """A client that does one thing after another; where it has to, it waits for an answer."""

    def __init__(self, seed):
        dice = random.Random(seed)
        self.text = "".join(dice.sample(SENTENCES, 3))
        cuts = sorted(dice.sample(range(1, len(self.text)), 4))
        pieces = [self.text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        self.options = {"policy": dice.choice(["wait-k:1", "wait-k:3", "confidence:0.1"])}
        self.options |= {"history": dice.choice([0, 1])}
        self.fate = dice.choice(["stays", "stays", "stays", "leaves", "fails"])
        if self.fate == "fails":
            self.options["policy"] = Stumbling()
        self.steps = [begin(**self.options), *map(Push, pieces)]
        self.commits = dice.choice([0, 1, 2]) if self.fate == "stays" else 0
        for number in range(1, self.commits + 1):
            self.steps += [EndTurn(number), TurnEnded(number)]
            self.steps += [Change({"instruction": f"Say {number}"}), Push(f"And {number}. ")]
        if self.fate == "leaves":
            self.steps[dice.randrange(1, len(self.steps)) :] = [Drop()]
        else:
            self.steps.append(Close())

    def alone(self, model, tokenizer):
        session = SimulSession(model, tokenizer, OPTIONS, **self.options)
        said = session.feed(self.text)
        for number in range(1, self.commits + 1):
            session.end_turn()
            said += session.events()
            session.update(instruction=f"Say {number}")
            said += session.feed(f"And {number}. ")
        return said + session.finish()


def test_a_storm_of_joins_leaves_and_failures(served, name, model, tokenizer):
    dice, visitors = random.Random(5), {name(): Visitor(seed) for seed in range(16)}
    waiting = {stream: list(visitor.steps) for stream, visitor in visitors.items()}
    while waiting:
        stream = dice.choice(list(waiting))
        step = waiting[stream][0]
        if not isinstance(step, TurnEnded):
            served.send(stream, step)
        elif step not in served.by_stream.get(stream, []):
            served.take(wait=len(waiting) == 1)
            continue
        waiting[stream].pop(0)
        if not waiting[stream]:
            del waiting[stream]
        served.take(wait=False)
    n_stayed = 0
    for stream, visitor in visitors.items():
        if visitor.fate == "stays":
            assert whole(served, stream) == visitor.alone(model, tokenizer)
            n_stayed += 1
        elif visitor.fate == "fails":
            assert served.until(stream, Failed)[-1].code == "internal_error"
    assert 5 < n_stayed < 14
    assert not served.worker._live and not served.worker._of


# Memory


def test_memory_comes_back_when_sessions_end(served, name):
    def run(n):
        streams = [name() for _ in range(n)]
        for stream in streams:
            served.send(stream, begin(), Push(TALK), Close())
        for stream in streams:
            whole(served, stream)
        return mx.get_active_memory()

    before = run(1)
    assert run(16) <= before + 100_000
    assert run(1) <= before + 100_000


def test_rows_come_back_before_the_last_session_ends(served, name):
    streams = [name() for _ in range(16)]
    for stream in streams:
        served.send(stream, begin(), Push(TALK[:-4]))
    for stream in streams:
        served.until(stream, TurnEnd, 3)
    most = mx.get_active_memory()
    for stream in streams[1:]:
        served.send(stream, Close())
    for stream in streams[1:]:
        whole(served, stream)
    served.send(streams[0], Push("a"))
    served.until(streams[0], Taken, 2)
    assert mx.get_active_memory() < most
    runner = served.worker._served["tiny"].sessions._batch._runner
    assert runner._n_rows < 16
    served.send(streams[0], Drop())
    last = name()
    served.send(last, begin(), Close())
    whole(served, last)  # by now it has been dropped


def test_a_stream_that_would_not_fit_is_refused_and_none_that_runs_is_hurt(
    served, name, model, tokenizer, monkeypatch
):
    running, refused, later = name(), name(), name()
    limit_memory(served.worker, monkeypatch, 0)
    served.send(running, begin(), Push(TALK))
    served.until(running, TurnEnd)
    served.send(refused, begin())
    (failed,) = served.until(refused, Failed)
    assert failed.code == "server_full" and "MB" in failed.message
    served.send(running, Close())
    assert whole(served, running) == alone(model, tokenizer, TALK)
    monkeypatch.undo()
    served.send(later, begin(), Push(TALK), Close())
    assert whole(served, later) == alone(model, tokenizer, TALK)


# Progress, and the end


def test_a_pass_that_hangs_is_seen(served, name):
    gate, stream = threading.Event(), name()
    served.send(stream, begin(sampler=Gate(gate)))
    served.until(stream, Opened)
    served.send(stream, Push(TALK))
    while not (first := served.worker.stalled_s):
        pass
    while served.worker.stalled_s <= first:
        pass
    gate.set()
    served.send(stream, Close())
    whole(served, stream)


def test_the_figures_count_what_was_done(served, name):
    figures = served.worker.figures
    streams = [name() for _ in range(3)]
    steps, rows = figures.steps, figures.rows
    for stream in streams:
        served.send(stream, begin(), Push(TALK), Close())
    finished = [whole(served, stream)[-1] for stream in streams]
    # A session that reads without writing takes part, too, and says nothing of the pass.
    assert figures.rows - rows == sum(event.n_passes for event in finished)
    assert max(event.n_passes for event in finished) <= figures.steps - steps <= figures.rows - rows
    assert figures.step_s > 0 and figures.memory_bytes > 0


def test_a_model_that_will_not_do_ends_the_start():
    def load():
        raise InvalidOptionError("no such model.")

    worker = Worker({"tiny": load}, print)
    with pytest.raises(InvalidOptionError, match="no such model"):
        worker.start()
    worker._thread.join()
    assert not worker.is_alive


def test_a_journal_is_whole_when_the_thread_ends(model, tokenizer, tmp_path):
    path = tmp_path / "journal"
    served = Heard(model, tokenizer)
    served.send("a", Open("tiny", {}, path), Push(TALK))
    served.until("a", TurnEnd)
    served.worker.stop()
    assert not served.worker.is_alive
    served = Heard(model, tokenizer)
    served.send("a", Open("tiny", {}, path, n_turns=0), Close())
    assert whole(served, "a") == alone(model, tokenizer, TALK)
    assert served.by_stream["a"][0].source_chars == len(TALK)
    served.worker.stop()
