"""Import this ahead of ``mlx`` or ``mlx_lm``: it gives MLX a fast BLAS, once in a process.

The import itself is the act; :mod:`mlx_simul.blas` explains why, and the import sorter keeps the
line in its place. Warns once, with a :class:`~mlx_simul.errors.SimulWarning`, where there is none.
"""

import warnings

from mlx_simul.blas import load_blas
from mlx_simul.errors import SimulWarning

_blas = load_blas()
if _blas.remedy and not _blas.chosen:
    _tried = f" (tried: {'; '.join(_blas.refusals)})" if _blas.refusals else ""
    warnings.warn(f"MLX multiplies with {_blas}{_tried}", SimulWarning, stacklevel=2)
