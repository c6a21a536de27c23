"""wait-k and the counts it judges by (SPEC sections 3 and 6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul import Action, WaitK
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.progress import StreamingState
from mlx_simul.policies import calculate_wait_words

segments = st.lists(st.integers(1, 5), min_size=3, max_size=30)


@given(segments, st.integers(0, 60), st.integers(1, 40))
def test_wait_words_grow_one_by_one_and_end_with_the_source(lengths, index, k):
    words = calculate_wait_words(lengths, index, k)
    assert words == min(k + index, len(lengths) - 1)


@given(segments, st.integers(1, 40))
def test_a_whole_session_follows_wait_k(lengths, k):
    """Delays rise by one a word from min(k, n) to n, and every source token is read once."""
    state = StreamingState(lengths, k)
    n_words, n_tokens = len(lengths) - 2, 0
    for _ in range(n_words + 3):
        state.switch_to_reading()
        while not state.check_wait_k_policy():
            n_tokens += state.get_source_tokens_to_read()
            state.mark_source_read()
        state.switch_to_writing()
        assert not state.is_reading
        state.mark_target_written()
    assert state.wait_lagging == [min(k + i, n_words) for i in range(n_words + 3)]
    assert n_tokens == sum(lengths)
    assert state.get_source_tokens_to_read() == 0
    assert state.source_exhausted()


def test_the_first_read_covers_prefix_and_word_one():
    state = StreamingState([10, 2, 3, 4], 1)
    assert state.get_source_tokens_to_read() == 12
    state.mark_source_read()
    assert state.source_words_read == 1
    assert state.get_source_tokens_to_read() == 3


def test_a_live_source_is_waited_for():
    state = StreamingState([10, 2], 2, source_complete=False)
    state.mark_source_read()
    assert not state.should_read_next_source()
    assert not state.check_wait_k_policy()
    assert not state.source_exhausted()
    state.add_source_segment(4)
    state.close_source()
    state.mark_source_read()
    assert state.check_wait_k_policy()
    assert state.delay_words == 1


def test_the_word_limit():
    state = StreamingState([1, 1, 1], 1, max_target_words=1)
    assert state.should_write_next_target()
    state.mark_target_written()
    assert not state.should_write_next_target()


@pytest.mark.parametrize("k", [0, -3, 1.5, True, "3", None])
def test_k_must_be_a_positive_whole_number(k):
    with pytest.raises(InvalidOptionError, match="at least 1"):
        WaitK(k)


def test_a_state_without_k_does_not_judge():
    with pytest.raises(InvalidOptionError, match="no wait_k"):
        StreamingState([1, 1]).check_wait_k_policy()
    assert StreamingState([1, 1]).wait_k is None
    with pytest.raises(InvalidOptionError, match="max_target_words"):
        StreamingState([1, 1], max_target_words=0)


def test_policies_are_values():
    assert WaitK(3) == WaitK(3)
    assert WaitK(1).decide(StreamingState([1, 1, 1], 1)) is Action.READ
