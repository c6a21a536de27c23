"""Where the tokens of a pass stand, where they are stored, and what they see.

All of it follows from the :class:`~mlx_simul.cache.plan.PassPlan`; all layers look at one layout.

Shape legend: B streams in the pass, L tokens of the longest of them, C columns: what is attended
to, in the order in which it lies (:mod:`mlx_simul.cache.storage`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_simul.cache.masks import who_sees_whom
from mlx_simul.cache.plan import Lane, PassPlan
from mlx_simul.cache.positions import TokenPositions
from mlx_simul.cache.storage import Planes, Storage, rows_of

_UNBOUNDED = 2**30


def layout_of(plan: PassPlan) -> Layout:
    """The layout of a pass; that of one stream needs slices only."""
    return Layout(plan) if len(plan.lanes) > 1 else SliceLayout(plan)


class Layout:
    """Any pass: of each stream as many tokens to each group as its lane says.

    A stream that feeds fewer than L tokens is filled up with target tokens that nothing counts:
    they lie behind all that it has, so that nothing sees them, and the next tokens are put in their
    place.

    Args:
        plan: the pass.
    """

    def __init__(self, plan: PassPlan) -> None:
        self.plan = plan
        # How far from the middle the columns reach.
        self.left = max(lane.n_source_after for lane in plan.lanes)
        self.right = max(lane.n_target_after for lane in plan.lanes)
        self._masks: dict[tuple[int | None, int | None], mx.array] = {}

    @property
    def offset(self) -> int | TokenPositions:
        """The position of each token; of consecutive ones, that of the first."""
        return self._positions

    def put(self, storage: Storage, planes: Planes) -> None:
        """Store the tokens of the pass, (B, K, L, D) each plane."""
        filled = max(lane.n_target - lane.n_new_source for lane in self.plan.lanes)
        storage.make_room(self.left, self.plan.n_tokens + filled)
        storage.scatter(self._rows, self._places, planes)

    def fetch(self, storage: Storage) -> Planes:
        """What the tokens attend to, (B, K, C, D) each plane; slices if the rows are neighbours.

        Others are copied. Letting them change places with those between, so that they are slices,
        would copy more: in a live batch each pass is for other streams.
        """
        numbers = self._row_numbers
        first, n_rows = numbers[0], len(numbers)
        if numbers == list(range(first, first + n_rows)):
            return storage.between(slice(first, first + n_rows), -self.left, self.right)
        return storage.gather(numbers, -self.left, self.right)

    def mask(
        self, window: int | None = None, chunk: int | None = None, as_array: bool = True
    ) -> mx.array | str | None:
        """Who sees whom.

        Args:
            window: tokens that one may look back on, itself included; ``None`` for all.
            chunk: tokens in each of the chunks across which nothing is seen; ``None`` for none.
            as_array: never answer with the name ``"causal"``.

        Returns:
            Boolean (B, 1, L, C), True = may see; of a single stream (L, C), ``"causal"``, or
            ``None`` if everything may be seen.
        """
        if (window, chunk) not in self._masks:
            self._masks[window, chunk] = self._mask(window, chunk)
        return self._masks[window, chunk]

    def source_columns(self, i: int) -> range:
        """Where the source tokens that the target of lane i sees lie among the C, oldest first."""
        n_visible = self.plan.lanes[i].n_visible
        return range(self.left - 1, self.left - 1 - n_visible, -1)

    # What holds for each token, (B, L)

    @cached_property
    def _rows(self) -> mx.array:
        return mx.array(self._row_numbers)[:, None]

    @cached_property
    def _row_numbers(self) -> list[int]:
        return [lane.row or 0 for lane in self.plan.lanes]

    @cached_property
    def _is_source(self) -> mx.array:
        return self._token < self._each(lane.n_new_source for lane in self.plan.lanes)

    @cached_property
    def _token(self) -> mx.array:
        return mx.arange(self.plan.n_tokens)[None]

    @cached_property
    def _number(self) -> mx.array:
        """The number of each token in its group."""
        in_source = self._each(lane.n_source for lane in self.plan.lanes) + self._token
        in_target = self._each(lane.n_target - lane.n_new_source for lane in self.plan.lanes)
        return mx.where(self._is_source, in_source, in_target + self._token)

    @cached_property
    def _places(self) -> mx.array:
        return mx.where(self._is_source, -1 - self._number, self._number)

    @cached_property
    def _standing(self) -> mx.array:
        """As ``_number``, but of a token of a tree as if there were only what leads to it."""
        if not self._has_trees:
            return self._number
        lanes, n_tokens = self.plan.lanes, self.plan.n_tokens
        firsts = [lane.n_target - lane.n_new_source for lane in lanes]
        in_target = [
            lane.numbers(first, first + n_tokens) for lane, first in zip(lanes, firsts, strict=True)
        ]
        return mx.where(self._is_source, self._number, mx.array(in_target, mx.int32))

    @cached_property
    def _positions(self) -> TokenPositions:
        start = self._each(lane.target_start for lane in self.plan.lanes)
        return TokenPositions(mx.where(self._is_source, self._standing, start + self._standing))

    @property
    def _has_trees(self) -> bool:
        return any(lane.parents for lane in self.plan.lanes)

    def _target_columns(self) -> mx.array:
        """Where the target tokens among the columns stand, (T,) or (B, 1, T)."""
        if not self._has_trees:
            return mx.arange(self.right)
        return mx.array([[lane.numbers(0, self.right)] for lane in self.plan.lanes], mx.int32)

    def _apart(self) -> mx.array | None:
        """Which tokens are on different branches of a tree, (B, L, C); None without trees."""
        if not self._has_trees:
            return None
        n_columns = self.left + self.right
        apart = np.zeros((len(self.plan.lanes), self.plan.n_tokens, n_columns), bool)
        for lane, matrix in zip(self.plan.lanes, apart, strict=True):
            row = lane.n_new_source + lane.n_new_target - len(lane.parents)
            column = self.left + lane.n_target_after - len(lane.parents)
            for i, path in enumerate(lane.paths):
                matrix[row + i, column : column + len(lane.parents)] = True
                matrix[row + i, [column + j for j in path]] = False
        return mx.array(apart)

    def _each(self, values: Iterable[int]) -> mx.array:
        return mx.array([*values], mx.int32)[:, None]

    def _mask(self, window: int | None, chunk: int | None) -> mx.array:
        lanes = self.plan.lanes
        n_visible = mx.where(
            self._is_source,
            self._each(lane.n_source_after for lane in lanes),
            self._each(lane.n_visible for lane in lanes),
        )
        order = mx.where(self._is_source, self._standing, n_visible + self._standing)
        is_bound = self._is_source | (self._each(lane.windows_target for lane in lanes) > 0)
        reach, within = (
            None if n is None else mx.where(is_bound, n, _UNBOUNDED) for n in (window, chunk)
        )
        seen = who_sees_whom(
            order,
            n_visible,
            mx.arange(self.left - 1, -1, -1),
            self._target_columns(),
            reach,
            within,
            self._apart(),
        )
        # A token that sees nothing would be NaN, and so would what is put behind the stream.
        n_real = self._each(lane.n_new_source + lane.n_new_target for lane in lanes)
        return (seen | (self._token >= n_real)[..., None])[:, None]


class SliceLayout(Layout):
    """A pass of one stream: its tokens lie side by side, and hidden source lies at the far end."""

    def __init__(self, plan: PassPlan) -> None:
        super().__init__(plan)
        (lane,) = plan.lanes
        self._lane: Lane = lane
        # Source tokens do not see the target, and the target does not see what is hidden.
        self.left, self.right = lane.n_source_after, 0
        if lane.n_new_target:
            self.left, self.right = lane.n_visible, lane.n_target_after

    @property
    def offset(self) -> int | TokenPositions:
        """The position of the first token if they are consecutive, else of each."""
        lane = self._lane
        if not lane.n_new_target:
            return lane.n_source
        if not lane.n_new_source and not lane.parents:
            return lane.target_start + lane.n_target
        return self._positions

    @cached_property
    def _positions(self) -> TokenPositions:
        lane = self._lane
        source, target = range(lane.n_source, lane.n_source_after), self._new_target
        positions = [*source, *(lane.target_start + number for number in target)]
        return TokenPositions(mx.array([positions], mx.int32))

    def _target_columns(self) -> mx.array:
        columns = super()._target_columns()
        return columns[0, 0] if self._has_trees else columns

    def _apart(self) -> mx.array | None:
        apart = super()._apart()
        return None if apart is None else apart[0]

    @property
    def _new_target(self) -> list[int]:
        """Where the new target tokens stand in the target."""
        return self._lane.numbers(self._lane.n_target, self._lane.n_target_after)

    def put(self, storage: Storage, planes: Planes) -> None:
        """Store the tokens of the pass, (B, K, L, D) each plane."""
        lane, rows, n = self._lane, rows_of(self._lane.row), self._lane.n_new_source
        storage.make_room(lane.n_source_after, lane.n_target_after)
        if n:
            mirrored = tuple(plane[..., :n, :][..., ::-1, :] for plane in planes)
            storage.write(rows, -lane.n_source_after, mirrored)
        if lane.n_new_target:
            storage.write(rows, lane.n_target, tuple(plane[..., n:, :] for plane in planes))

    def fetch(self, storage: Storage) -> Planes:
        """What the tokens attend to, (B, K, C, D) each plane; slices."""
        return storage.between(rows_of(self._lane.row), -self.left, self.right)

    def mask(
        self, window: int | None = None, chunk: int | None = None, as_array: bool = False
    ) -> mx.array | str | None:
        """Who sees whom: (L, C), or one of the forms that MLX knows without an array."""
        lane, n_columns = self._lane, self.left + self.right
        if not lane.n_new_source and not lane.windows_target:
            window = chunk = None
        if all(n is None or n_columns <= n for n in (window, chunk)):
            if self.plan.n_tokens == 1:
                return None
            if not lane.n_new_source and not lane.parents and not as_array:
                return "causal"
        return super().mask(window, chunk)

    def _mask(self, window: int | None, chunk: int | None) -> mx.array:
        lane = self._lane
        behind = [lane.n_visible + number for number in self._new_target]
        order = [*range(lane.n_source, lane.n_source_after), *behind]
        n_visible = [lane.n_source_after] * lane.n_new_source + [lane.n_visible] * len(behind)
        reach, within = (self._of_each_token(n) for n in (window, chunk))
        return who_sees_whom(
            mx.array(order, mx.int32),
            mx.array(n_visible, mx.int32),
            mx.arange(self.left - 1, -1, -1),
            self._target_columns(),
            reach,
            within,
            self._apart(),
        )

    def _of_each_token(self, bound: int | None) -> mx.array | int | None:
        lane = self._lane
        if bound is None or lane.windows_target:
            return bound
        free = [_UNBOUNDED] * lane.n_new_target
        return mx.array([bound] * lane.n_new_source + free, mx.int32)
