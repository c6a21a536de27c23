"""The conformance suite, for anyone's architecture, cache, engine or policy.

To enrol an architecture, or a cache::

    @pytest.mark.parametrize("law", mlx_simul.testing.LAWS)
    def test_my_architecture(law):
        law(my_tiny_model()).require()

    @pytest.mark.parametrize("law", mlx_simul.testing.LAWS)
    def test_my_cache(law):
        law(my_tiny_model(), make_engine=mlx_simul.testing.engine_with(MyCache)).require()

or a policy::

    @pytest.mark.parametrize("law", mlx_simul.testing.POLICY_LAWS)
    def test_my_policy(law):
        law(MyPolicy()).require()

An architecture that fuses keeps one more, for :class:`mlx_simul.Sessions`:
``shared_passes_equal_ones_alone(my_tiny_model()).require()``.

A model that streams by re-encoding keeps ``LAWS_OF_MODE["reencode"]``, tried with
``make_engine=ENGINE_OF_MODE["reencode"]``.
"""

from mlx_simul.testing.batches import shared_passes_equal_ones_alone
from mlx_simul.testing.groups import LAWS
from mlx_simul.testing.modes import ENGINE_OF_MODE, LAWS_OF_MODE
from mlx_simul.testing.policies import POLICY_LAWS, PolicyLaw
from mlx_simul.testing.trial import (
    TOLERANCES,
    Comparison,
    EngineFactory,
    Law,
    LawResult,
    Stream,
    Trial,
    engine_with,
    in_float32,
    law,
    relative_error,
    tolerance_of,
)

__all__ = [
    "ENGINE_OF_MODE",
    "LAWS",
    "LAWS_OF_MODE",
    "POLICY_LAWS",
    "TOLERANCES",
    "Comparison",
    "EngineFactory",
    "Law",
    "LawResult",
    "PolicyLaw",
    "Stream",
    "Trial",
    "engine_with",
    "in_float32",
    "law",
    "relative_error",
    "shared_passes_equal_ones_alone",
    "tolerance_of",
]
