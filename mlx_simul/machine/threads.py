"""What a thread that used MLX has to do before it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def clear_streams() -> None:
    """End the work of this thread's MLX streams, and let go of them.

    Otherwise MLX does it while the thread is torn down, and aborts the process if that ends at the
    same moment (https://github.com/ml-explore/mlx/pull/4110).
    """
    mx.synchronize()
    mx.clear_streams()


@contextmanager
def clearing_streams() -> Iterator[None]:
    """Clear the streams of this thread in the end, however it comes."""
    try:
        yield
    finally:
        clear_streams()
