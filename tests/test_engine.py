"""The engine's own part: what a state that does not fit leaves behind."""

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
    """A last layer whose counts do not fit its keys."""
    keys, values, n_source, n_target, start = state[-1]
    return [*state[:-1], (keys, values, n_source + 1, n_target, start)]


@pytest.mark.parametrize("spoil", [misfit, lambda state: state[:-1]], ids=["layer", "too few"])
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
