"""Two position counters over one RoPE: where the target starts, and moving it.

Each token's own position is computed in :mod:`mlx_simul.cache.layout`.

Shape legend: B batch, K kv heads, T target tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import mlx.core as mx

from mlx_simul.errors import InvalidOptionError

Rope: TypeAlias = Callable[..., mx.array]

DEFAULT_MARGIN_TOKENS = 8

MAX_POSITION = 2**24
"""Beyond it float32 cannot tell one position from the next."""

# Far above what float32 angles lose at 10^5 positions, far below two unrelated rotations (1.4).
_COMPOSES_WITHIN = 0.25


class TokenPositions:
    """Where each token of a pass stands; what a cache answers as its ``offset`` if that differs.

    It is not a number, so that code that would count on from it fails instead of going astray.

    Args:
        positions: (B, L); (1, L) if it is the same for all rows of a batch.
    """

    def __init__(self, positions: mx.array) -> None:
        self.positions = positions
        self._flat = positions.flatten()

    def of_tokens(self, n_batch: int, n_tokens: int) -> mx.array:
        """(B * L,) positions."""
        if self._flat.size == n_batch * n_tokens:
            return self._flat
        return mx.broadcast_to(self.positions, (n_batch, n_tokens)).flatten()


class FusedRope:
    """Mixed into a RoPE module, lets it turn each row of a fused pass by its own position."""

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        """Turn (B, K, L, D), from a position on, or each row or token as the offset says."""
        if not isinstance(offset, TokenPositions):
            return super().__call__(x, offset)  # pyright: ignore[reportAttributeAccessIssue]
        B, K, L, D = x.shape
        # One token per row of a batch: a row has an offset of its own.
        tokens = x.swapaxes(1, 2).reshape(B * L, K, 1, D)
        turned = super().__call__(  # pyright: ignore[reportAttributeAccessIssue]
            tokens, offset=offset.of_tokens(B, L)
        )
        return turned.reshape(B, L, K, D).swapaxes(1, 2)


@runtime_checkable
class TargetStart(Protocol):
    """Says at which position the target group starts (φ)."""

    def position(self, n_source: int, current: int | None) -> int:
        """φ once ``n_source`` source tokens are read; ``current`` is φ so far, if it was set."""
        ...


@dataclass(frozen=True)
class FixedStart:
    """φ never moves, as GPE trains and runs (SPEC section 1).

    Args:
        start: the position of the first target token.
    """

    start: int

    def __post_init__(self) -> None:
        if not isinstance(self.start, int) or not 0 <= self.start <= MAX_POSITION:
            raise InvalidOptionError(
                f"target_start must be a position from 0 to {MAX_POSITION}, got {self.start!r}."
            )

    def position(self, n_source: int, current: int | None) -> int:
        """The fixed φ."""
        return self.start


@dataclass(frozen=True)
class FollowStart:
    """φ stays just behind the source: when a read overtakes it, it moves on (SPEC section 1).

    Args:
        margin_tokens: how far behind the source it lands, so that it moves only once in that many
            tokens.
    """

    margin_tokens: int = DEFAULT_MARGIN_TOKENS

    def __post_init__(self) -> None:
        if self.margin_tokens < 0:
            raise InvalidOptionError(
                "the margin of target_start='follow' must not be negative, got "
                f"{self.margin_tokens}."
            )

    def position(self, n_source: int, current: int | None) -> int:
        """φ, moved to ``margin_tokens`` behind the source if the source has overtaken it."""
        if current is None or n_source > current:
            return n_source + self.margin_tokens
        return current


@dataclass(frozen=True)
class StayStart:
    """φ is set well behind the source at the first write and never moves.

    For models whose RoPE cannot be rotated again (:func:`rotates_exactly`): once φ lies beyond the
    prefix, a source that outgrows it does little harm (SPEC section 1).

    Args:
        margin_tokens: how far behind the source read at the first write.
    """

    margin_tokens: int = 64

    def position(self, n_source: int, current: int | None) -> int:
        """φ, chosen once."""
        return n_source + self.margin_tokens if current is None else current


def make_target_start(value: int | str | TargetStart, trained: int | str | None) -> TargetStart:
    """What ``target_start=`` means for a checkpoint.

    Args:
        value: a position, ``"follow"``, ``"auto"``, or a :class:`TargetStart`.
        trained: what the checkpoint's config says it was trained with, if anything.

    Raises:
        InvalidOptionError: for anything else.
    """
    if value == "auto":
        value = "follow" if trained in (None, "auto") else trained
    if value == "follow":
        return FollowStart()
    if isinstance(value, int) and not isinstance(value, bool):
        return FixedStart(value)
    if isinstance(value, TargetStart) and not isinstance(value, type):
        return value
    raise InvalidOptionError(
        f"target_start must be a position, 'follow' or 'auto', got {value!r}; "
        'FollowStart(margin_tokens) sets the margin. ("auto" takes it from config.json\'s '
        "mlx_simul.target_start.)"
    )


def rotate(rope: Rope, keys: mx.array, delta: int) -> mx.array:
    """Move rotated keys on by ``delta`` positions.

    Rotations compose, so a key rotated to p and then by Δ is the key at p + Δ. Whatever scale the
    module puts on its input (YaRN, LongRoPE) is in the keys already and is taken out first.

    Args:
        rope: the layer's own RoPE module.
        keys: (B, K, T, D), rotated, in float32.
        delta: Δ, in positions.

    Returns:
        (B, K, T, D).
    """
    B, K, T, D = keys.shape
    unscaled = keys / _scale(rope, D)
    # One token per row, so that every key is rotated by the same offset.
    rotated = rope(unscaled.reshape(B, K * T, 1, D), offset=delta)
    return rotated.reshape(B, K, T, D)


def rotates_exactly(rope: Rope, head_dim: int, max_positions: int) -> bool:
    """Whether rotations by this module compose: two small ones equal one large one.

    They do not where the frequencies depend on the position itself (dynamic NTK), which shows only
    beyond the trained length.

    Args:
        rope: the layer's own RoPE module.
        head_dim: D.
        max_positions: the trained length, in tokens.
    """
    return all_rotate_exactly([(rope, head_dim)], max_positions)


def all_rotate_exactly(layers: Iterable[tuple[Rope | None, int]], max_positions: int) -> bool:
    """:func:`rotates_exactly` for RoPE modules and their D, in one evaluation."""
    errors = [
        _composition_error(rope, head_dim, start, delta)
        for rope, head_dim in layers
        if rope is not None
        for start, delta in ((3, 5), (max_positions, max_positions))
    ]
    return not errors or bool((mx.stack(errors).max() <= _COMPOSES_WITHIN).item())


def _composition_error(rope: Rope, head_dim: int, start: int, delta: int) -> mx.array:
    key = mx.random.normal((1, 1, 1, head_dim), key=mx.random.key(0))
    moved = rotate(rope, rope(key, offset=start), delta)
    whole = rotate(rope, _scale(rope, head_dim) * key, start + delta)
    return mx.linalg.norm(moved - whole) / mx.linalg.norm(whole)


def _scale(rope: Rope, head_dim: int) -> mx.array:
    """The factor the module puts on each dimension: what it makes of ones at position 0."""
    return rope(mx.ones((1, 1, 1, head_dim)), offset=0)
