"""Passes that carry a tree of drafts, and sessions that search with them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import TEXT, run, writes
from tiny_models import first_of, tiny_model

from mlx_simul import SimulSession, WaitK, archs
from mlx_simul.engine import make_engine
from mlx_simul.engine.base import Engine
from mlx_simul.engine.batch import Batch
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.beam_search import Beams
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import AlignAtt, Confidence, LocalAgreement
from mlx_simul.serving.sessions import Sessions

GROUPS = first_of("qwen2", vocab_size=1024)
UNFUSED = first_of("internlm2", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
WIDE = first_of("qwen2", head_dim=32, hidden_size=128)
FAMILIES = ["qwen2", "gemma3_text", "mistral", "llama4_text", "deepseek_v3", "internlm2"]
MODES = [
    pytest.param(variation, mode, id=f"{variation}-{mode}")
    for variation in (GROUPS, UNFUSED, HYBRID)
    for mode in archs.find(variation.model_type).modes
]
SHORT = {"max_tokens": 10, "max_tokens_per_word": 3, "max_target_source_ratio": 1.0}

#  11 ─┬─ 12 ─┬─ 13
#      │      └─ 14
#      └─ 15 ─── 16         and 17 ─── 18 ─── 19
TREE = Pass(
    (5, 6, 7),
    (8, 9),
    draft_ids=(11, 12, 13, 14, 15, 16, 17, 18, 19),
    draft_parents=(-1, 0, 1, 1, 0, 4, -1, 6, 7),
    n_candidates=6,
)


def began(engine):
    """An engine that holds some source and target, longer than any window."""
    engine.read([*range(20, 40)])
    engine.write([*range(40, 52)])
    return engine


def close(a, b):
    """Whether two replies name the same candidates, up to rounding."""
    return len(a) == len(b) and all(
        [token for token, _ in x] == [token for token, _ in y]
        and [odds for _, odds in x] == pytest.approx([odds for _, odds in y], abs=1e-4)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in archs.registered_types()])
@pytest.mark.parametrize("n_hidden", [0, 2])
def test_a_tree_is_answered_as_its_branches_one_by_one(family, n_hidden):
    model = tiny_model(first_of(family))
    request = replace(TREE, n_hidden=n_hidden)
    tree = began(make_engine(model, mode="group"))
    alone = began(make_engine(model, mode="group"))
    reply, wanted = tree.run(request), Engine.run(alone, request)
    assert close(reply.candidates, wanted.candidates)
    assert len(reply.candidates) == 4
    # Nothing of the tree stays.
    after = Pass((), (21, 22), n_candidates=6)
    assert tree.target_tokens == alone.target_tokens == 14
    assert close(tree.run(after).candidates, alone.run(after).candidates)
    # Negative control: other branches have other candidates, and a token sees its own only.
    chain = replace(request, draft_parents=tuple(range(-1, 8)))
    other = began(make_engine(model, mode="group")).run(chain)
    assert not close(other.candidates[-1:], wanted.candidates[-1:])
    if archs.of(model).fuses_in(model):
        assert reply.n_passes < wanted.n_passes


def test_quantised_caches_hold_trees_too():
    model = tiny_model(WIDE)
    engines = [
        began(make_engine(model, mode="group", kv_bits=8, kv_group_size=32)) for _ in range(2)
    ]
    reply, wanted = engines[0].run(TREE), Engine.run(engines[1], TREE)
    assert close(reply.candidates, wanted.candidates)


def test_streams_that_share_a_pass_carry_trees_as_alone():
    model = tiny_model(GROUPS)
    batch, engines = Batch(model), [make_engine(model, mode="group") for _ in range(3)]
    for engine in engines:
        batch.join(engine)
    alone = [make_engine(model, mode="group") for _ in engines]
    requests = [
        TREE,
        replace(TREE, source_ids=(), draft_ids=(31, 32), draft_parents=(-1, -1)),
        Pass((3,), (4,)),
    ]
    for i, engine in enumerate([*engines, *alone]):
        engine.read([*range(20, 24 + 5 * (i % 3))])
        engine.write([*range(40, 43 + i % 3)])
    asked, replies = list(zip(engines, requests, strict=True)), {}
    while asked:
        outcomes = batch.run(asked)
        rest = []
        for (engine, _), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Pass):
                rest.append((engine, outcome))
            else:
                replies[engine] = outcome
        asked = rest
    for shared, single, request in zip(engines, alone, requests, strict=True):
        wanted = single.run(request)
        assert close(replies[shared].candidates, wanted.candidates)
        assert replies[shared].token_ids == wanted.token_ids


@pytest.mark.parametrize(("variation", "mode"), MODES)
@settings(max_examples=2)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=4), k=st.sampled_from([1, 3, 1000]))
def test_any_chunks_give_the_same_events(variation, mode, tokenizer, cuts, k):
    edges = [0, *sorted(cuts), len(TEXT)]
    options = {"policy": WaitK(k), "mode": mode, "num_beams": 3, **SHORT}
    model = tiny_model(variation)
    events = run(model, tokenizer, [TEXT[a:b] for a, b in pairwise(edges)], **options)
    assert events == run(model, tokenizer, TEXT, **options)
    assert writes(events)


@pytest.mark.parametrize(("variation", "mode"), MODES)
@pytest.mark.parametrize("policy", [WaitK(2), Confidence(0.02), LocalAgreement(2)], ids=str)
def test_one_beam_is_greedy(variation, mode, policy, tokenizer, monkeypatch):
    """Searched for, too, if length counts for nothing."""
    options = {"policy": policy, "mode": mode, **SHORT}
    model = tiny_model(variation)
    greedy = run(model, tokenizer, TEXT, **options)
    assert run(model, tokenizer, TEXT, num_beams=1, **options) == greedy
    assert run(model, tokenizer, TEXT, num_beams=1, **options)[-1].n_passes == greedy[-1].n_passes
    monkeypatch.setattr("mlx_simul.stream.turn._beams_of", lambda _: Beams(1, 0.0))
    searched = run(model, tokenizer, TEXT, **options)
    assert [event.token for event in writes(searched)] == [event.token for event in writes(greedy)]
    assert searched[-1].delays == greedy[-1].delays
    monkeypatch.setattr("mlx_simul.stream.turn._beams_of", lambda _: Beams(4, 2.0))
    other = run(model, tokenizer, TEXT, **options)
    assert other[-1].n_passes != searched[-1].n_passes


def test_in_a_batch_sessions_with_and_without_beams_write_as_alone(tokenizer):
    model = tiny_model(GROUPS)
    each = [
        {"num_beams": 3, "policy": WaitK(1)},
        {"policy": WaitK(2)},
        {"num_beams": 2, "policy": WaitK(1000), "length_penalty": 0.5},
        {"num_beams": 4, "policy": Confidence(0.02), "repetition_penalty": 1.3},
    ]
    sessions = Sessions(model, tokenizer, **SHORT)
    members = {sessions.add(**options): options for options in each}
    for session in members:
        assert sessions.is_shared(session)
        session.push(TEXT)
        session.close()
    said = {session: [] for session in members}
    for session, event in sessions.events():
        said[session].append(event)
    for session, options in members.items():
        assert said[session] == run(model, tokenizer, TEXT, **SHORT, **options)


def test_what_does_not_go_with_beams_is_refused_by_name(tokenizer):
    model = tiny_model(GROUPS)
    for options, words in (
        ({"temp": 0.5}, "temp"),
        ({"sampler": len}, "a sampler"),
        ({"gpe_compat": True}, "gpe_compat"),
        ({"draft": "ngram"}, "draft"),
        ({"policy": AlignAtt(1, heads=((0, 0),))}, "goes by attention"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 65}, "at most 64"),
        ({"num_beams": 1, "length_penalty": 2.0}, "length_penalty=2.0 only affects"),
        ({"length_penalty": float("nan")}, "length_penalty"),
    ):
        with pytest.raises(InvalidOptionError, match=words):
            SimulSession(model, tokenizer, **{"num_beams": 2, **options})
    with pytest.raises(InvalidOptionError, match="no evidence to observe"):
        SimulSession(model, tokenizer, num_beams=2).observe(print)
