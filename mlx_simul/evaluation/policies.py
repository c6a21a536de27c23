"""Policies by name, for grids."""

from __future__ import annotations

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies import Policy, WaitK

WHOLE = "whole"
"""The whole source first: the same model read offline."""

# More words than any source has: wait-k with such a k reads everything first.
_WHOLE_K = 1 << 20


def whole_source() -> Policy:
    """The policy that writes nothing before it has read everything."""
    return WaitK(_WHOLE_K)


def policy_of(spec: str) -> Policy:
    """A fresh policy.

    Args:
        spec: ``wait-k:3``, or ``whole``.

    Raises:
        InvalidOptionError: if there is no such policy.
    """
    if spec == WHOLE:
        return whole_source()
    name, _, k = spec.partition(":")
    if name == "wait-k" and k.isdecimal():
        return WaitK(int(k))
    raise InvalidOptionError(
        f"there is no policy {spec!r}; there are wait-k:K, as in wait-k:3, and whole."
    )


def family_of(spec: str) -> str:
    """A policy's name without its options: ``wait-k`` of ``wait-k:3``."""
    return spec.partition(":")[0]
