"""Teacher-forced streaming logits and loss against the reference (SPEC section 5)."""

import mlx.core as mx
import numpy as np
import pytest
from golden_cases import GOLDEN, GOLDEN_MODELS, golden_cases

from mlx_simul.training.layout import Example
from mlx_simul.training.loss import reference_loss, streaming_passes

CASES = [
    pytest.param(name, case, id=f"{name}-{i}")
    for name in GOLDEN_MODELS
    for i, case in enumerate(golden_cases(name)["training"])
]
LOSS_WITHIN = 1e-5
LOGITS_WITHIN = 2e-5


def example_of(case) -> Example:
    return Example(
        tuple(map(tuple, case["source_segments"])), tuple(map(tuple, case["target_segments"]))
    )


def relative(got: float, wanted: float) -> float:
    return abs(got - wanted) / abs(wanted)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_loss_is_that_of_the_reference(golden_models, name, case):
    loss = reference_loss(
        golden_models[name], example_of(case), case["wait_k"], case["target_start"]
    )
    assert relative(loss.item(), case["loss"]) < LOSS_WITHIN


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize(("extra_words", "extra_positions"), [(1, 0), (0, 1)])
def test_another_latency_or_start_is_told_apart(
    golden_models, name, case, extra_words, extra_positions
):
    loss = reference_loss(
        golden_models[name],
        example_of(case),
        case["wait_k"] + extra_words,
        case["target_start"] + extra_positions,
    )
    assert relative(loss.item(), case["loss"]) > 10 * LOSS_WITHIN


@pytest.mark.parametrize("name", GOLDEN_MODELS)
@pytest.mark.parametrize(("gpe_compat", "equal"), [(True, True), (False, False)])
def test_logits_are_those_of_the_reference_under_its_mask(golden_models, name, gpe_compat, equal):
    case = golden_cases(name)["training"][0]
    example = example_of(case)
    logits = streaming_passes(
        golden_models[name],
        mx.array([example.source_ids]),
        mx.array([example.target_ids]),
        case["target_start"],
        mx.array([example.visible(case["wait_k"], gpe_compat)]),
    )
    got = np.array(mx.concatenate(logits, axis=1)[0])
    wanted = np.load(GOLDEN / name / "golden_logits.npz")["train0_logits"]
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert (error < LOGITS_WITHIN) == equal
