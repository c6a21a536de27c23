"""Fused passes and drafts: the same streams in fewer passes (SPEC sections 1 to 3)."""

from collections import Counter
from itertools import pairwise

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_sampler
from streams import TEXT, run, writes
from tiny_models import first_of, make_engine_without_drafts, tiny_model

from mlx_simul import SimulSession, WaitK, archs
from mlx_simul.archs.base import let_fuse
from mlx_simul.archs.surgery import Surgery, copy_of
from mlx_simul.cache.positions import FixedStart, FusedRope
from mlx_simul.engine import StreamingEngine, make_engine
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass

GROUPS = first_of("qwen2", vocab_size=1024)
UNFUSED = first_of("internlm2", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
MODES = [
    pytest.param(variation, mode, id=f"{variation}-{mode}")
    for variation in (GROUPS, UNFUSED, HYBRID)
    for mode in archs.find(variation.model_type).modes
]


def plain(monkeypatch):
    """Let nothing be fused and nothing be read ahead."""
    monkeypatch.setattr("mlx_simul.engine.costs.MAX_FUSED_TOKENS", 0)
    monkeypatch.setattr("mlx_simul.engine.costs.READ_AHEAD_TOKENS", 0)


@pytest.mark.parametrize(("variation", "mode"), MODES)
@settings(max_examples=6)
@given(
    k=st.integers(1, 7),
    per_word=st.sampled_from([1, 2, 50]),
    cuts=st.lists(st.integers(0, len(TEXT)), max_size=5),
    early_eos=st.sampled_from(["read", "stop"]),
)
def test_events_are_those_of_plain_passes(variation, mode, tokenizer, k, per_word, cuts, early_eos):
    model = tiny_model(variation)
    edges = [0, *sorted(cuts), len(TEXT)]
    options = {
        "policy": WaitK(k),
        "mode": mode,
        "max_tokens": 16,
        "max_tokens_per_word": per_word,
        "early_eos": early_eos,
    }
    chunks = [TEXT[a:b] for a, b in pairwise(edges)]
    fused = run(model, tokenizer, chunks, **options)
    with pytest.MonkeyPatch.context() as monkeypatch:
        plain(monkeypatch)
        options["make_engine"] = make_engine_without_drafts
        assert run(model, tokenizer, TEXT, **options) == fused


def test_each_way_takes_fewer_passes(model, tokenizer, monkeypatch):
    """And the law above compares what differs."""

    def n_passes(**options):
        return run(model, tokenizer, TEXT, max_tokens=60, **options)[-1].n_passes

    both = n_passes()
    fused = n_passes(make_engine=make_engine_without_drafts)
    plain(monkeypatch)
    assert both < fused < n_passes(make_engine=make_engine_without_drafts)


def test_a_family_that_cannot_fuse_takes_two_passes(tokenizer):
    for variation, expected in ((GROUPS, 1), (UNFUSED, 2)):
        engine = make_engine(tiny_model(variation))
        engine.run(Pass((5, 6, 7), (8,)))
        reply = engine.run(Pass((9,), (8,), n_rewind=1))
        assert (len(reply.token_ids), reply.n_passes) == (1, expected)


@pytest.mark.parametrize(("variation", "mode"), MODES)
def test_right_drafts_are_kept_and_wrong_ones_leave_no_trace(variation, mode):
    model = tiny_model(variation)
    alone = make_engine(model, mode=mode)
    alone.run(Pass((5, 6, 7), (8, 9)))
    wanted = [alone.predict([10], [])]
    for _ in range(4):
        wanted.append(alone.predict(wanted[-1:], []))
    for n_right in (0, 1, 3):
        drafts = [*wanted[:n_right], *((t + 1) % 90 for t in wanted[n_right:3])]
        engine = make_engine(model, mode=mode)
        engine.run(Pass((5, 6, 7), (8, 9)))
        reply = engine.run(Pass((), (10,), draft_ids=tuple(drafts)))
        n_kept = n_right if engine.takes_drafts else 0
        assert list(reply.token_ids) == wanted[: n_kept + 1]
        assert engine.target_tokens == 3 + n_kept
        assert engine.predict(wanted[n_kept : n_kept + 1], []) == wanted[n_kept + 1]


def test_only_caches_that_can_be_cut_short_take_drafts():
    assert make_engine(tiny_model(GROUPS), mode="reencode").takes_drafts
    assert not make_engine(tiny_model(HYBRID), mode="reencode").takes_drafts


# Sampling


def frequencies(draws):
    counts = Counter(draws)
    return {token: n / len(draws) for token, n in counts.items()}


class Believing(StreamingEngine):
    """Takes every draft that is not impossible."""

    def _draw(self, logits, written, drafts, seed):
        return [*drafts, self._draw_one(logits[-1:], written, drafts)]


@pytest.mark.parametrize("kind", [StreamingEngine, Believing])
def test_sampling_is_as_without_drafts(kind):
    """Whatever the draft was, what is drawn follows the rows' own distributions."""
    mx.random.seed(3)
    rows = mx.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    drafted = mx.array([[0.4, 0.3, 0.2, 0.1]])
    engine = kind(tiny_model(GROUPS), FixedStart(3), sampler=make_sampler(temp=1.0))
    n_draws, first, second = 3000, [], []
    for draft in mx.random.categorical(mx.log(drafted), num_samples=n_draws)[0].tolist():
        drawn = engine._draw(mx.log(rows), [], [draft], None)
        first.append(drawn[0])
        second += drawn[1:]
    got = frequencies(first)
    is_right = all(abs(got[t] - rows[0, t].item()) < 0.035 for t in range(4))
    assert is_right == (kind is StreamingEngine)
    assert abs(frequencies(second)[0] - 0.7) < 0.06
    if is_right:
        assert len(second) > n_draws / 10


def test_processors_see_no_draft_that_is_rejected(model, tokenizer):
    seen = []

    def record(tokens, logits):
        seen.append(tuple(tokens.tolist()))
        return logits

    finished = run(model, tokenizer, TEXT, logits_processors=[record], max_tokens=40)[-1]
    assert all(tokens == finished.token_ids[: len(tokens)] for tokens in seen)
    assert len(seen) > finished.n_passes - 5


# RoPE


def test_a_rope_that_can_fuse_does_as_before_with_plain_offsets():
    rope = mx.random.normal((1, 2, 3, 8))
    for variation in (GROUPS, first_of("llama"), first_of("gemma3_text")):
        model = copy_of(tiny_model(variation))
        architecture, surgery = archs.of(model), Surgery(model)
        for rope_module in architecture.ropes(model):
            rope_module.__class__ = type(rope_module).__mro__[2]
        before = [r(rope, offset=5) for r in architecture.ropes(model)]
        let_fuse(surgery, model, architecture.ropes(model))
        let_fuse(surgery, model, architecture.ropes(model))
        for rope_module, wanted in zip(architecture.ropes(model), before, strict=True):
            assert isinstance(rope_module, FusedRope)
            assert mx.array_equal(rope_module(rope, offset=5), wanted)
            assert type(rope_module).__mro__.count(FusedRope) == 1


def test_a_rope_that_is_a_function_cannot_be_taught():
    with pytest.raises(InvalidOptionError, match="fuses=True"):
        model = copy_of(tiny_model(GROUPS))
        let_fuse(Surgery(model), model, [lambda keys, offset: keys])


# A live session


def test_what_is_read_ahead_of_a_word_is_encoded_while_nothing_else_is_to_do(model, tokenizer):
    session = SimulSession(model, tokenizer, policy=WaitK(3))
    session.feed("")
    n_prefix = session._engine.source_tokens
    assert n_prefix > 0
    session.feed("one two ")
    assert session._engine.source_tokens > n_prefix
    assert writes(session.feed("three four "))
