"""Numbers from a GGUF file's metadata, checked as they are read."""

from __future__ import annotations

import math

import numpy as np

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.errors import ConversionError


def positive(file: GGUFFile, key: str, default: int | None = None) -> int:
    """Return a positive size; one value a layer is accepted where all layers agree.

    Raises:
        ConversionError: if it is missing, below 1, or differs between layers.
    """
    per_layer = file.metadata.get(key)
    if isinstance(per_layer, np.ndarray) and len(np.unique(per_layer)) == 1:
        value = int(per_layer[0])
    else:
        value = file.get(key, int, default)
    if value < 1:
        raise ConversionError(f"{file.path}: {key!r} is {value}, but must be at least 1.")
    return value


def above_zero(file: GGUFFile, key: str, default: float | None = None) -> float:
    """Return a positive number.

    Raises:
        ConversionError: if it is missing, not finite, or not above 0.
    """
    value = file.get(key, float, default)
    if not 0 < value < math.inf:
        raise ConversionError(f"{file.path}: {key!r} is {value}, but must be finite and above 0.")
    return value
