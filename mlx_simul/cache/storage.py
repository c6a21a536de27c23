"""Where the tokens of one layer lie: a row for each stream, its two groups around one middle.

Shape legend: B rows, K kv heads, L new tokens, S source tokens, T target tokens, D any size.

::

    free | s4 s3 s2 s1 s0 | t0 t1 t2 | free
                          ^ middle

The source lies mirrored, newest token first, so that it grows to the left and the target to the
right, and ``[source | target]`` is contiguous at all times. Places are counted from the middle:
source token j lies at -1 - j, target token j at j. What is stored of a token may be spread over
several *planes*, arrays (B, K, tokens, D) that are cut alike: keys and values, or the words, scales
and biases of quantised ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from mlx_simul.errors import CacheStateError, InvalidOptionError

Planes: TypeAlias = tuple[mx.array, ...]

ALL_ROWS = slice(None)


class Storage:
    """The planes of one layer.

    Attributes:
        planes: empty until something is stored, for shapes and dtypes are open until then.

    Args:
        n_rows: rows, one for each stream; ``None`` if one stream has all of them, however many.
    """

    step = 256

    def __init__(self, n_rows: int | None = None) -> None:
        self.planes: Planes = ()
        self._middle = 0
        self._n_rows = n_rows

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return sum(plane.nbytes for plane in self.planes)

    @property
    def is_shared(self) -> bool:
        """Whether several streams lie here."""
        return self._n_rows is not None

    def holds(self, row: int | None, left: int, right: int) -> bool:
        """Whether there is such a row, with room for this many tokens on each side."""
        has_row = row is None if self._n_rows is None else row is not None and row < self._n_rows
        if not self.planes:
            return has_row and not left and not right
        return has_row and left <= self._middle and right <= self.planes[0].shape[2] - self._middle

    def write(self, rows: slice, start: int, planes: Planes, first: int = 0) -> None:
        """Store consecutive tokens.

        Args:
            rows: whose they are.
            start: the place of the first of them.
            planes: (B, K, L, D) each.
            first: which of the planes held is the first to be written.
        """
        start += self._middle
        for held, new in zip(self.planes[first : first + len(planes)], planes, strict=True):
            held[rows, :, start : start + new.shape[2]] = new

    def scatter(self, rows: mx.array, places: mx.array, planes: Planes) -> None:
        """Store tokens each in a place of its own.

        Args:
            rows: (B, 1).
            places: (B, L).
            planes: (B, K, L, D) each.
        """
        columns = places + self._middle
        for held, new in zip(self.planes, planes, strict=True):
            held[rows, :, columns] = new.swapaxes(1, 2)

    def between(self, rows: slice, start: int, end: int) -> Planes:
        """What lies from one place to before another; slices.

        Raises:
            CacheStateError: if nothing is stored.
        """
        if not self.planes:
            raise CacheStateError("nothing is cached yet: update the source or the target first.")
        start, end = start + self._middle, end + self._middle
        return tuple(plane[rows, :, start:end] for plane in self.planes)

    def gather(self, rows: Sequence[int], start: int, end: int) -> Planes:
        """As :meth:`between`, but of any rows; the result is a copy.

        Raises:
            CacheStateError: if nothing is stored.
        """
        gathered = []
        for plane in self.between(ALL_ROWS, start, end):
            B, K, C, D = plane.shape
            # MLX copies what it gathers in one piece only if it lies in one piece: that of a head
            # does, that of a row does not.
            heads = mx.array([row * K + k for row in rows for k in range(K)])
            of_heads = mx.take(plane.reshape(B * K, C, D), heads, axis=0)
            gathered.append(of_heads.reshape(len(rows), K, C, D))
        return tuple(gathered)

    def make_room(self, left: int, right: int) -> None:
        """Make room for this many tokens on each side of the middle.

        It grows in blocks, an eighth of a side at least, so that copying stays amortised.
        """
        held = self.planes[0].shape[2] - self._middle
        add_left, add_right = self._block(left, self._middle), self._block(right, held)
        if add_left or add_right:
            room = [(0, 0), (0, 0), (add_left, add_right), (0, 0)]
            self.planes = tuple(mx.pad(plane, room) for plane in self.planes)
            self._middle += add_left

    def fit(self, planes: Planes, n_rows: int | None = None) -> None:
        """Refuse what does not go with what is stored; the first tokens decide.

        Args:
            planes: new tokens, (B, K, L, D) each.
            n_rows: rows that they are for; by default as many as there are.

        Raises:
            InvalidOptionError: if heads, sizes, dtypes or rows differ.
        """
        if not self.planes:
            self.planes = tuple(self._empty_like(plane) for plane in planes)
            self._middle = 0
        for held, new in zip(self.planes, planes, strict=True):
            B, K, _, D = held.shape
            wanted = (B if n_rows is None else n_rows, K, D)
            if (*new.shape[:2], new.shape[3]) != wanted or new.dtype != held.dtype:
                raise InvalidOptionError(
                    f"keys or values of shape {new.shape} and {new.dtype} do not extend a cache of "
                    f"{wanted[:2]} x tokens x {D} and {held.dtype}; batch, heads, head size and "
                    "dtype must stay the same (reset() starts anew)."
                )

    def replace(self, planes: Planes, middle: int) -> None:
        """Hold these planes and no others; what is written later does not write into them."""
        self.planes = tuple(plane[:] for plane in planes)
        self._middle = middle

    def clear(self, row: int | None) -> None:
        """Forget a row, or all; memory that belongs to one stream alone is freed."""
        if row is None:
            self.planes, self._middle = (), 0
        for plane in self.planes:
            plane[row : row + 1] = mx.zeros((), plane.dtype)  # pyright: ignore

    def add_rows(self, n_rows: int) -> None:
        """Add this many rows."""
        self._n_rows = (self._n_rows or 0) + n_rows
        room = [(0, n_rows), (0, 0), (0, 0), (0, 0)]
        self.planes = tuple(mx.pad(plane, room) for plane in self.planes)

    def keep(self, n_rows: int, left: int, right: int) -> None:
        """Give back all but the first rows, and all but this many tokens on each side."""
        if not self.planes:
            self._n_rows = n_rows
            return
        kept_left = min(self._middle, self._blocks(left))
        end = self._middle + self._blocks(right)
        start = self._middle - kept_left
        # A copy, for a slice would keep the whole array alive.
        self.planes = tuple(mx.contiguous(plane[:n_rows, :, start:end]) for plane in self.planes)
        mx.eval(self.planes)
        self._n_rows, self._middle = n_rows, kept_left

    def _empty_like(self, x: mx.array) -> mx.array:
        B, K, _, D = x.shape
        return mx.zeros((B if self._n_rows is None else self._n_rows, K, 0, D), x.dtype)

    def _block(self, wanted: int, held: int) -> int:
        return 0 if wanted <= held else self._blocks(max(wanted - held, held // 8))

    def _blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self.step) * self.step


def rows_of(row: int | None) -> slice:
    """The slice of the rows that one stream has."""
    return ALL_ROWS if row is None else slice(row, row + 1)
