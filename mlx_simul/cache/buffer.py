"""Two groups of tokens in one contiguous buffer, one growing to the left, one to the right.

Shape legend: B batch, K kv heads, L new tokens, S source tokens, T target tokens, D any size.

::

    free | s4 s3 s2 s1 s0 | t0 t1 t2 | free
                          ^ middle

The source lies mirrored, newest token first. What is stored of a token may be spread over several
*planes*, arrays (B, K, tokens, D) that are cut alike: keys and values, or the words, scales and
biases of quantised ones.
"""

from __future__ import annotations

from typing import TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.errors import CacheStateError, InvalidOptionError

Planes: TypeAlias = tuple[mx.array, ...]


class MirroredBuffer:
    """``[source mirrored | target]``, contiguous at all times."""

    step = 256

    def __init__(self) -> None:
        self._planes: Planes = ()
        self._middle = 0
        self.n_source = 0
        self.n_target = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return sum(plane.nbytes for plane in self._planes)

    @property
    def is_empty(self) -> bool:
        """Nothing was ever stored, so that shapes and dtypes are still open."""
        return not self._planes

    @property
    def source(self) -> Planes:
        """The source, newest token first; slices."""
        return self._slice(self._middle - self.n_source, self._middle)

    @property
    def target(self) -> Planes:
        """The target, in order; slices."""
        return self._slice(self._middle, self._middle + self.n_target)

    @property
    def whole(self) -> Planes:
        """``[source mirrored | target]``; slices."""
        return self.without_newest_source(0)

    def without_newest_source(self, n_hidden: int) -> Planes:
        """``[source mirrored | target]``, less the newest source tokens; slices."""
        n_visible = self.n_source - n_hidden
        return self._slice(self._middle - n_visible, self._middle + self.n_target)

    def append_source(self, planes: Planes) -> None:
        """Store source tokens, given in order of arrival."""
        n_new = self._check(planes)
        self._make_room(left=n_new, right=0)
        end = self._middle - self.n_source
        self._put(end - n_new, tuple(plane[..., ::-1, :] for plane in planes))
        self.n_source += n_new

    def append_target(self, planes: Planes) -> None:
        """Store target tokens."""
        n_new = self._check(planes)
        self._make_room(left=0, right=n_new)
        self._put(self._middle + self.n_target, planes)
        self.n_target += n_new

    def replace_target(self, planes: Planes) -> None:
        """Store other contents for the target tokens that there are."""
        self._put(self._middle, planes)

    def restore(self, planes: Planes, n_source: int, n_target: int) -> None:
        """Hold what :attr:`whole` gave earlier.

        Raises:
            InvalidOptionError: if it does not hold so many tokens.
        """
        lengths = {plane.shape[2] for plane in planes} or {0}
        if min(n_source, n_target) < 0 or lengths != {n_source + n_target}:
            raise InvalidOptionError(
                f"a saved state of {n_source} source and {n_target} target tokens must hold as "
                f"many keys and values, got {sorted(lengths)}; it may be cut short or of another "
                "model."
            )
        # New handles: writing into these must not write into what was saved.
        self._planes = tuple(plane[:] for plane in planes)
        self._middle = self.n_source = n_source
        self.n_target = n_target

    def _slice(self, start: int, end: int) -> Planes:
        if not self._planes:
            raise CacheStateError("nothing is cached yet: update the source or the target first.")
        return tuple(plane[..., start:end, :] for plane in self._planes)

    def _put(self, start: int, planes: Planes) -> None:
        for held, new in zip(self._planes, planes, strict=True):
            held[..., start : start + new.shape[2], :] = new

    def _check(self, planes: Planes) -> int:
        """Refuse what does not fit before anything is changed; return L."""
        if self.is_empty:
            self._planes = tuple(_empty_like(plane) for plane in planes)
            self._middle = 0
        for held, new in zip(self._planes, planes, strict=True):
            fits = new.shape[:2] == held.shape[:2] and new.shape[3] == held.shape[3]
            if not fits or new.dtype != held.dtype:
                raise InvalidOptionError(
                    f"keys or values of shape {new.shape} and {new.dtype} do not extend a cache of "
                    f"{held.shape[:2]} x tokens x {held.shape[3]} and {held.dtype}; batch, heads, "
                    "head size and dtype must stay the same (reset() starts anew)."
                )
        return planes[0].shape[2]

    def _make_room(self, left: int, right: int) -> None:
        """Grow in blocks, an eighth of what is held at least, so that copying stays amortised."""
        size = self._planes[0].shape[2]
        left_short = left - (self._middle - self.n_source)
        right_short = right - (size - self._middle - self.n_target)
        if left_short <= 0 and right_short <= 0:
            return
        add_left, add_right = self._block(left_short), self._block(right_short)
        room = [(0, 0), (0, 0), (add_left, add_right), (0, 0)]
        self._planes = tuple(mx.pad(plane, room) for plane in self._planes)
        self._middle += add_left

    def _block(self, short: int) -> int:
        if short <= 0:
            return 0
        held = self.n_source + self.n_target
        return -(-max(short, held // 8) // self.step) * self.step


def _empty_like(x: mx.array) -> mx.array:
    B, K, _, D = x.shape
    return mx.zeros((B, K, 0, D), x.dtype)
