"""Each pair comes once an epoch, in an order that the seed decides and a position resumes."""

from collections import Counter
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_simul.errors import DataError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.batches import (
    Batches,
    Position,
    Sample,
    collate,
    group_by_length,
    n_tokens,
)
from mlx_simul.training.layout import Example
from mlx_simul.training.options import BatchOptions, LayoutOptions

WAITS = (1, 3, None)


class WordLayout:
    """A token for each word, numbered as in the text."""

    def example(self, pairs, history=()):
        prefix = (0, *(int(word) for pair in history for word in pair.source.split()))
        words = [(int(word),) for pair in pairs for word in pair.source.split()]
        target = [(int(word),) for pair in pairs for word in pair.target.split()]
        return Example((prefix, *words, (1,)), ((2,), *target, (3,)))


def corpus(lengths):
    """Pairs of distinct words, so that each can be told in an example."""
    return [
        Pair(" ".join([str(10 + i)] * n), " ".join([str(10 + i)] * n))
        for i, n in enumerate(lengths)
    ]


def batches_of(pairs, seed=0, augment=None, **options):
    layout_options = LayoutOptions(wait_k=WAITS, target_start=(5, 9))
    options = {"max_tokens": 40, "pool_pairs": 7, "passage_rate": 0.3, **options}
    return Batches(pairs, WordLayout(), layout_options, BatchOptions(seed=seed, **options), augment)


def words_in(samples):
    return Counter(token for sample in samples for (token,) in sample.example.source[1:-1])


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=30)


@settings(max_examples=40)
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
    rate=st.sampled_from([0, 0.3, 1]),
)
def test_an_epoch_holds_each_pair_once(lengths, seed, epoch, rate):
    batches = batches_of(corpus(lengths), seed, passage_rate=rate)
    samples = [sample for group in batches.epoch(epoch) for sample in group]
    assert words_in(samples) == Counter({10 + i: n for i, n in enumerate(lengths)})
    assert {sample.wait_k for sample in samples} <= set(WAITS)
    assert {sample.target_start for sample in samples} <= set(range(5, 10))


@settings(max_examples=40)
@given(lengths=LENGTHS, max_tokens=st.integers(1, 90))
def test_a_batch_keeps_to_its_size_unless_one_sample_cannot(lengths, max_tokens):
    for group in batches_of(corpus(lengths), max_tokens=max_tokens).epoch(0):
        batch = collate(group)
        assert n_tokens(group) == batch.source.size + batch.target.size
        assert n_tokens(group) <= max_tokens or len(group) == 1


@settings(max_examples=25)
@given(lengths=LENGTHS, n_done=st.integers(0, 25), seed=st.integers(0, 3))
def test_resuming_gives_what_would_have_come(lengths, n_done, seed):
    batches = batches_of(corpus(lengths), seed)
    whole = list(islice(batches.resume(Position()), n_done + 6))
    position = whole[n_done - 1][0] if n_done else Position()
    again = list(islice(batches_of(corpus(lengths), seed).resume(position), 6))
    for (expected_position, expected), (got_position, got) in zip(
        whole[n_done:], again, strict=True
    ):
        assert got_position == expected_position
        got, expected = collate(got), collate(expected)
        for name in ("source", "target", "labels", "visible", "weights"):
            assert np.array_equal(getattr(got, name), getattr(expected, name))


def test_epochs_and_seeds_differ():
    pairs = corpus([3] * 40)
    orders = [
        [
            sample.example.source
            for group in batches_of(pairs, seed).epoch(epoch)
            for sample in group
        ]
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_passages_have_the_sizes_that_were_asked_for():
    pairs = corpus([1] * 300)
    groups = batches_of(pairs, passage_rate=1.0, passage_pairs=3, pool_pairs=300).epoch(0)
    sizes = Counter(len(s.example.source) - 2 for group in groups for s in group)
    assert sizes.keys() <= {1, 2, 3}
    assert sizes[1] <= 1  # what is left at the end
    assert min(sizes[2], sizes[3]) > 30
    single = batches_of(pairs, passage_rate=0).epoch(0)
    assert {len(s.example.source) - 2 for group in single for s in group} == {1}


def test_like_lengths_go_together():
    samples = [Sample(WordLayout().example([pair]), 1, 0) for pair in corpus([1, 9] * 20)]
    groups = list(group_by_length(samples, 60))
    assert sum(len({s.shape for s in group}) == 1 for group in groups) >= len(groups) - 1


def test_labels_are_words_and_end_of_turn():
    example = Example(((1,), (2,), (3,)), ((4, 5), (6, 7), (8,)))
    other = Example(((1,), (2,), (9, 9), (3,)), ((4, 5), (6, 7), (10,), (8,)))
    batch = collate([Sample(example, 1, 5), Sample(other, None, 5)])
    assert batch.source.tolist() == [[1, 2, 3, 0, 0], [1, 2, 9, 9, 3]]
    assert batch.target.tolist() == [[4, 5, 6, 7, 0], [4, 5, 6, 7, 10]]
    assert batch.labels.tolist() == [[5, 6, 7, 8, 0], [5, 6, 7, 10, 8]]
    assert batch.weights.tolist() == [[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert batch.visible.tolist() == [[2, 2, 2, 3, 0], [5, 5, 5, 5, 5]]
    assert batch.target_start == 5
    assert n_tokens([Sample(example, 1, 5), Sample(other, None, 5)]) == 20


def test_starts_that_differ_are_one_for_each_row():
    example = Example(((1,), (2,), (3,)), ((4,), (6,), (8,)))
    batch = collate([Sample(example, 1, 5), Sample(example, 1, 6)])
    assert mx.array_equal(batch.target_start, mx.array([5, 6]))


def test_batch_mode_puts_the_target_behind_the_source():
    options = LayoutOptions(mode="batch", wait_k=WAITS)
    batches = Batches(corpus([2, 4]), WordLayout(), options, BatchOptions(passage_rate=0))
    samples = [sample for group in batches.epoch(0) for sample in group]
    assert sorted(s.target_start for s in samples) == [4, 6]
    assert {s.wait_k for s in samples} == {None}


def test_the_reference_mask_can_be_asked_for():
    example = Example(((1,), (2,), (9,), (3,)), ((4, 5), (6,), (8,)))
    ours, theirs = (collate([Sample(example, 1, 0, compat)]) for compat in (False, True))
    assert ours.visible.tolist() == [[2, 2, 3]]
    assert theirs.visible.tolist() == [[1, 2, 3]]
    options = LayoutOptions(wait_k=(1,), gpe_compat=True)
    batches = Batches(corpus([2]), WordLayout(), options, BatchOptions())
    assert [s.gpe_compat for group in batches.epoch(0) for s in group] == [True]


def test_nothing_to_train_on_is_told():
    with pytest.raises(DataError, match="no pairs"):
        batches_of([])
