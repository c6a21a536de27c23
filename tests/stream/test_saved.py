"""A session saved at any moment and restored says what the undisturbed one says (SPEC 8)."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from repository import ROOT
from streams import writes
from tiny_checkpoints import golden_folder
from tiny_models import first_of, tiny_model

import mlx_simul
from mlx_simul import Action, Finished, Policy, SimulSession, TurnEnd
from mlx_simul.cache.positions import FollowStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.errors import InvalidOptionError, SavedSessionError
from mlx_simul.loop.requests import Pass, Reply

TALK = (
    'Good morning, how are "you" today? I would like a ticket to Paris.\n\nThank you. See you '
    "on Monday, 好吗？at three or four o'clock. Good bye!"
)
OPTIONS = {
    "max_tokens": 24,
    "max_tokens_per_word": 3,
    "max_target_source_ratio": 1.0,
}
TURNS = {"turns": "sentence"}
POLICIES = [
    "wait-k:1",
    "wait-k:3",
    "whole",
    "confidence:0.01",
    "local-agreement:2",
    "hold-n:1",
    "align-att:1,heads=0-0+1-1",
]
SETTINGS = [
    {"turns": None},
    {"turns": None, "gpe_compat": True, "policy": "wait-k:2", "max_target_source_ratio": None},
    TURNS,
    {**TURNS, "history": 2, "pairs": [("Yes.", "Oui.")]},
    {**TURNS, "draft": "ngram", "policy": "whole"},
    {**TURNS, "max_words": 9},
    {**TURNS, "max_tokens": 2},
    {**TURNS, "stop": ["a", "e"]},
    {"turns": None, "stop": [[7], "th"]},
    {**TURNS, "target_start": FollowStart(margin_tokens=1)},
]
MODES = ["group", "reencode", "interleaved"]

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cut(text, places):
    bounds = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def answer(session, request):
    """Run a pass, or where passes are run in parts, a part of it."""
    engine = session._engine
    if not isinstance(engine, StreamingEngine):
        return session.answer(engine.run(request))
    (outcome,) = engine.runner.run([(engine, request)])
    if isinstance(outcome, Exception):
        raise outcome
    return session.answer(outcome)


def drive(session, inputs, moments=(), swap=None):
    """Feed a session and run it step by step; at some moments another one takes its place.

    Returns:
        Its events, how many moments there were, and the session that was there last.
    """
    events, counter = [], itertools.count()

    def moment(session):
        return swap(session) if next(counter) in moments else session

    for act in inputs:
        if isinstance(act, str):
            session.push(act)
        else:
            act(session)
        session = moment(session)
        while (step := session.advance()) is not None:
            if not isinstance(step, Pass):
                events.append(step)
            session = moment(session)
            if isinstance(step, Pass):
                answer(session, session.advance())
                session = moment(session)
    return events, next(counter), session


def close(session):
    session.close()


def restorer(model, tokenizer, path, options):
    """What saves a session, and restores it without running the model."""

    def swap(session):
        session.save(path)
        restored = SimulSession.restore(model, tokenizer, path, **options)
        if restored._options.decoding.draft is None:
            assert restored._engine.n_passes == 0
        return restored

    return swap


def holds(engine):
    """Keys and values that an engine in two groups has, as numbers."""
    return [plane.tolist() for _, plane in tree_flatten(list(engine.state.layers))]


# The law


@quick
@given(
    places=st.lists(st.integers(0, 1000), max_size=6),
    policy=st.sampled_from(POLICIES),
    mode=st.sampled_from(MODES),
    setting=st.sampled_from(SETTINGS),
    moments=st.lists(st.integers(0, 10**6), min_size=1, max_size=3),
)
def test_restored_at_any_moments_it_says_what_the_undisturbed_one_says(
    tmp_path_factory, model, tokenizer, places, policy, mode, setting, moments
):
    if mode != "group" and setting.keys() & {"gpe_compat", "target_start"}:
        mode = "group"
    if mode == "interleaved" and policy.startswith("align-att"):
        policy = "wait-k:2"
    options = {"policy": policy, "mode": mode, **OPTIONS, **setting}
    inputs = [*cut(TALK, places), close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    swap = restorer(model, tokenizer, tmp_path_factory.mktemp("saved") / "talk", options)
    moments = {moment % n_moments for moment in moments}
    said, n, _ = drive(SimulSession(model, tokenizer, **options), inputs, moments, swap)
    assert said == wanted
    assert n == n_moments
    assert said[-1].n_passes == wanted[-1].n_passes  # takes no part in equality


@pytest.mark.parametrize("setting", [TURNS, {"turns": None}], ids=["turns", "one turn"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_so_at_every_single_moment(tmp_path, model, tokenizer, mode, setting):
    options = {"policy": "wait-k:2", "mode": mode, **OPTIONS, **setting, "max_tokens": 9}
    inputs = [TALK[:19], TALK[19:40], close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    swap = restorer(model, tokenizer, tmp_path / "talk", options)
    session = SimulSession(model, tokenizer, **options)
    said, _, _ = drive(session, inputs, range(n_moments), swap)
    assert said == wanted


@pytest.mark.parametrize(
    ("mode", "policy"),
    [*((mode, "wait-k:2") for mode in MODES), ("group", "local-agreement:2"), ("group", "whole")],
)
def test_it_is_so_in_the_middle_of_a_search(tmp_path, model, tokenizer, mode, policy):
    """Candidates are floats in a file, and the search that they are for begins anew with them."""
    search = {"num_beams": 3, "length_penalty": 0.5, "logprobs": True}
    options = {"policy": policy, "mode": mode, **OPTIONS, **TURNS, **search, "max_tokens": 6}
    inputs = [TALK[:19], TALK[19:28], close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    restored = restorer(model, tokenizer, tmp_path / "talk", options)
    searched = []

    def swap(session):
        session = restored(session)
        reply = session._stepping.saved["reply"]
        if isinstance(reply, Reply) and reply.candidates:
            searched.append(reply)
        return session

    session = SimulSession(model, tokenizer, **options)
    said, _, _ = drive(session, inputs, range(n_moments), swap)
    assert said == wanted
    # To the last bit: log probabilities take no part in equality.
    logprobs = [each.logprob for each in writes(wanted)]
    assert [each.logprob for each in writes(said)] == logprobs
    assert None not in logprobs
    assert len(searched) > 5


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("more", [{}, {"kv_bits": 8, "kv_group_size": 32}], ids=["", "8 bits"])
@pytest.mark.parametrize("keep_lost", [True, False], ids=["", "control"])
def test_the_cache_goes_on_bit_for_bit(tmp_path, tokenizer, dtype, more, keep_lost):
    """Even what rounding took from keys that moved; without it they come to differ."""
    kind = first_of("llama", head_dim=32, hidden_size=128, vocab_size=1024)
    model = tiny_model(kind)
    model.set_dtype(dtype)
    start = FollowStart(margin_tokens=1)
    placed = {"turns": None, "policy": "wait-k:2", "target_start": start, "max_tokens": 99}
    options = {**OPTIONS, **more, **placed}
    inputs = [TALK[:60], TALK[60:100]]
    restore = restorer(model, tokenizer, tmp_path / "talk", options)

    def swap(session):
        restored = restore(session)
        if not keep_lost:
            restored._engine._n_moved = 0
        return restored

    wanted, n_moments, whole = drive(SimulSession(model, tokenizer, **options), inputs)
    session = SimulSession(model, tokenizer, **options)
    said, _, last = drive(session, inputs, range(0, n_moments, 9), swap)
    assert whole._engine.target_tokens > 4
    rounds = dtype == mx.bfloat16 or more
    assert (holds(last._engine) == holds(whole._engine)) == (keep_lost or not rounds)
    if keep_lost:
        assert said == wanted


FAMILIES = [
    ("mamba", "reencode"),
    ("mamba", "interleaved"),
    ("gemma3_text", "reencode"),
    ("deepseek_v2", "group"),
]


@pytest.mark.parametrize(("family", "mode"), FAMILIES)
def test_it_is_so_of_caches_of_every_kind(tmp_path, tokenizer, family, mode):
    model = tiny_model(first_of(family, vocab_size=1024))
    options = {**OPTIONS, **TURNS, "mode": mode, "max_tokens": 9}
    inputs = [TALK[:19], TALK[19:70], close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    swap = restorer(model, tokenizer, tmp_path / "talk", options)
    session = SimulSession(model, tokenizer, **options)
    said, _, _ = drive(session, inputs, range(0, n_moments, 5), swap)
    assert said == wanted


def test_changes_come_back_and_end_turn_holds(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS, "history": 1, "target_language": "Dutch"}

    def update(**changed):
        return lambda session: session.update(**changed)

    inputs = [
        TALK[:25],
        update(policy="confidence:0.01", glossary={"ticket": "billet"}, source_language="Chinese"),
        TALK[25:52],
        update(source_language="English", history=0),
        lambda session: session.end_turn(),
        TALK[52:75],
        update(instruction="Again", pairs=[("Yes.", "Oui.")]),
        TALK[75:],
        close,
    ]
    wanted, n_moments, whole = drive(SimulSession(model, tokenizer, **options), inputs)
    swap = restorer(model, tokenizer, tmp_path / "talk", options)
    session = SimulSession(model, tokenizer, **options)
    said, _, last = drive(session, inputs, range(0, n_moments, 7), swap)
    assert said == wanted
    assert last.options == whole.options


def test_a_pass_that_is_half_run_goes_on(tmp_path, model, tokenizer, monkeypatch):
    monkeypatch.setattr("mlx_simul.engine.runner.MAX_SOURCE_TOKENS_PER_PASS", 8)
    options = {**OPTIONS, **TURNS, "max_tokens": 9, "instruction": f"Say it again. {TALK}"}
    inputs = [TALK[:20], close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    restore, halves = restorer(model, tokenizer, tmp_path / "talk", options), []

    def swap(session):
        halves.append(session._stepping.asked is not None and session._stepping.asked.n_passes > 0)
        return restore(session)

    session = SimulSession(model, tokenizer, **options)
    said, _, _ = drive(session, inputs, range(n_moments), swap)
    assert said == wanted
    assert any(halves)


def test_sampled_tokens_come_as_they_would_have_come(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS, "temp": 1.0, "repetition_penalty": 1.2}
    session = SimulSession(model, tokenizer, **options)
    session.feed(TALK[:40])
    session.save(tmp_path / "talk")
    wanted = session.feed(TALK[40:]) + session.finish()
    mx.random.seed(0)

    def rest(session):
        return session.feed(TALK[40:]) + session.finish()

    assert rest(SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)) == wanted
    again = SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)
    mx.random.seed(0)
    assert rest(again) != wanted  # negative control


def test_a_draft_model_reads_the_turn_again(tmp_path, golden_models, model, tokenizer):
    options = {**OPTIONS, **TURNS, "draft": (golden_models["llama-tiny-0"], tokenizer)}
    inputs = [TALK[:40], close]
    wanted, n_moments, _ = drive(SimulSession(model, tokenizer, **options), inputs)
    swap = restorer(model, tokenizer, tmp_path / "talk", options)
    session = SimulSession(model, tokenizer, **options)
    said, _, _ = drive(session, inputs, range(0, n_moments, 5), swap)
    assert said == wanted


@pytest.mark.parametrize("turns", [None, "sentence"])
def test_a_prefix_that_another_session_encoded(tmp_path, model, tokenizer, turns):
    options = {**OPTIONS, "turns": turns}
    prefix = SimulSession(model, tokenizer, **options).encode_prefix()
    inputs = [TALK[:40], close]
    first = SimulSession(model, tokenizer, prefix=prefix, **options)
    wanted, n_moments, _ = drive(first, inputs)
    swap = restorer(model, tokenizer, tmp_path / "talk", options)
    session = SimulSession(model, tokenizer, prefix=prefix, **options)
    said, _, _ = drive(session, inputs, range(0, n_moments, 5), swap)
    assert said == wanted


def test_a_source_whose_tokens_are_known(tmp_path, model, tokenizer):
    source = mlx_simul.TokenizedSource([[1, 5, 6], [7], [8, 9], [10], [2]], [3])
    session = SimulSession(model, tokenizer, source=source, max_tokens=9)
    events = session.events()
    next(events)
    session.save(tmp_path / "talk")
    wanted = list(events)
    restored = SimulSession.restore(
        model, tokenizer, tmp_path / "talk", source=source, max_tokens=9
    )
    assert list(restored.events()) == wanted
    with pytest.raises(SavedSessionError, match="source="):
        SimulSession.restore(model, tokenizer, tmp_path / "talk", max_tokens=9)


def test_a_session_of_a_batch_goes_on_alone(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS}
    batch = mlx_simul.Sessions(model, tokenizer, **options)
    one, other = batch.add(), batch.add()
    said = []
    one.push(TALK[:50])
    other.push(TALK[20:])
    for _ in range(15):
        said += [event for session, event in batch.step() if session is one]
    one.save(tmp_path / "talk")
    restored = SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)
    said += [*restored.events(), *restored.feed(TALK[50:]), *restored.finish()]
    alone, _, _ = drive(SimulSession(model, tokenizer, **options), [TALK, close])
    assert said == alone


def test_times_go_on(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS}
    session = SimulSession(model, tokenizer, **options)
    session.feed(TALK[:60])
    session._clock.go_on_from(1e9)
    session.save(tmp_path / "talk")
    restored = SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)
    end = next(e for e in restored.feed(TALK[60:]) if isinstance(e, TurnEnd))
    assert 0 < end.began_ms <= end.word_times_ms[0] < 1e9 <= end.time_ms


# Negative controls: what is not restored is missed


def drop_reply(saved):
    record = saved["turns"]["record"]
    del record[next(i for i, (_, given) in enumerate(record) if isinstance(given, Reply))]


def change_reply(saved):
    record = saved["turns"]["record"]
    i = next(i for i, (_, given) in enumerate(record) if isinstance(given, Reply))
    record[i] = (record[i][0], Reply((7,), 1))


def drop_word(saved):
    record = saved["turns"]["record"]
    del record[next(i for i, (_, given) in enumerate(record) if isinstance(given, str))]


@pytest.mark.parametrize(
    "forget",
    [
        lambda saved: saved.update(engine=None),
        lambda saved: saved["feed"]["segmenter"].update(_run=[]),
        lambda saved: saved["turns"].update(waiting=[]),
        lambda saved: saved["turns"].update(_n_source_words=0),
        lambda saved: saved["turns"]["joiner"].update(_between="\n\n", _is_paragraph=True),
        drop_reply,
        change_reply,
        drop_word,
    ],
    ids=["engine", "half word", "waiting", "count", "joiner", "reply", "other reply", "word"],
)
def test_what_is_forgotten_is_noticed(tmp_path, model, tokenizer, monkeypatch, forget):
    options = {**OPTIONS, **TURNS, "policy": "wait-k:1"}
    session = SimulSession(model, tokenizer, **options)
    session.push(TALK[: TALK.index("cket")] + TALK)
    steps = session.events()
    while not isinstance(next(steps), TurnEnd):
        pass
    for _ in range(8):  # into the turn behind it
        next(steps)
    session.save(tmp_path / "talk")
    wanted = [*steps, *session.feed("ends here."), *session.finish()]

    def rest():
        restored = SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)
        return [*restored.events(), *restored.feed("ends here."), *restored.finish()]

    assert rest() == wanted
    take = SimulSession._take

    def forgetful(session, saved):
        forget(saved)
        take(session, saved)

    monkeypatch.setattr(SimulSession, "_take", forgetful)
    with suppress(SavedSessionError):  # to be refused is as good
        assert rest() != wanted


# What is refused


@pytest.fixture
def saved(tmp_path, model, tokenizer):
    """A file, and the options of its session."""
    options = {**OPTIONS, **TURNS}
    session = SimulSession(model, tokenizer, **options)
    session.feed(TALK[:40])
    session.save(tmp_path / "talk")
    return tmp_path / "talk", options


def test_the_file_of_another_model_or_setting_is_refused(saved, golden_models, model, tokenizer):
    path, options = saved
    with pytest.raises(SavedSessionError, match="model="):
        SimulSession.restore(golden_models["llama-tiny-0"], tokenizer, path, **options)
    with pytest.raises(SavedSessionError, match=r"policy='wait-k:3', and this one .*'wait-k:5'"):
        SimulSession.restore(model, tokenizer, path, policy="wait-k:5", **options)
    with pytest.raises(SavedSessionError, match=r"functions=\[\], and this one .*'splitter'"):
        SimulSession.restore(model, tokenizer, path, splitter=str.splitlines, **options)
    SimulSession.restore(model, tokenizer, path, **options)  # negative control


def test_a_policy_without_a_name_is_known_by_its_class(tmp_path, model, tokenizer):
    class Eager(Policy):
        def decide(self, progress):
            return Action.WRITE if progress.source_words_read else Action.READ

    class Other(Eager):
        pass

    options = {**OPTIONS, **TURNS}
    session = SimulSession(model, tokenizer, policy=Eager(), **options)
    session.feed(TALK[:40])
    session.save(tmp_path / "talk")
    SimulSession.restore(model, tokenizer, tmp_path / "talk", policy=Eager(), **options)
    with pytest.raises(SavedSessionError, match="Other"):
        SimulSession.restore(model, tokenizer, tmp_path / "talk", policy=Other(), **options)


def test_another_tokenizer_is_refused(saved, model, tokenizer, monkeypatch):
    path, options = saved
    monkeypatch.setattr("mlx_simul.stream.chain.shared_prefix_ids", lambda setting: (4, 5))
    with pytest.raises(SavedSessionError, match="tokenizer"):
        SimulSession.restore(model, tokenizer, path, **options)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:-1], "is damaged"),
        (lambda data: data + b"x", "is damaged"),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "digest"),
        (lambda data: data.replace(b"wou", b"cou", 1), "digest"),
        (lambda data: data.replace(b"mlx_simul_session", b"mlx_simul_sassion"), "not a saved"),
        (lambda data: b"", "cannot be used"),
        (lambda data: b"notes", "not a saved session, or too large"),
        (lambda data: b"\xff" * 100, "too large"),
        (lambda data: data[:8] + b"[" * (len(data) - 8), "cannot be used"),
        (
            lambda data: data.replace(b'"shape":[1,', b'"shape":[9,', 1),
            "contradicts|invalid data offsets",
        ),
    ],
)
def test_a_damaged_file_is_refused(saved, model, tokenizer, spoil, says):
    path, options = saved
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SavedSessionError, match=says):
        SimulSession.restore(model, tokenizer, path, **options)


@pytest.mark.parametrize("name", ["identity", "date", "state"])
def test_a_file_that_lacks_something_is_refused(saved, model, tokenizer, monkeypatch, name):
    path, options = saved
    session = SimulSession.restore(model, tokenizer, path, **options)
    lacking = SimpleNamespace(
        dumps=lambda values: json.dumps({key: values[key] for key in values if key != name}),
        loads=json.loads,
    )
    monkeypatch.setattr("mlx_simul.stream.saved.json", lacking)
    session.save(path)
    with pytest.raises(SavedSessionError, match=f"cannot be used: KeyError: '{name}'"):
        SimulSession.restore(model, tokenizer, path, **options)


def test_a_file_that_is_too_large_is_neither_read_nor_written(saved, model, tokenizer, monkeypatch):
    path, options = saved
    session = SimulSession.restore(model, tokenizer, path, **options)
    monkeypatch.setattr("mlx_simul.stream.saved.MAX_HEADER_BYTES", 1000)
    with pytest.raises(SavedSessionError, match="at most"):
        SimulSession.restore(model, tokenizer, path, **options)
    before = path.read_bytes()
    with pytest.raises(SavedSessionError, match="more than can be read again"):
        session.save(path)
    assert path.read_bytes() == before


def test_a_class_that_the_stream_does_not_have_is_never_made(saved, model, tokenizer, monkeypatch):
    from mlx_simul.stream import saved as module

    path, options = saved
    session = SimulSession.restore(model, tokenizer, path, **options)
    kinds = module._kinds
    monkeypatch.setattr(module, "_kinds", lambda engine: {**kinds(engine), "Date": Date})
    session._feed.has_words = Date()
    session.save(path)
    SimulSession.restore(model, tokenizer, path, **options)
    monkeypatch.setattr(module, "_kinds", kinds)
    with pytest.raises(SavedSessionError, match="Date"):
        SimulSession.restore(model, tokenizer, path, **options)
    with pytest.raises(SavedSessionError, match="cannot be saved"):
        session.save(path)


class Date:
    """Something that no session holds."""


def test_sessions_that_cannot_be_saved_say_so(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS}
    session = SimulSession(model, tokenizer, journal=tmp_path / "journal", **options)
    with pytest.raises(InvalidOptionError, match="without a journal"):
        session.save(tmp_path / "talk")
    session = SimulSession(model, tokenizer, **options)
    with pytest.raises(SavedSessionError, match="cannot be used"):
        session.save(tmp_path)  # a folder

    def save(word):
        with pytest.raises(InvalidOptionError, match="while the session runs"):
            session.save(tmp_path / "talk")
        seen.append(word)

    seen = []
    session = SimulSession(model, tokenizer, policy="confidence:0.01", **options)
    session.observe(save)
    session.feed(TALK[:60])
    assert seen


def test_a_session_that_has_finished_stays_so(tmp_path, model, tokenizer):
    options = {**OPTIONS, **TURNS}
    session = SimulSession(model, tokenizer, **options)
    session.feed(TALK)
    assert isinstance(session.finish()[-1], Finished)
    session.save(tmp_path / "talk")
    restored = SimulSession.restore(model, tokenizer, tmp_path / "talk", **options)
    assert restored.finished
    assert restored.finish() == []


# Killed while it saves

CHILD = """
import sys
import mlx_simul
model, tokenizer = mlx_simul.load(sys.argv[1])
session = mlx_simul.SimulSession(model, tokenizer, turns="sentence", max_tokens=20)
session.feed("Good morning. How are")
session.save(sys.argv[2])
print("saved", flush=True)
while True:
    session.feed(" you")
    session.save(sys.argv[2])
"""


def test_a_kill_in_the_middle_of_saving_leaves_a_whole_file(tmp_path):
    folder, path = golden_folder(tmp_path / "model", "qwen2"), tmp_path / "talk"
    model, tokenizer = mlx_simul.load(folder)
    rng = random.Random(0)
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:
            assert process.stdout.readline() == b"saved\n"
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        restored = SimulSession.restore(model, tokenizer, path, turns="sentence", max_tokens=20)
        said = [*restored.events(), *restored.finish()]
        assert said[-1].source_words >= 4
    restored.save(path)  # what the kill left behind is in nobody's way
    assert [each.name for each in tmp_path.iterdir()] in (["model", "talk"], ["talk", "model"])
