"""Every law of DESIGN ("Tests") on every registered architecture, in every mode it has."""

import mlx.core as mx
from tiny_models import tiny_model

from mlx_simul.testing import ENGINE_OF_MODE, shared_passes_equal_ones_alone


def test_architecture(variation, mode, law, record):
    result = law(tiny_model(variation), make_engine=ENGINE_OF_MODE[mode])
    result.require()
    if variation.dtype == mx.float32 and variation.bits is None and result.n_compared:
        record(variation.model_type, mode, law.name, result.error)


def test_streams_that_share_passes(fusing):
    result = shared_passes_equal_ones_alone(tiny_model(fusing))
    result.require()
    assert result.n_compared == 4
