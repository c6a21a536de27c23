"""What was taken back, and when units would have been there at a pace."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation import latency as lt
from mlx_simul.evaluation.live_times import live_times_ms

# Erasure

outputs = st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=6).filter(
    lambda given: bool(given[-1])
)


@given(st.lists(st.sampled_from("abc"), min_size=1), st.lists(st.integers(0, 20)))
def test_what_only_appends_erases_nothing(final, lengths):
    displayed = [final[:length] for length in sorted(lengths)]
    assert lt.normalised_erasure([*displayed, final]) == 0


@given(outputs)
def test_erasure_counts_what_is_taken_back(given_outputs):
    """One output that shares nothing with the next is erased whole."""
    last = given_outputs[-1]
    base = lt.normalised_erasure([["z"], last])
    assert base == 1 / len(last)
    twice = lt.normalised_erasure([*given_outputs, ["z"] * len(last), last])
    assert twice == pytest.approx(lt.normalised_erasure(given_outputs) + 2)


def test_erasure_by_hand():
    shown = [["the"], ["the", "cat", "sat"], ["the", "cat", "slept"], ["a", "cat", "slept"]]
    assert lt.normalised_erasure(shown) == (1 + 3) / 3


@pytest.mark.parametrize("shown", [[], [[]], [["a"], []]])
def test_erasure_needs_a_last_output(shown):
    with pytest.raises(InvalidOptionError, match="last output"):
        lt.normalised_erasure(shown)


# Live times


@st.composite
def recordings(draw):
    """Work on each source word, units in it, and a pace."""
    work_ms = draw(st.lists(st.floats(0.1, 900), min_size=1, max_size=6))
    fed_ms = [10.0, *(10.0 + at for at in accumulate(work_ms))]
    in_word = draw(st.lists(st.integers(0, len(work_ms) - 1), max_size=6).map(sorted))
    times_ms = [fed_ms[j] + 0.5 * work_ms[j] for j in in_word]
    return times_ms, fed_ms[:-1], in_word, draw(st.floats(0, 600))


@given(recordings())
def test_nothing_is_there_before_its_source_or_its_work(recording):
    times_ms, fed_ms, in_word, word_ms = recording
    live = live_times_ms(times_ms, fed_ms, word_ms)
    assert live == sorted(live)
    for time, recorded, j in zip(live, times_ms, in_word, strict=True):
        assert time >= (j + 1) * word_ms + recorded - fed_ms[j] - 1e-6
        assert time >= word_ms + recorded - fed_ms[0] - 1e-6


@given(recordings())
def test_without_waiting_live_time_is_the_recordings(recording):
    times_ms, fed_ms, _, _ = recording
    live = live_times_ms(times_ms, fed_ms, 0)
    assert live == pytest.approx([time - fed_ms[0] for time in times_ms])


@given(recordings())
def test_a_slow_source_hides_all_work_but_the_last(recording):
    times_ms, fed_ms, in_word, _ = recording
    live = live_times_ms(times_ms, fed_ms, 1e6)
    wanted = [(j + 1) * 1e6 + time - fed_ms[j] for time, j in zip(times_ms, in_word, strict=True)]
    assert live == pytest.approx(wanted, abs=1e-6)


def test_live_times_by_hand():
    # Words 100 ms apart, the second of which takes 250 ms: the third is late by 150.
    fed_ms = [0.0, 20.0, 270.0]
    assert live_times_ms([10.0, 265.0, 290.0], fed_ms, 100.0) == [110.0, 445.0, 470.0]


def test_a_unit_before_any_source_is_refused():
    with pytest.raises(InvalidOptionError, match="before any source"):
        live_times_ms([5.0], [6.0], 100.0)
