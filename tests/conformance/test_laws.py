"""Every law of DESIGN ("Tests") on every registered architecture, in every mode it has."""

from tiny_models import tiny_model

from mlx_simul.testing import ENGINE_OF_MODE


def test_architecture(variation, mode, law):
    law(tiny_model(variation), make_engine=ENGINE_OF_MODE[mode]).require()
