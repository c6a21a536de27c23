"""The random numbers of a draw: those of its place in its stream, if the stream has a seed.

No state goes from one draw to the next, so a token is the same in any chunks, with drafts, in a
batch, and in a stream that is saved, restored or resumed. A place that is drawn again after a read
meets the same numbers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import mlx.core as mx


def seed_of(*parts: int) -> int:
    """A seed of 64 bits, different for different parts."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())


@contextmanager
def dice_of(seed: int | None, place: int) -> Iterator[None]:
    """Let MLX draw from the numbers of a place, and leave its own random state as it was.

    mlx-lm's samplers take their random numbers from MLX's state alone.

    Args:
        seed: of the turn; None leaves MLX's state alone.
        place: of the token in the target, from 0.
    """
    if seed is None:
        yield
        return
    before = random_state()
    mx.random.seed(seed_of(seed, place))
    try:
        yield
    finally:
        mx.random.seed(before)


def random_state() -> int:
    """MLX's random state, as the seed that reproduces it."""
    state: Any = mx.random.state
    high, low = state[0].tolist()
    return high << 32 | low
