"""The engine's own part: what a state that does not fit leaves behind."""

from dataclasses import replace

import mlx_simul.before_mlx

import numpy as np
import pytest

from mlx_simul import FixedStart, InvalidOptionError
from mlx_simul.engine import StreamingEngine


def fed(model):
    engine = StreamingEngine(model, FixedStart(3))
    engine.read([5, 6, 7])
    engine.write([8, 9])
    return engine


def misfit(state):
    """A last layer that holds fewer tokens than there are."""
    keys, values = state.layers[-1]
    return replace(state, layers=(*state.layers[:-1], (keys[..., 1:, :], values[..., 1:, :])))


def too_few(state):
    return replace(state, layers=state.layers[:-1])


@pytest.mark.parametrize("spoil", [misfit, too_few])
def test_a_state_that_does_not_fit_changes_nothing(model, spoil):
    other = StreamingEngine(model, FixedStart(3))
    other.read([50, 60])
    engine, untouched = fed(model), fed(model)
    with pytest.raises(InvalidOptionError, match="saved state"):
        engine.state = spoil(other.state)
    assert engine.source_tokens == 3
    assert np.array_equal(np.array(engine.write([10])), np.array(untouched.write([10])))


def test_a_state_that_fits_changes_what_follows(model):
    """Negative control: restoring another stream is seen."""
    other = StreamingEngine(model, FixedStart(3))
    other.read([50, 60])
    engine = fed(model)
    engine.state = other.state
    assert engine.source_tokens == 2
    assert not np.array_equal(np.array(engine.write([10])), np.array(fed(model).write([10])))
