"""Every law of DESIGN ("Tests") on every registered architecture."""

import pytest
from tiny_models import VARIATIONS, tiny_model

from mlx_simul import archs
from mlx_simul.testing import LAWS


@pytest.mark.parametrize("law", LAWS)
def test_architecture(law, variation):
    law(tiny_model(variation)).require()


def test_every_registered_architecture_is_enrolled():
    assert {v.model_type for v in VARIATIONS} == set(archs.registered_types())
