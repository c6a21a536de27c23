"""Audio of files and streams, as recognisers take it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import RecogniserError


def checked(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio, if it is what recognisers take.

    Raises:
        RecogniserError: it is not float32 of one channel, or a sample is not a finite number.
    """
    if not isinstance(audio, np.ndarray) or audio.dtype != np.float32 or audio.ndim != 1:
        kind = (
            f"{audio.dtype} of shape {audio.shape}"
            if isinstance(audio, np.ndarray)
            else type(audio).__name__
        )
        raise RecogniserError(
            f"audio must be a float32 array of shape (samples,), got {kind}; mix channels and "
            "convert integers first (mlx_simul.speech.audio does)."
        )
    if not np.isfinite(audio).all():
        raise RecogniserError(
            "a sample of the audio is not a finite number; convert the recording to 16-bit PCM."
        )
    return audio
