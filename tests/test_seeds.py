"""One seed a session: its draws are its own, wherever and beside whatever it runs."""

from collections import Counter
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_sampler
from streams import TEXT, run, writes
from tiny_models import first_of, tiny_model

import mlx_simul
from mlx_simul import Sessions, SimulSession, archs
from mlx_simul.engine import dice, make_engine
from mlx_simul.errors import InvalidOptionError, SavedSessionError
from mlx_simul.options import SessionOptions

MODEL = first_of("qwen2", vocab_size=1024)
SMALLER = first_of("llama", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
TALK = "I am here. Where are you now? We will see. It is late, so goodbye."
HOT = {"temp": 1.3, "max_tokens": 20, "max_tokens_per_word": 3}
TURNS = {**HOT, "turns": "sentence", "instruction": "Translate", "frame": "few-shot"}
WAYS = [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"xtc_probability": 0.5, "top_k": 50}]
quick = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tokens_of(events):
    return [write.token for write in writes(events)]


def random_state():
    return [part.tolist() for part in mx.random.state]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_seed_alone_decides_and_mlxs_random_state_stays(tokenizer, way):
    model = tiny_model(MODEL)
    options = {**HOT, **way}
    mx.random.seed(5)
    before = random_state()
    first = run(model, tokenizer, TEXT, seed=3, **options)
    assert random_state() == before
    mx.random.seed(6)
    assert run(model, tokenizer, TEXT, seed=3, **options) == first
    # Negative controls: another seed, and none.
    assert run(model, tokenizer, TEXT, seed=4, **options) != first
    run(model, tokenizer, TEXT, **options)
    assert random_state() != [[0, 6]]


@quick
@given(
    cuts=st.lists(st.integers(0, len(TEXT)), max_size=6),
    seed=st.integers(0, 2**64 - 1),
    policy=st.sampled_from(["wait-k:1", "wait-k:3", "local-agreement:2", "whole"]),
    draft=st.sampled_from([None, "ngram", "smaller"]),
)
def test_chunks_and_drafts_change_no_draw(tokenizer, cuts, seed, policy, draft):
    model = tiny_model(MODEL)
    chunks = [TEXT[a:b] for a, b in pairwise([0, *sorted(cuts), len(TEXT)])]
    options = {**HOT, "policy": policy, "seed": seed}
    if draft == "smaller":
        draft = tiny_model(SMALLER), tokenizer
    wanted = run(model, tokenizer, TEXT, **options)
    assert run(model, tokenizer, chunks, draft=draft, **options) == wanted


@pytest.mark.parametrize("variation", [MODEL, HYBRID], ids=["plain", "hybrid"])
def test_so_it_is_in_every_mode(tokenizer, variation):
    model = tiny_model(variation)
    for mode in archs.of(model).modes:
        options = {**HOT, "mode": mode, "seed": 1}
        wanted = run(model, tokenizer, TEXT, **options)
        mx.random.seed(9)
        assert run(model, tokenizer, [TEXT[:30], TEXT[30:]], **options) == wanted


def test_in_a_batch_each_draws_as_it_would_alone(tokenizer):
    model = tiny_model(MODEL)
    batch = Sessions(model, tokenizer)
    plans = [(TEXT, 1), (TEXT, 1), (TEXT, 2), (TEXT[20:], 1)]
    events = {batch.add(**HOT, policy="wait-k:2", seed=seed): [] for _, seed in plans}
    for session, (text, _) in zip(events, plans, strict=True):
        session.push(text)
        session.close()
    for session, event in batch.events():
        events[session].append(event)
    said = list(events.values())
    assert said[0] == said[1] != said[2]
    for there, (text, seed) in zip(said, plans, strict=True):
        assert there == run(model, tokenizer, text, **HOT, seed=seed)


def test_side_by_side_they_do_not_disturb_each_other(tokenizer):
    model = tiny_model(MODEL)
    wanted = run(model, tokenizer, TEXT, **HOT, seed=1)
    sessions = [SimulSession(model, tokenizer, policy="wait-k:2", **HOT, seed=1) for _ in "ab"]
    said = [[], []]
    for word in TEXT.split(" "):
        for session, events in zip(sessions, said, strict=True):
            events += session.feed(f"{word} ")
    for session, events in zip(sessions, said, strict=True):
        assert [*events, *session.finish()] == wanted


def test_turns_draw_for_themselves(tokenizer):
    """Two turns of one text differ, for each has its own place in the stream."""
    session = SimulSession(tiny_model(MODEL), tokenizer, **TURNS, seed=1)
    events = session.feed("I am here. I am here. ") + session.finish()
    ends = [event for event in events if isinstance(event, mlx_simul.TurnEnd)]
    assert len({end.token_ids for end in ends}) == len(ends) == 2


@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("at", [15, 33])
def test_restored_or_resumed_it_draws_as_if_undisturbed(tokenizer, tmp_path, seed, at):
    model = tiny_model(MODEL)
    options = {**TURNS, "seed": seed}

    def rest(session, state):
        mx.random.seed(state)
        events = session.feed(TALK[at:]) + session.finish()
        return [end.token_ids for end in events if isinstance(end, mlx_simul.TurnEnd)]

    session = SimulSession(model, tokenizer, **options)
    begun = [e for e in session.feed(TALK[:at]) if isinstance(e, mlx_simul.TurnEnd)]
    session.save(tmp_path / "saved")
    journalled = SimulSession(model, tokenizer, journal=tmp_path / "journal", **options)
    journalled.feed(TALK[:at])
    journalled.break_off()
    wanted = rest(session, 1)
    restored = rest(SimulSession.restore(model, tokenizer, tmp_path / "saved", **options), 2)
    resumed_session = SimulSession(model, tokenizer, journal=tmp_path / "journal", **options)
    resumed = rest(resumed_session, 3)
    assert resumed_session.resumed.turns == len(begun)
    if seed is None:  # negative control: draws that come from MLX's random state
        assert wanted not in (restored, resumed)
    else:
        assert restored == resumed == wanted


def test_the_seed_of_a_file_has_to_be_given_again(tokenizer, tmp_path):
    model = tiny_model(MODEL)
    SimulSession(model, tokenizer, seed=1, **HOT).save(tmp_path / "saved")
    with pytest.raises(SavedSessionError, match="seed=1"):
        SimulSession.restore(model, tokenizer, tmp_path / "saved", seed=2, **HOT)


def test_places_draw_from_the_models_distribution_and_from_numbers_of_their_own():
    """Over many seeds, at two places, from one row of logits."""
    model = tiny_model(MODEL)
    engine = make_engine(model, sampler=make_sampler(1.0))
    row = mx.zeros((1, 1024))
    row[:, 3:7] = mx.array([[20.0, 20.7, 21.4, 18.0]])
    odds = np.array(mx.softmax(row, axis=-1))[0, 3:7]
    drawn = [
        (engine.draw(row, [0] * 4, (), seed)[0], engine.draw(row, [0] * 5, (), seed)[0])
        for seed in range(1500)
    ]
    for place in (0, 1):
        counts = Counter(pair[place] for pair in drawn)
        expected = odds * len(drawn)
        seen = np.array([counts[token] for token in range(3, 7)])
        assert ((seen - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, p = 0.001
    alike = sum(a == b for a, b in drawn) / len(drawn)
    assert alike == pytest.approx((odds**2).sum(), abs=0.05)


def test_one_place_for_all_is_told_apart(monkeypatch, tokenizer):
    """Negative control: with one number for every place the law above would see pairs alike."""
    monkeypatch.setattr("mlx_simul.engine.base.dice_of", lambda seed, place: dice.dice_of(seed, 0))
    engine = make_engine(tiny_model(MODEL), sampler=make_sampler(1.0))
    row = mx.random.normal((1, 1024))
    for seed in range(20):
        assert engine.draw(row, [0], (), seed) == engine.draw(row, [0, 0], (), seed)


def test_a_users_sampler_draws_from_the_seed_too(tokenizer):
    model = tiny_model(MODEL)
    options = {"max_tokens": 20, "max_tokens_per_word": 3}
    given = run(model, tokenizer, TEXT, sampler=make_sampler(1.3), seed=3, **options)
    assert given == run(model, tokenizer, TEXT, seed=3, **HOT)


@pytest.mark.parametrize("way", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}], ids=str)
def test_the_narrowest_choice_is_greedy(tokenizer, way):
    model = tiny_model(MODEL)
    options = {"max_tokens": 20, "max_tokens_per_word": 3}
    greedy = tokens_of(run(model, tokenizer, TEXT, **options))
    assert tokens_of(run(model, tokenizer, TEXT, seed=1, **HOT, **way)) == greedy
    assert tokens_of(run(model, tokenizer, TEXT, seed=1, **HOT)) != greedy


def test_xtc_leaves_out_the_likeliest_of_its_threshold(tokenizer):
    model = tiny_model(MODEL)
    options = {**HOT, "temp": 0.01, "xtc_threshold": 0.0}
    greedy = run(model, tokenizer, TEXT, seed=1, xtc_probability=0.0, **options)
    excluding = run(model, tokenizer, TEXT, seed=1, xtc_probability=1.0, **options)
    assert tokens_of(greedy)[:1] != tokens_of(excluding)[:1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**64}, "less than"),
        ({"top_k": 3}, "nothing that top_k could change"),
        ({"temp": 1.0, "top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"temp": 1.0, "xtc_threshold": 0.6}, "xtc_threshold must be a number from 0 to 0.5"),
    ],
)
def test_what_will_not_do_is_refused(given, says):
    with pytest.raises(InvalidOptionError, match=says):
        SessionOptions.of(**given)


def test_more_tokens_than_there_are_is_refused(tokenizer):
    with pytest.raises(InvalidOptionError, match="less than the 1024 tokens"):
        SimulSession(tiny_model(MODEL), tokenizer, temp=1.0, top_k=1024)
