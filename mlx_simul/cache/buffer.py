"""Two groups of tokens in one contiguous buffer, one growing to the left, one to the right.

Shape legend: B batch, K kv heads, L new tokens, S source tokens, T target tokens, D any size.

::

    free | s4 s3 s2 s1 s0 | t0 t1 t2 | free
                          ^ middle

The source lies mirrored, newest token first. What is stored of a token may be spread over several
*planes*, arrays (B, K, tokens, D) that are cut alike: keys and values, or the words, scales and
biases of quantised ones. The planes of several buffers may be one array, a row each, around one
middle: then the lengths differ from row to row, and a pass can attend to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.errors import CacheStateError, InvalidOptionError

Planes: TypeAlias = tuple[mx.array, ...]


@dataclass(eq=False)
class Place:
    """Which row of the storages of all layers a stream has; it may move."""

    row: int


class Storage:
    """The planes that buffers lie in.

    Args:
        n_rows: rows, each for a buffer; ``None`` if one buffer has it all, of any batch size.
    """

    step = 256

    def __init__(self, n_rows: int | None = None) -> None:
        self.planes: Planes = ()
        self.middle = 0
        self._n_rows = n_rows

    def begin(self, like: Planes) -> None:
        """Hold planes of such heads, sizes and dtypes, with no tokens yet."""
        self.planes = tuple(_empty_like(plane, self._n_rows) for plane in like)
        self.middle = 0

    def make_room(self, left: int, right: int) -> None:
        """Let there be so many tokens on each side of the middle.

        It grows in blocks, an eighth of a side at least, so that copying stays amortised.
        """
        held = self.planes[0].shape[2] - self.middle
        add_left, add_right = self._block(left, self.middle), self._block(right, held)
        if add_left or add_right:
            room = [(0, 0), (0, 0), (add_left, add_right), (0, 0)]
            self.planes = tuple(mx.pad(plane, room) for plane in self.planes)
            self.middle += add_left

    def add_rows(self, n_rows: int) -> None:
        """Let there be so many rows more."""
        self._n_rows = (self._n_rows or 0) + n_rows
        room = [(0, n_rows), (0, 0), (0, 0), (0, 0)]
        self.planes = tuple(mx.pad(plane, room) for plane in self.planes)

    def move_rows(self, moved: list[int], to: list[int]) -> None:
        """Put rows where others were; ``to`` is ``moved`` in another order."""
        rows, places = mx.array(moved), mx.array(to)
        for plane in self.planes:
            plane[places] = plane[rows]

    def put(self, rows: mx.array, columns: mx.array, planes: Planes) -> None:
        """Store new tokens in places of their own.

        Args:
            rows: (B, 1).
            columns: (B, L), counted from the middle.
            planes: (B, K, L, D) each.
        """
        columns = columns + self.middle
        for held, new in zip(self.planes, planes, strict=True):
            held[rows, :, columns] = new.swapaxes(1, 2)

    def window(self, n_rows: int, left: int, right: int) -> Planes:
        """So many tokens on each side of the middle, of the first rows; slices."""
        start, end = self.middle - left, self.middle + right
        return tuple(plane[:n_rows, :, start:end] for plane in self.planes)

    def _block(self, wanted: int, held: int) -> int:
        if wanted <= held:
            return 0
        return -(-max(wanted - held, held // 8) // self.step) * self.step


class MirroredBuffer:
    """``[source mirrored | target]``, contiguous at all times.

    Args:
        storage: where it lies; by default one of its own.
        place: its row there; by default it has all of them.
    """

    def __init__(self, storage: Storage | None = None, place: Place | None = None) -> None:
        self._storage = Storage() if storage is None else storage
        self._place = place
        self.n_source = 0
        self.n_target = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return sum(plane[self._rows].nbytes for plane in self._storage.planes)

    @property
    def is_empty(self) -> bool:
        """Nothing was ever stored, so that shapes and dtypes are still open."""
        return not self._storage.planes

    @property
    def is_shared(self) -> bool:
        """Whether others lie beside it."""
        return self._place is not None

    @property
    def source(self) -> Planes:
        """The source, newest token first; slices."""
        return self._slice(-self.n_source, 0)

    @property
    def target(self) -> Planes:
        """The target, in order; slices."""
        return self._slice(0, self.n_target)

    @property
    def whole(self) -> Planes:
        """``[source mirrored | target]``; slices."""
        return self.without_newest_source(0)

    def without_newest_source(self, n_hidden: int) -> Planes:
        """``[source mirrored | target]``, less the newest source tokens; slices."""
        return self._slice(n_hidden - self.n_source, self.n_target)

    def append_source(self, planes: Planes) -> None:
        """Store source tokens, given in order of arrival."""
        n_new = self._check(planes)
        n_source = self.n_source + n_new
        self._storage.make_room(n_source, self.n_target)
        self._put(-n_source, tuple(plane[..., ::-1, :] for plane in planes))
        self.n_source = n_source

    def append_target(self, planes: Planes) -> None:
        """Store target tokens."""
        n_new = self._check(planes)
        self._storage.make_room(self.n_source, self.n_target + n_new)
        self._put(self.n_target, planes)
        self.n_target += n_new

    def replace_target(self, planes: Planes, first: int = 0) -> None:
        """Store other contents for the target tokens that there are, in some of the planes."""
        self._put(0, planes, first)

    def clear(self) -> None:
        """Hold nothing; memory that is nobody else's is freed."""
        self.n_source = self.n_target = 0
        if self._place is None:
            self._storage = Storage()
            return
        for plane in self._storage.planes:
            plane[self._rows] = mx.zeros((), plane.dtype)

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
        if self._place is None:
            # New handles: writing into these must not write into what was saved.
            self._storage.planes = tuple(plane[:] for plane in planes)
            self._storage.middle = n_source
        elif planes:
            self._check(planes)
            self._storage.make_room(n_source, n_target)
            self._put(-n_source, planes)
        self.n_source, self.n_target = n_source, n_target

    @property
    def _rows(self) -> slice:
        if self._place is None:
            return slice(None)
        return slice(self._place.row, self._place.row + 1)

    def _slice(self, start: int, end: int) -> Planes:
        """From one place to another, both counted from the middle."""
        if self.is_empty:
            raise CacheStateError("nothing is cached yet: update the source or the target first.")
        start, end = start + self._storage.middle, end + self._storage.middle
        return tuple(plane[self._rows, :, start:end] for plane in self._storage.planes)

    def _put(self, start: int, planes: Planes, first: int = 0) -> None:
        start += self._storage.middle
        changed = self._storage.planes[first : first + len(planes)]
        for held, new in zip(changed, planes, strict=True):
            held[self._rows, :, start : start + new.shape[2]] = new

    def _check(self, planes: Planes) -> int:
        """Refuse what does not fit before anything is changed; return L."""
        if self.is_empty:
            self._storage.begin(planes)
        for held, new in zip(self._storage.planes, planes, strict=True):
            batch = held.shape[0] if self._place is None else 1
            fits = new.shape[:2] == (batch, held.shape[1]) and new.shape[3] == held.shape[3]
            if not fits or new.dtype != held.dtype:
                raise InvalidOptionError(
                    f"keys or values of shape {new.shape} and {new.dtype} do not extend a cache of "
                    f"{(batch, held.shape[1])} x tokens x {held.shape[3]} and {held.dtype}; batch, "
                    "heads, head size and dtype must stay the same (reset() starts anew)."
                )
        return planes[0].shape[2]


def _empty_like(x: mx.array, n_rows: int | None) -> mx.array:
    B, K, _, D = x.shape
    return mx.zeros((B if n_rows is None else n_rows, K, 0, D), x.dtype)
