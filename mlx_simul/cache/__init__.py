"""Keys and values of one layer: where tokens lie, where they stand, and who sees whom.

:mod:`plan` says how many tokens of which stream a pass feeds, :mod:`layout` what follows for all
layers, :mod:`storage` holds the tokens of one of them, and :mod:`layer` answers what mlx-lm's
attention asks.
"""

from mlx_simul.cache.base import SourceTargetCache
from mlx_simul.cache.dual import DualStreamingCache
from mlx_simul.cache.layer import LayerCache
from mlx_simul.cache.layout import Layout, layout_of
from mlx_simul.cache.plan import Lane, PassPlan
from mlx_simul.cache.quantized import QuantizedLayerCache

__all__ = [
    "DualStreamingCache",
    "Lane",
    "LayerCache",
    "Layout",
    "PassPlan",
    "QuantizedLayerCache",
    "SourceTargetCache",
    "layout_of",
]
