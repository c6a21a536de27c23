"""Simultaneous generation with MLX: a language model that answers while its input arrives.

The names listed in ``__init__.pyi`` are imported on first use, so that what knows no arrays never
loads MLX.
"""

from importlib.metadata import version

import lazy_loader

from mlx_simul.machine.blas import load_blas

load_blas()  # before anything imports MLX
__version__ = version("mlx-simul")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
