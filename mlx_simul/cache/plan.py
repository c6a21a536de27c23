"""A pass as data: whose tokens it feeds, and how much each stream held before. No arrays.

Everything that a pass needs to know about its tokens follows from these few numbers: where each
token stands, where it is stored, and what it sees (:mod:`mlx_simul.cache.layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Lane:
    """One stream's part in a pass: its new source tokens first, then its new target tokens.

    Attributes:
        n_source: S, source tokens cached before the pass.
        n_target: T, target tokens cached before the pass.
        n_new_source: tokens that the pass adds to the source.
        n_new_target: tokens that it adds to the target.
        n_hidden: source tokens, the newest, that the target does not see.
        target_start: φ, the position of the first target token.
        windows_target: whether sliding windows bind the target; in the public reference they do
            not.
        row: which row of the storages the stream has; ``None`` if it has all of them.
        parents: of the newest target tokens of the pass, if they form a tree, the one that each
            follows: its number in the tree, or -1 for the target token before the tree. Such a
            token sees of the tree only what leads to it, and stands behind that.
    """

    n_source: int = 0
    n_target: int = 0
    n_new_source: int = 0
    n_new_target: int = 0
    n_hidden: int = 0
    target_start: int = 0
    windows_target: bool = True
    row: int | None = None
    parents: tuple[int, ...] = ()

    @cached_property
    def paths(self) -> Sequence[frozenset[int]]:
        """For each token of the tree, the numbers of those that lead to it, itself included."""
        paths: list[frozenset[int]] = []
        for i, parent in enumerate(self.parents):
            paths.append((paths[parent] if parent >= 0 else frozenset()) | {i})
        return paths

    def numbers(self, first: int, last: int) -> list[int]:
        """Where target tokens stand in the target as each of them sees it.

        Args:
            first: the place of the first of them in the cache.
            last: the place behind the last of them.
        """
        tree = self.n_target_after - len(self.parents)
        numbers = [*range(first, last)]
        for i, path in enumerate(self.paths):
            if first <= tree + i < last:
                numbers[tree + i - first] = tree + len(path) - 1
        return numbers

    @property
    def n_source_after(self) -> int:
        """S once the pass has run."""
        return self.n_source + self.n_new_source

    @property
    def n_target_after(self) -> int:
        """T once the pass has run."""
        return self.n_target + self.n_new_target

    @property
    def n_visible(self) -> int:
        """Source tokens that the target sees."""
        return self.n_source_after - self.n_hidden


@dataclass(frozen=True)
class PassPlan:
    """One pass over the model.

    Attributes:
        lanes: one for each stream. Of several, lane i has row i.
        n_tokens: L, tokens of the longest; the others are filled up.
    """

    lanes: tuple[Lane, ...]
    n_tokens: int
