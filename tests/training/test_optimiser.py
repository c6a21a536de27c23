"""The parts of a training step, each against its definition."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from tiny_run import LONG, MODEL, SHORT

from mlx_simul.errors import InvalidOptionError, ValidationError
from mlx_simul.training.batches import Position, Sample
from mlx_simul.training.loss import summed_cross_entropy
from mlx_simul.training.optimiser import averaged, learning_rate, make_optimiser, thin
from mlx_simul.training.options import OptimiserOptions
from mlx_simul.training.scratch import new_model
from mlx_simul.training.trainer import Trainer

SAMPLES = [Sample(SHORT, 1, 16), Sample(LONG, 2, 16), Sample(SHORT, None, 16)]


class Given:
    """These batches, again and again."""

    def __init__(self, *groups):
        self.groups = groups

    def resume(self, position):
        while True:
            for group in self.groups:
                position = Position(0, position.batch + 1)
                yield position, group


def weights_after(n_steps, *groups, **options):
    model = new_model(MODEL)
    options = {"warmup_steps": 0, "learning_rate": 1e-2, "steps": n_steps, **options}
    trainer = Trainer(model, Given(*groups), OptimiserOptions(**options))
    reports = list(trainer.steps())
    return dict(tree_flatten(model.trainable_parameters())), reports


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_a_single_batch_are_not_copied(accumulate):
    model, made = new_model(MODEL), []
    trainer = Trainer(model, Given(SAMPLES), OptimiserOptions(steps=1, accumulate=accumulate))
    loss_and_grad = trainer._loss_and_grad

    def noting(*given):
        loss, gradients = loss_and_grad(*given)
        made.append(dict(tree_flatten(gradients)))
        return loss, gradients

    trainer._loss_and_grad = noting
    _, gradients = trainer._gradients([SAMPLES] * accumulate)
    applied = dict(tree_flatten(gradients))
    assert all(applied[name] is made[0][name] for name in applied) == (accumulate == 1)
    for name, gradient in applied.items():  # twice the same has the mean of one
        assert mx.allclose(gradient, made[0][name], rtol=1e-5, atol=1e-7)


@given(
    seed=st.integers(0, 99),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
)
@settings(max_examples=25)
def test_cross_entropy_is_that_of_mlx(seed, smoothing, scale):
    keys = mx.random.split(mx.random.key(seed), 3)
    logits = scale * mx.random.normal((2, 3, 11), key=keys[0])
    labels = mx.random.randint(0, 11, (2, 3), key=keys[1])
    weights = mx.random.uniform(shape=(2, 3), key=keys[2])

    def stock(logits):
        losses = nn.losses.cross_entropy(logits, labels, label_smoothing=smoothing)
        return (losses * weights).sum()

    def ours(logits):
        return summed_cross_entropy(logits, labels, weights, smoothing)

    value, gradient = mx.value_and_grad(ours)(3 * logits)
    wanted, wanted_gradient = mx.value_and_grad(stock)(3 * logits)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-5)
    assert np.allclose(gradient, wanted_gradient, atol=1e-5)


def test_cross_entropy_tells_smoothing_apart():
    logits, labels, weights = mx.arange(5.0)[None, None], mx.array([[1]]), mx.ones((1, 1))
    plain, smoothed = (summed_cross_entropy(logits, labels, weights, s).item() for s in (0, 0.1))
    assert plain != pytest.approx(smoothed, rel=1e-3)


@given(st.integers(1, 300), st.integers(0, 50), st.sampled_from(["cosine", "constant"]))
def test_the_rate_rises_to_its_highest_and_never_beyond(steps, warmup, schedule):
    options = OptimiserOptions(
        learning_rate=2.0, schedule=schedule, steps=steps, warmup_steps=warmup
    )
    rates = [learning_rate(step, options) for step in range(1, steps + 1)]
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[: min(warmup, steps)] == sorted(rates[: min(warmup, steps)])
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)


def test_schedules_end_where_they_say():
    cosine = OptimiserOptions(learning_rate=1.0, steps=100, warmup_steps=10)
    assert learning_rate(10, cosine) == 1.0
    assert learning_rate(55, cosine) == pytest.approx(0.55)
    assert learning_rate(100, cosine) == pytest.approx(0.1)
    flat = OptimiserOptions(
        learning_rate=1.0, schedule="constant", steps=100, warmup_steps=10, decay_steps=20
    )
    assert [learning_rate(step, flat) for step in (5, 50, 80, 90, 100)] == [0.5, 1, 1, 0.5, 0]


def test_an_average_follows_the_weights():
    average = {"w": mx.array(0.0)}
    for step in range(1, 400):
        average = averaged(average, {"w": mx.array(5.0)}, 0.98, step)
    assert average["w"].item() == pytest.approx(5.0, rel=1e-3)
    assert averaged({"w": mx.array(0.0)}, {"w": mx.array(1.0)}, 0.98, 1)["w"].item() > 0.5


def test_vectors_do_not_decay():
    nothing = {"w": mx.zeros((2, 2)), "v": mx.zeros((2,))}
    parameters = {"w": mx.ones((2, 2)), "v": mx.ones((2,))}
    optimiser = make_optimiser(OptimiserOptions(learning_rate=0.5, weight_decay=0.1))
    after = optimiser.apply_gradients(nothing, parameters)
    assert after["w"].max().item() == pytest.approx(0.95)
    assert after["v"].min().item() == 1.0


def test_dropout_thins_training_alone_and_renames_nothing():
    plain, thinned = new_model(MODEL), new_model(MODEL)
    thin(thinned, 0.5)
    names = dict(tree_flatten(plain.parameters())).keys()
    assert dict(tree_flatten(thinned.parameters())).keys() == names
    ids = mx.array([[1, 2, 3]])
    thinned.eval()
    assert mx.array_equal(thinned(ids), plain(ids))
    thinned.train()
    assert not mx.allclose(thinned(ids), plain(ids), atol=1e-3)


def test_a_model_without_places_for_dropout_is_refused():
    with pytest.raises(InvalidOptionError, match="no o_proj and down_proj"):
        thin(nn.Sequential(nn.Linear(2, 2)), 0.5)


def test_accumulated_batches_are_one_large_batch():
    together, _ = weights_after(3, SAMPLES)
    apart, _ = weights_after(3, SAMPLES[:2], SAMPLES[2:], accumulate=2)
    other, _ = weights_after(3, SAMPLES[:2])
    name = "model.layers.0.mlp.up_proj.weight"
    assert mx.allclose(together[name], apart[name], atol=2e-4)
    assert not mx.allclose(together[name], other[name], atol=2e-3)


def test_gradients_are_clipped_to_their_norm():
    _, reports = weights_after(1, SAMPLES)
    assert reports[0].grad_norm > 0.01
    free, _ = weights_after(2, SAMPLES, max_grad_norm=100.0)
    clipped, _ = weights_after(2, SAMPLES, max_grad_norm=1e-9)
    name = "model.norm.weight"
    # Adam divides by the gradient's size, but for what it adds lest it divide by nothing.
    assert mx.abs(clipped[name] - 1).max().item() < mx.abs(free[name] - 1).max().item() / 2


def test_a_loss_that_is_no_number_ends_the_run():
    with pytest.raises(ValidationError, match="not finite"):
        weights_after(5, SAMPLES, learning_rate=1e30)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", 0.0), ("dropout", 1.0), ("decay_steps", 11), ("beta2", -0.1)],
)
def test_options_outside_their_range_are_refused(name, value):
    with pytest.raises(InvalidOptionError, match=f"{name} must be .*{value}"):
        OptimiserOptions(**{"steps": 10, name: value})
