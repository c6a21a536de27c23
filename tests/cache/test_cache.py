"""DualStreamingCache against a model of it: two plain lists of tokens."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.nn import RoPE

from mlx_simul.cache import DualStreamingCache
from mlx_simul.errors import CacheStateError, InvalidOptionError

B, K, D, DV = 2, 3, 4, 6


def tokens(n, start=0, batch=B, dtype=mx.float32):
    """Keys and values of n tokens, all different."""
    keys = mx.arange(batch * K * n * D).reshape(batch, K, n, D) + 10_000 * start
    values = mx.arange(batch * K * n * DV).reshape(batch, K, n, DV) - 10_000 * start
    return keys.astype(dtype), values.astype(dtype)


def same(actual, expected):
    return all(
        np.array_equal(np.array(a), np.array(b)) for a, b in zip(actual, expected, strict=True)
    )


def concatenated(parts):
    return tuple(mx.concatenate(list(column), axis=2) for column in zip(*parts, strict=True))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("source"), st.integers(1, 700)),
        st.tuples(st.just("target"), st.integers(1, 300)),
        st.tuples(st.just("trim"), st.integers(0, 20)),
        st.just(("reset target", 0)),
        st.just(("save and restore", 0)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(steps)
def test_any_history_leaves_exactly_the_tokens_written(history):
    cache = DualStreamingCache()
    source, target = [], []
    for i, (action, n) in enumerate(history):
        if action == "source":
            source.append(tokens(n, i))
            assert same(cache.update_source(*source[-1]), concatenated(source))
        elif action == "target":
            target.append(tokens(n, i))
            assert same(cache.update_target(*target[-1]), concatenated(target))
        elif action == "trim" and target:
            keys, values = concatenated(target)
            n = min(n, keys.shape[2] - 1)
            cache.trim_target(n)
            end = keys.shape[2] - n
            target = [(keys[..., :end, :], values[..., :end, :])]
        elif action == "reset target":
            cache.reset_target()
            target = []
        elif action == "save and restore":
            saved, cache = cache.state, DualStreamingCache()
            cache.state = saved
    if not source and not target:
        return
    empty = [tuple(x[..., :0, :] for x in tokens(1))]
    mirrored = tuple(x[..., ::-1, :] for x in concatenated(source or empty))
    cache.merge_source_target()
    assert same(cache.get_merged(), concatenated([mirrored, *target]))
    assert cache.source_tokens == sum(k.shape[2] for k, _ in source)
    assert cache.target_tokens == sum(k.shape[2] for k, _ in target)


def test_the_order_of_the_groups_is_seen():
    """Negative control of the history law: a cache with its groups swapped differs."""
    cache, swapped = DualStreamingCache(), DualStreamingCache()
    first, second = tokens(3, 1), tokens(3, 2)
    cache.update_source(*first), cache.update_target(*second)
    swapped.update_source(*second), swapped.update_target(*first)
    for each in (cache, swapped):
        each.merge_source_target()
    assert not same(cache.get_merged(), swapped.get_merged())


def test_a_roll_back_equals_never_having_written():
    rolled, plain = DualStreamingCache(), DualStreamingCache()
    for cache in (rolled, plain):
        cache.update_source(*tokens(5, 1))
        cache.update_target(*tokens(4, 2))
    rolled.update_target(*tokens(300, 3))
    rolled.trim_target(300)
    assert same(rolled.update_target(*tokens(2, 4)), plain.update_target(*tokens(2, 4)))


def test_a_saved_state_is_not_touched_by_what_follows():
    cache = DualStreamingCache()
    cache.update_source(*tokens(3, 1))
    cache.update_target(*tokens(3, 2))
    saved = cache.state
    before = [np.array(saved[0]), np.array(saved[1])]
    cache.trim_target(2)
    cache.update_target(*tokens(9, 3))
    assert same(saved[:2], before)


def test_while_merged_nothing_may_change():
    cache = DualStreamingCache()
    cache.update_source(*tokens(3))
    cache.merge_source_target()
    cache.merge_source_target()
    for change in (
        lambda: cache.update_source(*tokens(1)),
        lambda: cache.update_target(*tokens(1)),
        lambda: cache.trim_target(0),
        lambda: cache.rotate_target(RoPE(D), 1),
    ):
        with pytest.raises(RuntimeError, match="separate_source_target"):
            change()
    cache.separate_source_target()
    cache.separate_source_target()
    cache.update_target(*tokens(1))
    assert (cache.source_tokens, cache.target_tokens) == (3, 1)


def test_get_merged_needs_a_merge_and_something_cached():
    cache = DualStreamingCache()
    with pytest.raises(RuntimeError, match="merge_source_target first"):
        cache.get_merged()
    cache.merge_source_target()
    with pytest.raises(CacheStateError, match="nothing is cached"):
        cache.get_merged()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: tokens(2, batch=B + 1), id="another batch"),
        pytest.param(lambda: tokens(2, dtype=mx.float16), id="another dtype"),
        pytest.param(lambda: (tokens(2)[0], tokens(3)[1]), id="keys without values"),
        pytest.param(lambda: (tokens(2)[0][0], tokens(2)[1][0]), id="no batch axis"),
        pytest.param(lambda: (tokens(2)[1], tokens(2)[0]), id="another head size"),
    ],
)
@pytest.mark.parametrize("group", ["source", "target"])
def test_what_does_not_fit_is_refused_and_changes_nothing(wrong, group):
    cache = DualStreamingCache()
    cache.update_source(*tokens(3, 1))
    cache.update_target(*tokens(2, 2))
    before = cache.state
    update = cache.update_source if group == "source" else cache.update_target
    with pytest.raises(InvalidOptionError):
        update(*wrong())
    assert same(cache.state[:2], before[:2])
    assert cache.state[2:] == before[2:]


@pytest.mark.parametrize("n", [-1, 3])
def test_rolling_back_what_is_not_there_is_refused(n):
    cache = DualStreamingCache()
    cache.update_target(*tokens(2))
    with pytest.raises(InvalidOptionError, match="2 are cached"):
        cache.trim_target(n)


def test_a_state_cut_short_is_refused():
    cache = DualStreamingCache()
    cache.update_source(*tokens(3))
    keys, values, *counts = cache.state
    with pytest.raises(InvalidOptionError, match="cut short"):
        DualStreamingCache().state = (keys[..., :2, :], values[..., :2, :], *counts)


def test_each_group_has_its_own_positions():
    cache = DualStreamingCache()
    cache.target_start = 100
    cache.update_source(*tokens(3))
    cache.update_target(*tokens(2))
    cache.is_reading = True
    assert cache.offset == 3
    cache.is_reading = False
    assert cache.offset == 102


def test_reset_forgets_and_frees():
    cache = DualStreamingCache()
    cache.update_source(*tokens(3))
    cache.reset()
    assert (cache.source_tokens, cache.target_tokens, cache.nbytes) == (0, 0, 0)
    cache.update_source(*tokens(2, batch=1))
    assert cache.source_tokens == 2


@pytest.mark.parametrize("group", ["source", "target"])
def test_growing_copies_seldom(group):
    """Blocks grow with the cache, so that adding tokens one by one reallocates O(log n) times."""
    cache = DualStreamingCache()
    update = cache.update_source if group == "source" else cache.update_target
    sizes = set()
    for _ in range(200):
        update(*tokens(50, batch=1))
        sizes.add(cache.nbytes)
    assert len(sizes) < 25
    assert cache.nbytes < 1.3 * sum(x.nbytes for x in tokens(200 * 50, batch=1))
