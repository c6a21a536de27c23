"""Quantised keys and values: the same laws, an error that the bits explain, and less memory."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import TEXT, run, writes
from tiny_configs import full_config
from tiny_models import MAIN, first_of, fresh_model, tiny_model
from without_metal import replace_kernels

from mlx_simul import archs
from mlx_simul.archs.base import KVBits
from mlx_simul.cache import DualStreamingCache, LayerCache, QuantizedLayerCache
from mlx_simul.cache.positions import FixedStart, FollowStart
from mlx_simul.engine import StreamingEngine, make_engine
from mlx_simul.errors import InvalidOptionError
from mlx_simul.testing import LAWS, engine_with, relative_error

WIDE = {"head_dim": 32, "hidden_size": 128}
# What two ways to one place differ by: nothing, where both quantise the same numbers; and what the
# bits take away, where one way quantises and the other does not, or does so once more.
EXACT = {"any_chunking", "any_target_chunking", "unread_source_changes_nothing"}
EXACT |= {"target_changes_no_source", "restored_state_gives_same_logits"}
EXACT |= {"roll_back_equals_never_written", "rows_of_a_batch_are_independent"}
EXACT |= {"fused_equals_read_then_write", "hidden_source_is_not_read_yet"}


def quantized(bits):
    def make_engine(model, start):
        caches = archs.of(model).make_cache(model, KVBits(bits, 32))
        return StreamingEngine(model, start, caches=caches)

    return make_engine


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("model_type", MAIN)
@pytest.mark.parametrize("law", [law for law in LAWS if law.name in EXACT])
def test_laws_between_two_quantised_ways_hold_as_ever(law, model_type, bits):
    model = tiny_model(first_of(model_type, **WIDE))
    # Where rounding of the last bit of a float decides between two steps, a step is between them.
    law(model, make_engine=quantized(bits), tolerance={8: 5e-3, 4: 5e-2}[bits]).require()


@pytest.mark.parametrize("model_type", MAIN)
@pytest.mark.parametrize("law", [law for law in LAWS if law.name not in EXACT])
def test_other_laws_hold_within_what_eight_bits_take(law, model_type):
    model = tiny_model(first_of(model_type, **WIDE))
    law(model, make_engine=quantized(8), tolerance=5e-2).require()


@pytest.mark.parametrize("bits", [8, 4])
def test_the_bits_are_felt(bits):
    """Negative control: a quantised cache does not equal the stock model."""
    law = next(law for law in LAWS if law.name == "whole_source_equals_stock")
    assert law(tiny_model(first_of("llama", **WIDE)), make_engine=quantized(bits)).error > 1e-4


READABLE = [
    architecture.model_type
    for architecture in map(archs.find, archs.registered_types())
    if "group" in architecture.modes and architecture.quantizes_kv
]
WIDE_LATENTS = {"qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
WIDER = {
    "deepseek_v2": WIDE_LATENTS,
    "minicpm3": {"qk_nope_head_dim": 28, "v_head_dim": 32},
    "qwen": {"kv_channels": 32},
    "youtu_llm": WIDE_LATENTS,
}


def widened(config, model_type):
    """The config with heads of 32 numbers, at whatever level and by whatever name."""
    names = {"n_embd", "n_embed", "d_model", "dim", "hidden_dim"} & config.keys()
    config = {**config, **WIDE, **dict.fromkeys(names, 128), **WIDER.get(model_type, {})}
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = widened(config["text_config"], model_type)
    return config


class RoundTrip(LayerCache):
    """Holds in full what quantising leaves of keys and values."""

    def update_and_fetch(self, keys, values):
        there_and_back = (
            mx.dequantize(*mx.quantize(x, group_size=32, bits=8), group_size=32, bits=8)
            for x in (keys, values)
        )
        return super().update_and_fetch(*there_and_back)


@pytest.mark.parametrize("model_type", READABLE)
def test_a_family_that_can_read_them_reads_what_was_quantised(model_type, monkeypatch):
    replace_kernels(monkeypatch)
    config = full_config(model_type, first_of(model_type).config)
    mx.random.seed(3)
    model = fresh_model(model_type, widened(config, model_type))
    logits = []
    for engine_of in (quantized(8), engine_with(RoundTrip), engine_with(LayerCache)):
        engine = engine_of(model, FixedStart(20))
        for start in (0, 7, 12):
            engine.read(list(range(10 + start, 17 + start)))
        logits.append(mx.concatenate([engine.write([5, 6]), engine.write([7])], axis=1))
    small, same_numbers, full = logits
    # Where rounding of the last bit of a float decides between two steps, a step is between them.
    assert relative_error(small, same_numbers) < 2e-2
    assert relative_error(same_numbers, full) > 1e-5


@pytest.mark.parametrize("model_type", sorted({*archs.registered_types()} - {*READABLE}))
def test_a_family_that_cannot_read_them_refuses(model_type):
    model = tiny_model(first_of(model_type))
    with pytest.raises(InvalidOptionError, match=r"'group'|kv_bits=8"):
        archs.find(model_type).make_cache(model, KVBits(8, 32))


def test_many_moves_lose_no_more_than_one():
    """Requantising at each move would add its noise each time; what is lost is kept instead."""
    rope = mx.fast.rope

    def turn(x, offset):
        return rope(x, 64, traditional=False, base=10000.0, scale=1.0, offset=offset)

    keys, values = mx.random.normal((2, 1, 2, 9, 64), key=mx.random.key(3))
    errors = {}
    for bits in (8, 4):
        for n_moves in (1, 300):
            cache = DualStreamingCache(QuantizedLayerCache(bits, 32))
            cache.is_reading = False
            cache.update_and_fetch(turn(keys, 0), values)
            for _ in range(n_moves):
                cache.rotate_target(turn, 8)
            (words, scales, biases), *_ = cache.state
            held = mx.dequantize(words, scales, biases, group_size=32, bits=bits)
            errors[bits, n_moves] = relative_error(held, turn(keys, 8 * n_moves))
    assert errors[8, 300] < 2 * errors[8, 1]
    assert errors[4, 300] < 2 * errors[4, 1]


@settings(max_examples=25)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("source"), st.integers(1, 300)),
            st.tuples(st.just("target"), st.integers(1, 300)),
            st.tuples(st.just("trim"), st.integers(0, 20)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_history_leaves_what_the_plain_cache_holds_but_for_the_bits(history):
    plain, small = DualStreamingCache(), DualStreamingCache(QuantizedLayerCache(8, 32))
    for i, (action, n) in enumerate(history):
        for cache in (plain, small):
            cache.is_reading = action == "source"
            if action == "trim":
                cache.trim_target(min(n, cache.target_tokens))
            else:
                x = mx.random.normal((2, 1, 2, n, 32), key=mx.random.key(i))
                cache.update_and_fetch(*x)
    if not plain.source_tokens + plain.target_tokens:
        return
    for cache in (plain, small):
        cache.merge_source_target()
    for wanted, planes in zip(plain.get_merged(), small.get_merged(), strict=True):
        held = mx.dequantize(*planes, group_size=32, bits=8)
        assert held.shape == wanted.shape
        assert np.abs(np.array(held - wanted)).max(initial=0) < 0.05


def test_it_takes_less_memory():
    sizes = {}
    for name, cache in (
        ("plain", DualStreamingCache()),
        (8, DualStreamingCache(QuantizedLayerCache(8, 64))),
    ):
        cache.update_and_fetch(*mx.random.normal((2, 1, 2, 512, 64)))
        sizes[name] = cache.nbytes
    assert sizes[8] < 0.3 * sizes["plain"]


def test_heads_that_no_group_fits_are_refused():
    cache = DualStreamingCache(QuantizedLayerCache(8, 64))
    with pytest.raises(InvalidOptionError, match="heads of 48 numbers"):
        cache.update_and_fetch(*mx.zeros((2, 1, 2, 3, 48)))


@pytest.mark.parametrize(
    ("head_dim", "group_size", "says"),
    [
        (40, 64, "none of 32, 64, 128 divides them, so leave kv_bits out"),
        (96, 64, "choose kv_group_size=32[.]"),
        (64, 128, "choose kv_group_size=32 or 64[.]"),
    ],
)
def test_groups_that_do_not_fit_are_refused_at_once_with_those_that_do(head_dim, group_size, says):
    model = tiny_model(
        first_of("qwen2", hidden_size=head_dim, num_attention_heads=1, num_key_value_heads=1)
    )
    with pytest.raises(InvalidOptionError, match=f"of {head_dim} numbers: {says}"):
        make_engine(model, kv_bits=8, kv_group_size=group_size)
    make_engine(model)  # negative control: without kv_bits it is no matter


@pytest.mark.parametrize("model_type", READABLE)
def test_the_heads_of_every_family_are_known_before_a_session_runs(model_type, monkeypatch):
    """What is refused at once is what a session would stumble over."""
    replace_kernels(monkeypatch)
    architecture, model = archs.find(model_type), tiny_model(first_of(model_type))
    kv = KVBits(8, 32)
    try:
        architecture.require_quantizable(model, kv)
    except InvalidOptionError:
        with pytest.raises(InvalidOptionError, match="does not fit heads"):
            quantized_engine(model, kv).read([1, 2])
    else:
        quantized_engine(model, kv).read([1, 2])


def quantized_engine(model, kv):
    return StreamingEngine(model, FixedStart(8), caches=archs.of(model).make_cache(model, kv))


def test_a_session_runs_on_them(tokenizer):
    model = tiny_model(first_of("qwen2", **WIDE, vocab_size=1024))
    events = run(model, tokenizer, TEXT, kv_bits=8, kv_group_size=32)
    assert writes(events)
    engine = make_engine(model, kv_bits=8, kv_group_size=32)
    assert all(isinstance(cache, QuantizedLayerCache) for cache in engine.caches)
    assert isinstance(engine._target_start, FollowStart)


def test_a_model_can_be_called_with_quantised_caches_by_hand():
    model = tiny_model(first_of("llama", **WIDE))
    caches = [DualStreamingCache(QuantizedLayerCache(8, 32)) for _ in model.layers]
    assert model(mx.array([[5, 6, 7]]), cache=caches).shape[1] == 3
    assert not hasattr(DualStreamingCache(), "bits")


def test_a_target_that_was_moved_and_forgotten_can_be_moved_again():
    cache = DualStreamingCache(QuantizedLayerCache(8, 32))

    def turn(x, offset):
        return mx.fast.rope(x, 64, traditional=False, base=1e4, scale=1.0, offset=offset)

    keys, values = mx.random.normal((2, 1, 2, 3, 64))
    for _ in range(2):
        cache.update_target(keys, values)
        cache.rotate_target(turn, 8)
        cache.trim_target(3)
    assert (cache.target_start, cache.target_tokens) == (16, 0)
