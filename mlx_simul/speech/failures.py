"""What is said when a recogniser fails in the middle of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_simul.errors import RecogniserError


@contextmanager
def failing_between(start_s: float, end_s: float) -> Iterator[None]:
    """Let any error of a recogniser's package be a RecogniserError.

    Args:
        start_s: when the audio begins that is being recognised, in seconds of the stream.
        end_s: when it ends.

    Raises:
        RecogniserError: whatever was raised inside is its cause.
    """
    try:
        yield
    except Exception as error:
        raise RecogniserError(
            f"the recogniser failed between {start_s:.1f} and {end_s:.1f} s of the audio with "
            f"{type(error).__name__}: {error}. The words that it gave before stay; begin a new "
            "recognition for the audio after them."
        ) from error
