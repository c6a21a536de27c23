"""Where a model looks: what is recorded is what the fused kernels used."""

from itertools import pairwise

import mlx.core as mx
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from tiny_models import MAIN, first_of, tiny_model

from mlx_simul import archs
from mlx_simul.engine import attention as attending
from mlx_simul.engine import make_engine
from mlx_simul.engine.attention import Recording, Watched, watchable_layers, watched
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass, Wanted

TYPES = (*MAIN, "gpt_oss", "gpt2", "gpt_neox", "cohere2", "lfm2")
SOURCE, TARGET = (5, 6, 7, 8, 9, 10, 11), (12, 13, 14, 15)


class Checked(Recording):
    """Also has the fused kernel attend to unit vectors, so that it gives its weights away."""

    n_checked = 0

    def note(self, layer, queries, keys, cache, scale, mask, sinks):
        super().note(layer, queries, keys, cache, scale, mask, sinks)
        of_layer = [
            (i, head)
            for i, view in enumerate(self.views)
            for head in view.heads
            if head[0] == layer
        ]
        whole = keys
        if not isinstance(keys, mx.array):
            whole = mx.dequantize(*keys, group_size=cache.group_size, bits=cache.bits)
        B, K, N, _ = whole.shape
        units = mx.broadcast_to(mx.eye(N), (B, K, N, N))
        told = {"sinks": sinks} if sinks is not None else {}
        weights = scaled_dot_product_attention(
            queries, whole, units, cache=None, scale=scale, mask=mask, **told
        )
        for i, head in of_layer:
            view = self.views[i]
            wanted = weights[view.stream, head[1], view.rows]
            got = self._weights[i, head]
            assert got.shape == wanted.shape
            assert mx.abs(got - wanted).max().item() < 1e-5
            total = got.sum(axis=-1)
            assert mx.all(total < 1 + 1e-5)
            assert sinks is not None or mx.all(total > 1 - 1e-5)
            Checked.n_checked += 1


def all_heads(model):
    return [(layer, head) for layer in watchable_layers(model) for head in (0, 1)]


def stream(model, heads, **options):
    """Evidence over a read, a fused pass, one with drafts and one with hidden source."""
    engine = make_engine(model, **options)
    engine.watch(heads)
    wanted = Wanted(probabilities=True, heads=tuple(heads))
    return [
        engine.run(Pass(SOURCE[:3], TARGET[:2], wanted=wanted)),
        engine.run(Pass(SOURCE[3:4], TARGET[2:], n_rewind=1, wanted=wanted)),
        engine.run(Pass(SOURCE[4:], TARGET[3:], draft_ids=(20, 21), wanted=wanted)),
    ]


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_recorded_is_what_the_kernel_used(model_type, monkeypatch):
    monkeypatch.setattr(attending, "Recording", Checked)
    model = tiny_model(first_of(model_type))
    for mode in archs.of(model).modes[:-1]:
        Checked.n_checked = 0
        start = {"target_start": 16} if mode == "group" else {}
        stream(model, all_heads(model), mode=mode, **start)
        assert Checked.n_checked >= 3 * len(all_heads(model)) > 0


def test_what_is_recorded_of_a_quantised_cache_is_too(monkeypatch):
    monkeypatch.setattr(attending, "Recording", Checked)
    model = tiny_model(first_of("qwen2", head_dim=32, hidden_size=128))
    stream(model, all_heads(model), kv_bits=8, kv_group_size=32)
    assert Checked.n_checked


def test_a_wrong_mask_is_told_apart(monkeypatch):
    """Negative control of the comparison."""
    monkeypatch.setattr(attending, "Recording", Checked)
    monkeypatch.setattr(attending, "_masked", lambda scores, seen: scores)
    model = tiny_model(first_of("qwen2"))
    with pytest.raises(AssertionError):
        stream(model, all_heads(model))


@pytest.mark.parametrize("mode", ["group", "reencode"])
def test_evidence_is_by_source_token_in_order_of_arrival(mode):
    model = tiny_model(first_of("qwen2"))
    replies = stream(model, [(0, 0), (1, 1)], mode=mode)
    n_read = 3
    for reply, n_new in zip(replies, (0, 1, 3), strict=True):
        n_read += n_new
        assert len(reply.evidence) == len(reply.token_ids)
        for one in reply.evidence:
            assert len(one.attention) == n_read
            assert 0 < sum(one.attention) < 1
            assert 0 < one.margin < one.probability < 1


def test_the_mirrored_buffer_is_turned_round():
    model = watched(tiny_model(first_of("qwen2")), [(0, 0)])
    request = Pass(SOURCE, TARGET[:2], wanted=Wanted(heads=((0, 0),)))
    in_order = make_engine(model, mode="reencode").run(request).evidence[0].attention
    mirrored = make_engine(model, target_start=len(SOURCE)).run(request).evidence[0].attention
    assert mirrored == pytest.approx(in_order, rel=1e-4)
    assert mirrored[::-1] != pytest.approx(in_order, rel=1e-2)


def test_hidden_source_has_no_attention():
    model = tiny_model(first_of("qwen2"))
    engine = make_engine(model)
    engine.watch([(0, 0)])
    request = Pass(SOURCE, TARGET[:1], n_hidden=3, wanted=Wanted(heads=((0, 0),)))
    assert len(engine.run(request).evidence[0].attention) == len(SOURCE) - 3


def test_watching_changes_nothing_else():
    model = tiny_model(first_of("llama"))
    before = stream_logits(model)
    kinds_before = [type(module) for module in model.modules()]
    copy = watched(watched(model, all_heads(model)), all_heads(model))
    kinds = {type(module) for module in copy.modules() if isinstance(module, Watched)}
    assert all(kind.__mro__.count(Watched) == 1 for kind in kinds) and kinds
    for one, other in zip(before, stream_logits(copy), strict=True):
        assert mx.array_equal(one, other)
    assert [type(module) for module in model.modules()] == kinds_before


def stream_logits(model):
    engine = make_engine(model)
    return [engine.read_and_write(SOURCE[a:b], (12 + a,)) for a, b in pairwise((0, 2, 5, 7))]


def test_forbidden_tokens_are_never_drawn():
    model = tiny_model(first_of("qwen2"))
    seen = []
    for _ in range(4):
        engine = make_engine(model)
        reply = engine.run(Pass(SOURCE, TARGET[:2], forbidden_ids=tuple(seen)))
        assert reply.token_ids[0] not in seen
        seen.append(reply.token_ids[0])


# Refusals


@pytest.mark.parametrize("model_type", ["mamba", "gemma2"])
def test_a_family_whose_attention_cannot_be_seen_says_so(model_type):
    model = tiny_model(first_of(model_type))
    assert watchable_layers(model) == []
    with pytest.raises(InvalidOptionError, match="cannot be seen"):
        make_engine(model).watch([(0, 0)])


def test_the_interleaved_mode_cannot_tell_source_from_target():
    with pytest.raises(InvalidOptionError, match="mode='group'"):
        make_engine(tiny_model(first_of("qwen2")), mode="interleaved").watch([(0, 0)])


@pytest.mark.parametrize("head", [(99, 0), (-1, 0), (0, 99), (0, -1)])
def test_heads_that_are_not_there_are_refused(head):
    model = tiny_model(first_of("qwen2"))
    with pytest.raises(InvalidOptionError, match=r"(?s)attention (layer|head).*numbered from 0"):
        stream(model, [head])
