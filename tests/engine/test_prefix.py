"""A prefix encoded once is as good as one encoded for each session, and is never written to."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import TEXT, run
from tiny_models import first_of, tiny_model

from mlx_simul import SimulSession, WaitK, archs
from mlx_simul.errors import InvalidOptionError, SessionClosedError

GROUPS = first_of("qwen2", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
SETTINGS = [
    pytest.param(variation, {"mode": mode}, id=f"{variation}-{mode}")
    for variation in (GROUPS, HYBRID)
    for mode in archs.find(variation.model_type).modes
] + [
    pytest.param(
        first_of("qwen2", vocab_size=1024, head_dim=32, hidden_size=128),
        {"kv_bits": 8, "kv_group_size": 32},
        id="quantised",
    )
]
ALIKE = {"instruction": "Say it in French, in short words and without haste."}


def encoded(model, tokenizer, **options):
    return SimulSession(model, tokenizer, **options).encode_prefix()


@pytest.mark.parametrize(("variation", "options"), SETTINGS)
def test_sessions_that_share_a_prefix_are_as_if_alone(variation, options, tokenizer):
    model, options = tiny_model(variation), {**ALIKE, **options}
    alone = run(model, tokenizer, TEXT, **options)
    prefix = encoded(model, tokenizer, **options)
    for _ in range(2):
        assert run(model, tokenizer, TEXT, prefix=prefix, **options) == alone


@settings(max_examples=8)
@given(turns=st.lists(st.booleans(), max_size=40))
def test_sessions_that_take_turns_do_not_disturb_each_other(turns, tokenizer):
    model = tiny_model(GROUPS)
    options = {**ALIKE, "policy": WaitK(2), "max_tokens": 12}
    prefix = encoded(model, tokenizer, **options)
    texts = (TEXT, TEXT[::-1])
    sessions = [SimulSession(model, tokenizer, prefix=prefix, **options) for _ in texts]
    events = [[], []]
    words = [iter(text.split()) for text in texts]
    for turn in turns:
        events[turn] += sessions[turn].feed(f"{next(words[turn], '')} ")
    for i, session in enumerate(sessions):
        for word in words[i]:
            events[i] += session.feed(f"{word} ")
        events[i] += session.finish()
        assert events[i] == run(model, tokenizer, texts[i], **options)


def test_a_prefix_is_not_encoded_again(tokenizer):
    model = tiny_model(GROUPS)
    prefix = encoded(model, tokenizer, **ALIKE)
    session = SimulSession(model, tokenizer, prefix=prefix, **ALIKE)
    session.feed("")
    assert session._engine.n_passes == 0
    assert session._engine.source_tokens == len(prefix.token_ids)


def test_another_prefix_would_be_felt(tokenizer):
    """Negative control: the state is what the session goes on from."""
    model = tiny_model(GROUPS)
    own, other = (encoded(model, tokenizer, instruction=text) for text in ("Hush", "Sing"))
    wrong = replace(own, state=other.state)
    events = [
        run(model, tokenizer, TEXT, instruction="Hush", prefix=prefix) for prefix in (own, wrong)
    ]
    assert events[0] != events[1]


def test_a_prefix_that_does_not_fit_is_refused(tokenizer):
    model = tiny_model(GROUPS)
    prefix = encoded(model, tokenizer, **ALIKE)
    with pytest.raises(InvalidOptionError, match="same instruction"):
        SimulSession(model, tokenizer, prefix=prefix, instruction="Another one")
    with pytest.raises(InvalidOptionError, match="another setting"):
        SimulSession(model, tokenizer, prefix=prefix, mode="reencode", **ALIKE)
    with pytest.raises(InvalidOptionError, match="another model"):
        SimulSession(tiny_model(HYBRID), tokenizer, prefix=prefix, **ALIKE)


def test_a_session_under_way_has_no_prefix_to_give(tokenizer):
    session = SimulSession(tiny_model(GROUPS), tokenizer, **ALIKE)
    session.feed("one two ")
    with pytest.raises(SessionClosedError, match="before feeding"):
        session.encode_prefix()
