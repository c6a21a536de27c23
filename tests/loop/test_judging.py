"""Sessions under policies that judge: with real passes, in every mode that can."""

from itertools import pairwise

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import TEXT, run, writes
from tiny_models import first_of, make_engine_without_drafts, tiny_model

from mlx_simul import SimulSession, WaitK, Write, archs
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.policies import (
    AlignAtt,
    Confidence,
    HoldN,
    LocalAgreement,
    Needs,
    Shown,
    WaitToken,
)
from mlx_simul.text.prompts import StreamingDataPreparator

HEADS = ((0, 0), (1, 1))
POLICIES = [
    LocalAgreement(2),
    HoldN(1),
    AlignAtt(1, heads=HEADS),
    Confidence(0.02),
    Shown(WaitK(2), HEADS),
]
GROUPS = first_of("qwen2", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
SHORT = {"max_tokens": 10, "max_target_source_ratio": 1.0, "max_tokens_per_word": 2}


@pytest.mark.parametrize("mode", ["group", "reencode"])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=2)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=5))
def test_any_chunks_give_the_same_events(policy, mode, tokenizer, cuts):
    edges = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[a:b] for a, b in pairwise(edges)]
    options = {"policy": policy, "mode": mode, **SHORT}
    model = tiny_model(GROUPS)
    events = run(model, tokenizer, chunks, **options)
    assert events == run(model, tokenizer, TEXT, **options)
    assert writes(events)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_drafts_change_nothing_but_the_number_of_passes(policy, tokenizer):
    model = tiny_model(GROUPS)
    drafted = run(model, tokenizer, TEXT, policy=policy, **SHORT)
    options = {"make_engine": make_engine_without_drafts, **SHORT}
    plain = run(model, tokenizer, TEXT, policy=policy, **options)
    assert drafted == plain
    assert drafted[-1].n_passes <= plain[-1].n_passes


@pytest.mark.parametrize("policy", [LocalAgreement(2), Confidence(0.02)], ids=str)
@pytest.mark.parametrize("mode", archs.find("lfm2").modes)
def test_models_with_a_state_take_those_that_need_no_attention(policy, mode, tokenizer):
    events = run(tiny_model(HYBRID), tokenizer, TEXT, policy=policy, mode=mode, **SHORT)
    assert writes(events)


def test_shown_beside_it_a_policy_decides_as_alone(tokenizer):
    """Attention that is looked at changes no event."""
    for policy in (WaitK(2), LocalAgreement(2), Confidence(0.02)):
        model = tiny_model(GROUPS)
        alone = run(model, tokenizer, TEXT, policy=policy, **SHORT)
        assert run(model, tokenizer, TEXT, policy=Shown(policy, HEADS), **SHORT) == alone


def never_again(tokens, logits):
    """A logits processor that forbids the newest token."""
    newest = tokens[-1:].tolist()
    return mx.where(mx.arange(logits.shape[-1]) == newest[0], -mx.inf, logits) if newest else logits


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_logits_processors_see_the_newest_token(policy, tokenizer):
    options = {"max_tokens": 24, "policy": policy, "logits_processors": [never_again]}
    tokens = run(tiny_model(GROUPS), tokenizer, TEXT, **options)[-1].token_ids
    assert len(tokens) == 24
    assert all(a != b for a, b in pairwise(tokens))


def test_each_written_word_can_be_observed(tokenizer):
    seen = []
    session = SimulSession(tiny_model(GROUPS), tokenizer, policy=Shown(WaitK(2), HEADS), **SHORT)
    session.observe(seen.append)
    session.push(TEXT)
    finished = session.finish()[-1]
    tokens = [token for word in seen for token in word.tokens]
    # The last one may be cut by a limit.
    assert tokens == list(finished.token_ids)[: len(tokens)]
    assert len(seen) > 2
    for word, delay in zip(seen, finished.delays, strict=True):
        assert len(word.attention) == delay
        assert 0 < sum(word.attention) < 1
        assert len(word.probabilities) == len(word.margins) == len(word.tokens)


def test_who_observes_does_so_from_the_beginning(tokenizer):
    session = SimulSession(tiny_model(GROUPS), tokenizer, policy=Shown(WaitK(2), HEADS), **SHORT)
    session.encode_prefix()
    session.observe(print)
    session.push(TEXT)
    session.observe(lambda word: None)
    for event in session.events():
        if isinstance(event, Write):
            break
    with pytest.raises(SessionClosedError, match="before feeding"):
        session.observe(print)
    assert session.finish()[-1].target_text


def test_a_policy_that_goes_by_counts_has_nothing_to_observe(tokenizer):
    session = SimulSession(tiny_model(GROUPS), tokenizer, policy=WaitK(2))
    with pytest.raises(InvalidOptionError, match="Shown"):
        session.observe(print)


# What cannot be met


def test_heads_come_from_the_checkpoint(tokenizer, monkeypatch):
    model = tiny_model(GROUPS)
    with pytest.raises(InvalidOptionError, match="mlx-simul calibrate"):
        SimulSession(model, tokenizer, policy=AlignAtt(1))
    heads = ((0, 1), (1, 0))
    monkeypatch.setattr(
        model, "streaming_config", StreamingConfig(alignment_heads=heads), raising=False
    )
    events = run(model, tokenizer, TEXT, policy=AlignAtt(1), **SHORT)
    assert events == run(model, tokenizer, TEXT, policy=AlignAtt(1, heads=heads), **SHORT)


def test_a_wait_token_must_be_in_the_vocabulary(tokenizer):
    model = tiny_model(GROUPS)
    with pytest.raises(InvalidOptionError, match="no token '<WAIT>'"):
        SimulSession(model, tokenizer, policy=WaitToken())
    token = next(iter(tokenizer.get_vocab()))
    assert run(model, tokenizer, TEXT, policy=WaitToken(token), **SHORT)[-1].source_words


@pytest.mark.parametrize("judged", [-1, 2, 1.0, None])
def test_a_judgement_that_is_none_is_refused(tokenizer, judged):
    class Odd(Confidence):
        def judge(self, progress, proposal, memory):
            return judged, memory

    with pytest.raises(InvalidOptionError, match=r"Odd.* judged"):
        run(tiny_model(GROUPS), tokenizer, TEXT, policy=Odd(0.1), **SHORT)


def test_what_a_policy_needs_is_checked():
    with pytest.raises(InvalidOptionError, match="lookahead_words"):
        Needs(lookahead_words=-1)


def test_reference_mode_has_no_such_policy(tokenizer):
    with pytest.raises(InvalidOptionError, match="wait-k only"):
        SimulSession(tiny_model(GROUPS), tokenizer, policy=LocalAgreement(2), gpe_compat=True)


@pytest.mark.parametrize("policy", [HoldN(1), LocalAgreement(2), Confidence(0.02)], ids=repr)
def test_forbidden_tokens_are_not_proposed_either(model, tokenizer, policy, monkeypatch):
    def written(forbidden_ids):
        of_the_prompt = property(lambda prompt: forbidden_ids, lambda prompt, ids: None)
        monkeypatch.setattr(StreamingDataPreparator, "forbidden_ids", of_the_prompt, raising=False)
        return run(model, tokenizer, TEXT, policy=policy, max_tokens=12)[-1].token_ids

    forbidden = tuple(written(()))
    assert forbidden and not set(written(forbidden)) & set(forbidden)
