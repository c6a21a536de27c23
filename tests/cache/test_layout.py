"""Where the tokens of a pass lie, and what they see: shortcuts are cases of the one formula."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.cache import Lane, LayerCache, PassPlan, layout_of
from mlx_simul.cache.layout import Layout, SliceLayout
from mlx_simul.cache.storage import Storage

K, D = 2, 3


@st.composite
def lanes(draw):
    """One stream's part: something new of either group, and perhaps source that is hidden."""
    n_source, n_target = draw(st.integers(0, 9)), draw(st.integers(0, 6))
    n_new_source, n_new_target = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any))
    n_hidden = draw(st.integers(0, n_source)) if n_new_target and not n_new_source else 0
    return Lane(
        n_source,
        n_target,
        n_new_source,
        n_new_target,
        n_hidden,
        draw(st.integers(0, 40)),
        draw(st.booleans()),
    )


reaches = st.none() | st.integers(1, 12)


def plan_of(*lanes):
    return PassPlan(lanes, max(lane.n_new_source + lane.n_new_target for lane in lanes))


def sees(lane, row, column, window, chunk):
    """What SPEC section 1 says of two tokens, each a group and a number in it."""
    (looks, i), (seen, j) = row, column
    if looks == "source":
        if seen == "target":
            return False
        at, there = i, j
    else:
        if seen == "source" and j >= lane.n_visible:
            return False
        at = lane.n_visible + i
        there = j if seen == "source" else lane.n_visible + j
    if there > at:
        return False
    if looks == "target" and not lane.windows_target:
        return True
    return (window is None or at - there < window) and (
        chunk is None or at // chunk == there // chunk
    )


def tokens_of(lane):
    """The new tokens of a lane, in the order of the pass."""
    new_source = range(lane.n_source, lane.n_source_after)
    new_target = range(lane.n_target, lane.n_target_after)
    return [*(("source", i) for i in new_source), *(("target", i) for i in new_target)]


def columns_of(left, right):
    return [
        *(("source", j) for j in range(left - 1, -1, -1)),
        *(("target", j) for j in range(right)),
    ]


def as_array(mask, n_rows, n_columns):
    if mask is None:
        return np.ones((n_rows, n_columns), bool)
    if isinstance(mask, str):
        assert mask == "causal"
        return np.tri(n_rows, n_columns, n_columns - n_rows, dtype=bool)
    return np.array(mask)


@given(lanes(), reaches, reaches)
def test_one_stream_sees_what_the_specification_says(lane, window, chunk):
    layout = layout_of(plan_of(lane))
    assert isinstance(layout, SliceLayout)
    columns = columns_of(layout.left, layout.right)
    wanted = [
        [sees(lane, row, column, window, chunk) for column in columns] for row in tokens_of(lane)
    ]
    for return_array in (False, True):
        mask = layout.mask(window, chunk, return_array)
        assert not (return_array and isinstance(mask, str))
        assert np.array_equal(as_array(mask, *np.array(wanted).shape), wanted)


@given(st.lists(lanes(), min_size=2, max_size=4), reaches, reaches)
def test_each_of_many_streams_sees_what_it_sees_alone(several, window, chunk):
    layout = layout_of(plan_of(*several))
    mask = np.array(layout.mask(window, chunk))
    columns = columns_of(layout.left, layout.right)
    for i, lane in enumerate(several):
        for j, row in enumerate(tokens_of(lane)):
            wanted = [sees(lane, row, column, window, chunk) for column in columns]
            assert np.array_equal(mask[i, 0, j], wanted)
        # What fills a stream up sees something, or it would not be a number.
        assert mask[i].any(axis=-1).all()


def test_a_window_that_is_measured_in_the_target_alone_is_told_apart():
    """Negative control of the two laws above."""
    lane = Lane(4, 2, 0, 1)
    mask = as_array(layout_of(plan_of(lane)).mask(3), 1, 7)
    assert not np.array_equal(mask[0], [True] * 4 + [False, True, True])


@given(lanes())
def test_slices_are_a_case_of_the_general_layout(lane):
    plan = plan_of(lane)
    general, slices = Layout(plan), SliceLayout(plan)
    positions = np.array(general.offset.of_tokens(1, plan.n_tokens))
    offset = slices.offset
    if isinstance(offset, int):
        assert list(range(offset, offset + plan.n_tokens)) == positions.tolist()
    else:
        assert np.array_equal(np.array(offset.of_tokens(1, plan.n_tokens)), positions)
    held = []
    for layout in (general, slices):
        storage = Storage()
        new = mx.random.normal((1, K, plan.n_tokens, D), key=mx.random.key(3))
        storage.fit((new,))
        layout.put(storage, (new,))
        held.append(
            np.array(storage.between(slice(1), -lane.n_source_after, lane.n_target_after)[0])
        )
    assert np.array_equal(*held)


@given(st.lists(lanes(), min_size=2, max_size=4), st.data())
def test_tokens_of_many_streams_lie_where_they_lie_alone(several, data):
    """In whatever rows they have, neighbours or not."""
    n_rows = len(several) + 2
    rows = sorted(data.draw(st.permutations(range(n_rows)))[: len(several)])
    several = [replace(lane, row=row) for lane, row in zip(several, rows, strict=True)]
    plan = plan_of(*several)
    x = mx.random.normal((len(several), K, plan.n_tokens, D), key=mx.random.key(1))
    together = Storage(n_rows)
    together.fit((x,), len(several))
    layout = Layout(plan)
    layout.put(together, (x,))
    (fetched,) = layout.fetch(together)
    for i, lane in enumerate(several):
        n_new = lane.n_new_source + lane.n_new_target
        alone = Storage()
        alone.fit((x[i : i + 1],))
        SliceLayout(plan_of(replace(lane, row=None))).put(alone, (x[i : i + 1, :, :n_new],))
        left, right = lane.n_source_after, lane.n_target_after
        wanted = alone.between(slice(1), -left, right)[0]
        assert mx.array_equal(
            together.between(slice(rows[i], rows[i] + 1), -left, right)[0], wanted
        )
        seen = fetched[i : i + 1, :, layout.left - left : layout.left + right]
        assert mx.array_equal(seen, wanted)


@given(st.lists(lanes(), min_size=1, max_size=3))
def test_source_columns_are_the_source_in_order_of_arrival(several):
    layout = layout_of(plan_of(*several))
    columns = columns_of(layout.left, layout.right)
    for i, lane in enumerate(several):
        if lane.n_new_target:
            found = [columns[at] for at in layout.source_columns(i)]
            assert found == [("source", j) for j in range(lane.n_visible)]


def test_a_cache_that_is_part_of_no_pass_says_so():
    with pytest.raises(RuntimeError, match="not part of a pass"):
        _ = LayerCache().offset
