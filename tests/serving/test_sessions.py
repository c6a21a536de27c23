"""Many sessions in shared passes: each writes what it would write alone."""

import re
from itertools import pairwise

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import ROOT
from streams import TEXT, Stumble, run
from tiny_models import first_of, tiny_model

from mlx_simul import Finished, Sessions, SimulSession, WaitK, archs
from mlx_simul.cache.layout import Layout
from mlx_simul.cache.positions import FollowStart
from mlx_simul.engine import drawing
from mlx_simul.engine import runner as passes_of
from mlx_simul.engine.group import StreamingEngine
from mlx_simul.engine.runner import Part
from mlx_simul.errors import InvalidOptionError, SessionClosedError, SessionFailedError
from mlx_simul.loop.drafters import NGramDrafter
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import (
    AlignAtt,
    Confidence,
    HoldN,
    LocalAgreement,
    Policy,
    ReadNWriteM,
    Shown,
    WaitKCatchUp,
    WaitToken,
    WholeSource,
    name_in,
    policy_names,
    spec_of,
)

quick = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


JUDGING = [HoldN(1), LocalAgreement(2), Confidence(0.02), AlignAtt(1, heads=((0, 0),))]
OTHERS = [*JUDGING, ReadNWriteM(3, 2)]


class Dice:
    """A sampler with a state of its own."""

    def __init__(self, seed):
        self.key = mx.random.key(seed)

    def __call__(self, logprobs):
        self.key, now = mx.random.split(self.key)
        return mx.random.categorical(logprobs, key=now)


class Stumbling(Policy):
    """A sampler, or a policy, that fails at its third turn."""

    def __init__(self):
        self.turns = 0

    def __call__(self, logprobs):
        self.turns += 1
        if self.turns == 3:
            raise Stumble
        return mx.argmax(logprobs, axis=-1)

    def decide(self, progress):
        self(mx.zeros((1, 2)))
        return WaitK(1).decide(progress)


@st.composite
def plans(draw):
    """A session: its text in chunks, when it joins, and its options, a sampler by its seed."""
    begin = draw(st.integers(0, 60))
    cuts = sorted(draw(st.lists(st.integers(begin, len(TEXT)), max_size=4)))
    chunks = [TEXT[a:b] for a, b in pairwise([begin, *cuts, len(TEXT)])]
    gpe_compat = draw(st.booleans())
    policies = st.integers(1, 6).map(WaitK)
    options = {
        "policy": draw(policies if gpe_compat else st.one_of(policies, st.sampled_from(OTHERS))),
        "draft": draw(st.sampled_from([None, "ngram"])),
        "target_start": draw(st.sampled_from([0, 64, "follow", FollowStart(2)])),
        "max_tokens": draw(st.integers(1, 20)),
        "max_tokens_per_word": draw(st.sampled_from([1, 3, 50])),
        "early_eos": draw(st.sampled_from(["read", "stop"])),
        "gpe_compat": gpe_compat,
        "instruction": draw(st.sampled_from(["Translate", "Say it in another language"])),
    }
    return chunks, draw(st.integers(0, 6)), options, draw(st.none() | st.integers(0, 9))


def sampled(options, seed):
    return options if seed is None else {**options, "sampler": Dice(seed)}


def together(model, tokenizer, plans, pauses=()):
    """Events of each plan's session; where pauses say so, no chunk arrives before a step."""
    batch = Sessions(model, tokenizer)
    sessions, said, waiting = {}, {}, {}
    for turn in range(1000):
        for i, (chunks, joins_at, options, seed) in enumerate(plans):
            if turn == joins_at:
                sessions[i] = batch.add(**sampled(options, seed))
                said[sessions[i]] = []
                waiting[i] = list(chunks)
            elif i in sessions and (turn, i) not in pauses:
                push_next(sessions[i], waiting[i])
        for session, event in batch.step() or ():
            said[session].append(event)
        if len(sessions) == len(plans) and not len(batch):
            return [said[sessions[i]] for i in range(len(plans))]
    raise AssertionError("the sessions do not end")


def push_next(session, chunks):
    if chunks:
        session.push(chunks.pop(0))
    else:
        session.close()


def alone(model, tokenizer, plan):
    chunks, _, options, seed = plan
    return run(model, tokenizer, chunks, **sampled(options, seed))


@quick
@given(
    st.lists(plans(), min_size=1, max_size=5),
    st.sets(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=20),
)
@pytest.mark.parametrize("read_ahead", [64, 6])
def test_each_session_is_as_it_is_alone(model, tokenizer, read_ahead, plans, pauses):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("mlx_simul.engine.costs.READ_AHEAD_TOKENS", read_ahead)
        got = together(model, tokenizer, plans, pauses)
        assert got == [alone(model, tokenizer, plan) for plan in plans]


THREE = [
    ([TEXT], 0, {"policy": WaitK(1), "target_start": 0, "max_tokens": 20}, None),
    ([TEXT[9:]], 1, {"policy": WaitK(4), "target_start": FollowStart(2), "max_tokens": 20}, None),
    ([TEXT[20:]], 2, {"policy": WaitK(2), "target_start": 64, "max_tokens": 20}, 3),
]


class MasksAreMixedUp(Layout):
    """Lets each stream see what another one sees."""

    def mask(self, window=None, chunk=None, as_array=True):
        return super().mask(window, chunk)[::-1]


def test_passes_that_mix_sessions_up_write_something_else(model, tokenizer, monkeypatch):
    """Negative control of the law above."""
    wanted = [alone(model, tokenizer, plan) for plan in THREE]
    assert together(model, tokenizer, THREE) == wanted
    monkeypatch.setattr("mlx_simul.cache.layout.Layout", MasksAreMixedUp)
    assert together(model, tokenizer, THREE) != wanted


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "qwen3"])
def test_families_share_passes(tokenizer, name):
    model = tiny_model(first_of(name, vocab_size=1024))
    assert together(model, tokenizer, THREE) == [alone(model, tokenizer, plan) for plan in THREE]


def test_sessions_with_quantised_keys_and_values_share_passes(tokenizer):
    model = tiny_model(first_of("llama", vocab_size=1024, head_dim=32))
    plans = [
        (c, j, {**options, "kv_bits": 8, "kv_group_size": 32}, s) for c, j, options, s in THREE
    ]
    assert together(model, tokenizer, plans) == [alone(model, tokenizer, plan) for plan in plans]
    batch = Sessions(model, tokenizer, kv_bits=8, kv_group_size=32)
    assert batch.is_shared(batch.add())
    with pytest.raises(InvalidOptionError, match="same kv_bits"):
        batch.add(kv_bits=4)
    assert len(batch) == 1


def test_the_page_names_those_that_do_not_share_passes():
    page = (ROOT / "docs" / "batches.md").read_text("utf-8")
    _, rest = page.split("do not share passes:")
    named = set(re.findall(r"`([^`]+)`", rest.split("A batch is as wide")[0]))
    found = map(archs.find, archs.registered_types())
    assert named == {a.model_type for a in found if a.modes[0] == "group" and not a.fuses}


def counted(model, monkeypatch):
    """How often the model runs from now on."""
    calls, call = [], type(model).__call__
    monkeypatch.setattr(
        type(model), "__call__", lambda *a, **k: [calls.append(a[1].shape), call(*a, **k)][1]
    )
    return calls


def test_passes_are_shared(model, tokenizer, monkeypatch):
    calls = counted(model, monkeypatch)
    for plan in THREE:
        alone(model, tokenizer, plan)
    n_alone = len(calls)
    calls.clear()
    together(model, tokenizer, THREE)
    assert len(calls) < 0.6 * n_alone


def to_the_end(batch, failing, whole):
    """What a whole session says beside one that fails, and the errors of the batch."""
    for session in (failing, whole):
        session.push(TEXT)
        session.close()
    said, errors = [], []
    while len(batch):
        try:
            for session, event in batch.events():
                said += [event] if session is whole else []
        except SessionFailedError as error:
            errors.append(error)
    return said, errors


EVERY_POLICY = [
    *OTHERS,
    WaitK(2),
    WaitKCatchUp(2),
    WholeSource(),
    WaitToken("<|endoftext|>"),
    Shown(WaitK(2), heads=((0, 0), (1, 1))),
]


def test_these_are_all_policies_that_have_a_name():
    tried = {spec_of(policy) for policy in EVERY_POLICY if not isinstance(policy, Shown)}
    assert set(map(name_in, tried)) == set(policy_names())


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: type(policy).__name__)
def test_every_policy_shares_passes(model, tokenizer, monkeypatch, policy):
    plans = [([TEXT[i:]], 0, {"policy": policy, "max_tokens": 12}, None) for i in (0, 9, 20)]
    calls = counted(model, monkeypatch)
    wanted = [alone(model, tokenizer, plan) for plan in plans]
    n_alone = len(calls)
    calls.clear()
    assert together(model, tokenizer, plans) == wanted
    assert len(calls) < 0.7 * n_alone


@pytest.mark.parametrize(
    ("policy", "broken"),
    [
        (Confidence(0.05), "_odds"),
        (AlignAtt(1, heads=((0, 0),)), "_shares"),
    ],
)
def test_evidence_of_another_stream_writes_something_else(
    model, tokenizer, monkeypatch, policy, broken
):
    """Negative control of the law above."""
    plans = [([TEXT[i:]], 0, {"policy": policy, "max_tokens": 12}, None) for i in (0, 9, 20)]
    wanted = [alone(model, tokenizer, plan) for plan in plans]
    assert together(model, tokenizer, plans) == wanted
    sound = getattr(drawing, broken)

    def odds_of_the_last_stream(parts):
        return list(sound([(rows, tokens) for rows, tokens in reversed(parts)]))

    def shares_from_the_far_end(one, n_tokens, recorded):
        return [share[::-1] for share in sound(one, n_tokens, recorded)]

    mixed = odds_of_the_last_stream if broken == "_odds" else shares_from_the_far_end
    monkeypatch.setattr(drawing, broken, mixed)
    assert together(model, tokenizer, plans) != wanted


def test_a_head_that_is_not_there_fails_its_own_session_only(model, tokenizer):
    batch = Sessions(model, tokenizer, max_tokens=20)
    failing = batch.add(policy=AlignAtt(1, heads=((0, 99),)))
    whole = batch.add(policy=AlignAtt(1, heads=((0, 0),)))
    said, errors = to_the_end(batch, failing, whole)
    assert [error.session for error in errors] == [failing]
    assert "numbered from 0" in str(errors[0].__cause__)
    policy = AlignAtt(1, heads=((0, 0),))
    assert said == run(model, tokenizer, TEXT, policy=policy, max_tokens=20)


@pytest.mark.parametrize(
    ("name", "options"),
    [("internlm2", {}), ("lfm2", {}), ("qwen2", {"mode": "reencode"})],
    ids=["does not fuse", "recurrent", "mode"],
)
def test_what_cannot_share_passes_runs_one_by_one(tokenizer, name, options):
    model = tiny_model(first_of(name, vocab_size=1024))
    options = {**options, "policy": WaitK(2), "max_tokens": 6}
    plans = [([TEXT], i, options, None) for i in range(2)]
    assert together(model, tokenizer, plans) == [alone(model, tokenizer, plan) for plan in plans]
    batch = Sessions(model, tokenizer)
    assert not batch.is_shared(batch.add(**options))


def test_one_that_is_given_much_does_not_hold_up_the_others(model, tokenizer, monkeypatch):
    calls = counted(model, monkeypatch)
    batch = Sessions(model, tokenizer, policy=WaitK(1), max_tokens=40)
    sessions = [batch.add() for _ in range(8)]
    for session in sessions:
        session.push(TEXT)
    while batch.step():
        pass
    calls.clear()
    sessions[0].push(" So many words that all arrive at once, and one by one after them,")
    while batch.step() is not None:
        pass
    assert all(rows == 1 or length < 16 for rows, length in calls)


def test_a_pass_feeds_a_part_of_what_is_long(model):
    class Reader:
        def reads_alone(self, source_ids, n_hidden):
            return False

    short = [Part(Reader(), Pass((), (5,), draft_ids=(6,))) for _ in range(15)]
    long = Part(Reader(), Pass((7,) * 14, (5,)))
    assert passes_of._length_of_pass([*short, long], False) == 2
    assert passes_of._length_of_pass([long], False) == 15
    header = Part(Reader(), Pass((), (1, 2, 3, 4)))
    assert passes_of._length_of_pass([*short, header], False) == 4
    # What a target feeds at once cannot be fed in parts, however much it is.
    long_header = Part(Reader(), Pass((), (1,) * 600))
    assert passes_of._length_of_pass([*short, long_header], False) == 600


def test_words_that_come_one_by_one_are_read_several_at_a_time(model, tokenizer):
    """What was predicted before is rolled back by a pass that only reads."""
    words = [word + " " for word in TEXT.split()]
    options = {"policy": ReadNWriteM(3, 2), "max_tokens_per_word": 2, "max_tokens": 24}
    batch = Sessions(model, tokenizer)
    session, said = batch.add(**options), []
    for word in words:
        session.push(word)
        said += [event for _, event in batch.events()]
    session.close()
    said += [event for _, event in batch.events()]
    assert said == run(model, tokenizer, words, **options)


# Who comes and goes


def test_a_session_can_leave_and_its_row_is_used_again(model, tokenizer):
    batch = Sessions(model, tokenizer, policy=WaitK(1), max_tokens=20)
    leaving, staying = batch.add(), batch.add()
    said = []
    for session in (leaving, staying):
        session.push(TEXT)
    for _ in range(4):
        said += [event for session, event in batch.step() if session is staying]
    batch.remove(leaving)
    assert leaving not in batch and staying in batch
    with pytest.raises(SessionClosedError, match="leaving its batch"):
        leaving.push("more")
    with pytest.raises(InvalidOptionError, match="not in this batch"):
        batch.remove(leaving)
    after = batch.add()
    after.push(TEXT[5:])
    later = []
    for session in (after, staying):
        session.close()
    for session, event in batch.events():
        (said if session is staying else later).append(event)
    assert said == run(model, tokenizer, TEXT, policy=WaitK(1), max_tokens=20)
    assert later == run(model, tokenizer, TEXT[5:], policy=WaitK(1), max_tokens=20)
    assert len(batch) == 0 and batch.step() is None


@pytest.mark.parametrize("what", ["sampler", "policy"])
def test_a_session_that_fails_takes_no_other_with_it(model, tokenizer, what):
    batch = Sessions(model, tokenizer, max_tokens=20)
    failing = batch.add(**{what: Stumbling()})
    whole = batch.add(policy=WaitK(2))
    said, errors = to_the_end(batch, failing, whole)
    assert said == run(model, tokenizer, TEXT, max_tokens=20)
    assert [error.session for error in errors] == [failing]
    assert isinstance(errors[0].__cause__, Stumble)
    with pytest.raises(SessionClosedError):
        list(failing.events())


def test_a_pass_that_fails_breaks_off_those_in_it(model, tokenizer, monkeypatch):
    batch = Sessions(model, tokenizer, policy=WaitK(2), max_tokens=24)
    sessions = [batch.add(), batch.add()]
    sessions[0].push(TEXT[:30])
    while batch.step() is not None:
        pass

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    sessions[0].close()
    with monkeypatch.context() as broken:
        broken.setattr(type(model), "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.step()
    with pytest.raises(SessionFailedError):
        batch.step()
    sessions[1].push(TEXT)
    sessions[1].close()
    events = [event for session, event in batch.events() if session is sessions[1]]
    assert events == run(model, tokenizer, TEXT)


def test_options_that_are_refused_leave_nothing_behind(model, tokenizer):
    batch = Sessions(model, tokenizer)
    with pytest.raises(InvalidOptionError):
        batch.add(max_tokens=0)
    assert len(batch) == 0 and batch.step() is None
    assert batch._batch._runner is None


def test_options_of_all_are_those_of_each_that_says_nothing_else(model, tokenizer):
    batch = Sessions(model, tokenizer, max_tokens=3, policy=WaitK(1))
    sessions = [batch.add(), batch.add(max_tokens=5)]
    for session in sessions:
        session.push(TEXT)
        session.close()
    ends = {s: e for s, e in batch.events() if isinstance(e, Finished)}
    assert [len(ends[s].token_ids) for s in sessions] == [3, 5]


def test_a_row_of_processors_serves_all_sessions(model, tokenizer):
    def always_five(tokens, logits):
        return (mx.arange(logits.shape[-1]) == 5)[None].astype(mx.float32)

    batch = Sessions(model, tokenizer, logits_processors=iter([always_five]), max_tokens=3)
    for session in [batch.add(), batch.add()]:
        session.push(TEXT)
        session.close()
    ends = [event.token_ids for _, event in batch.events() if isinstance(event, Finished)]
    assert ends == [(5, 5, 5)] * 2


def test_a_drafter_is_not_for_all(model, tokenizer):
    with pytest.raises(InvalidOptionError, match="serves one session"):
        Sessions(model, tokenizer, draft=NGramDrafter())
    batch = Sessions(model, tokenizer, draft="ngram")
    batch.add()
    batch.add(draft=NGramDrafter())


def test_sessions_begin_with_a_prefix_that_was_encoded_before(model, tokenizer, monkeypatch):
    prefix = SimulSession(model, tokenizer).encode_prefix()
    calls = counted(model, monkeypatch)
    batch = Sessions(model, tokenizer, policy=WaitK(2), max_tokens=24)
    sessions = [batch.add(prefix=prefix), batch.add(prefix=prefix)]
    batch.step()
    assert not calls
    for session in sessions:
        session.push(TEXT)
        session.close()
    said = {session: [] for session in sessions}
    for session, event in batch.events():
        said[session].append(event)
    assert list(said.values()) == [run(model, tokenizer, TEXT)] * 2


def test_a_session_of_a_batch_can_be_run_by_itself(model, tokenizer):
    batch = Sessions(model, tokenizer, policy=WaitK(2), max_tokens=24)
    first, second = batch.add(), batch.add()
    second.push(TEXT)
    said = first.feed(TEXT[:30])
    events = [event for session, event in batch.events() if session is first]
    assert not events
    said += first.feed(TEXT[30:]) + first.finish()
    assert said == run(model, tokenizer, TEXT)
    assert batch.step() is None and first not in batch


def test_memory_is_given_back_with_the_last(model, tokenizer):
    batch = Sessions(model, tokenizer, max_tokens=3)
    session = batch.add()
    session.push(TEXT)
    session.close()
    list(batch.events())
    assert batch._batch._runner is None
    assert not session._engine.caches
    assert isinstance(session._engine, StreamingEngine)


def test_what_was_saved_of_a_session_does_not_keep_the_batch(model, tokenizer):
    """A slice of a row would keep the rows of all."""
    batch = Sessions(model, tokenizer)
    sessions = [batch.add() for _ in range(8)]
    prefix = sessions[0].encode_prefix()
    held = sum(x.nbytes for layer in prefix.state.layers for x in layer)
    whole = sum(cache.storage.nbytes for cache in sessions[0]._engine.caches)
    assert held < whole / 8
    before = mx.get_active_memory()
    for session in sessions:
        batch.remove(session)
    assert before - mx.get_active_memory() >= whole - 2 * held
    # The first session's caches became those of all; it does not hold them any more.
    assert not sessions[0]._engine.model_caches
