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
        spec: ``wait-3``, or ``whole``.

    Raises:
        InvalidOptionError: if there is no such policy.
    """
    if spec == WHOLE:
        return whole_source()
    kind, _, k = spec.rpartition("-")
    if kind == "wait" and k.isdecimal():
        return WaitK(int(k))
    raise InvalidOptionError(
        f"there is no policy {spec!r}; there are wait-K, as in wait-3, and whole."
    )
