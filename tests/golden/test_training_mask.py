"""The training mask, cell by cell, against the reference (SPEC section 5)."""

import mlx.core as mx
import numpy as np
import pytest
from golden_cases import GOLDEN_MODELS, golden_cases

from mlx_simul.compat import create_streaming_attention_mask
from mlx_simul.errors import InvalidOptionError

CASES = [
    pytest.param(case, id=f"{name}-{i}")
    for name in GOLDEN_MODELS
    for i, case in enumerate(golden_cases(name)["training"])
]


def mask_of(case, extra_words=0, padding=0):
    source = [len(segment) for segment in case["source_segments"]]
    target = [len(segment) for segment in case["target_segments"]]
    waits = [min(case["wait_k"] + j + extra_words, len(source)) for j in range(len(target))]
    total = sum(source) + sum(target) + padding
    return np.array(create_streaming_attention_mask(total, source, target, waits))


def visible(case):
    return np.array([[cell == "1" for cell in row] for row in case["visible"]])


@pytest.mark.parametrize("case", CASES)
def test_mask_is_that_of_the_reference(case):
    assert np.array_equal(mask_of(case), visible(case))


@pytest.mark.parametrize("case", CASES)
def test_a_policy_one_word_off_is_told_apart(case):
    assert not np.array_equal(mask_of(case, extra_words=1), visible(case))


def test_padding_sees_nothing_and_is_not_seen():
    case = CASES[0].values[0]
    mask, n = mask_of(case, padding=5), len(visible(case))
    assert np.array_equal(mask[:n, :n], visible(case))
    assert not mask[n:].any()
    assert not mask[:, n:].any()


@pytest.mark.parametrize(
    ("total", "source", "target", "waits"),
    [(5, [3], [3], [1]), (9, [3, 1], [3, 1], [1])],
    ids=["too short", "one count missing"],
)
def test_segments_that_do_not_fit_are_refused(total, source, target, waits):
    with pytest.raises(InvalidOptionError, match="target"):
        create_streaming_attention_mask(total, source, target, waits)


def test_mask_is_boolean():
    assert create_streaming_attention_mask(2, [1], [1], [1]).dtype == mx.bool_
