"""The engine's own part: what a state that does not fit leaves behind."""

from dataclasses import replace

import numpy as np
import pytest

from mlx_simul.cache.positions import FixedStart
from mlx_simul.engine import Engine, StreamingEngine
from mlx_simul.engine.batch import Batch
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass, Reply


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


def test_a_long_target_behind_little_source_is_one_pass(model):
    """More tokens than a source pass takes, which cannot be fed in parts."""
    source, header = [5] * 512, [7 + i % 90 for i in range(510)]
    engine, plain = StreamingEngine(model, FixedStart(3)), StreamingEngine(model, FixedStart(3))
    for each, run in ((engine, engine.run), (plain, lambda request: Engine.run(plain, request))):
        each.read(source)
        run(Pass((8, 9), tuple(header)))
    follow = Pass((10,), (11,))
    assert engine.run(follow) == Engine.run(plain, follow)


def test_a_pass_without_tokens_only_forgets(model):
    engine = fed(model)
    assert engine.run(Pass((), n_rewind=1)) == Reply((), 0)
    assert (engine.target_tokens, engine.run(Pass(()))) == (1, Reply((), 0))


def test_a_stream_that_cannot_be_fed_leaves_one_that_is_shorter_whole(model):
    """The longer one decides how long the pass is, and then takes no part in it."""
    batch, engines = Batch(model), [StreamingEngine(model, FixedStart(3)) for _ in range(2)]
    for engine in engines:
        batch.join(engine)
    batch.run([(engine, Pass((5, 6, 7))) for engine in engines])
    beyond = 10**6
    outcomes = batch.run([(engines[0], Pass((), (8, 9, beyond))), (engines[1], Pass((), (8,)))])
    assert isinstance(outcomes[0], InvalidOptionError)
    alone = StreamingEngine(model, FixedStart(3))
    alone.read([5, 6, 7])
    assert outcomes[1].token_ids == (alone.predict([8], ()),)
