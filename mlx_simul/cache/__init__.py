"""Keys and values of one layer, source and target apart.

:mod:`base` says what is asked of such a cache, :mod:`dual` is the plain one, :mod:`quantized`
stores the same in fewer bits; both keep their tokens in a :mod:`buffer`.
"""

import mlx_simul.before_mlx

from mlx_simul.cache.base import KeysValues, SourceTargetCache
from mlx_simul.cache.dual import DualStreamingCache
from mlx_simul.cache.quantized import QuantizedStreamingCache

__all__ = ["DualStreamingCache", "KeysValues", "QuantizedStreamingCache", "SourceTargetCache"]
