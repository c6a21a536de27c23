"""What the runner of passes and mlx-lm's attention ask of one layer's cache."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import mlx.core as mx

from mlx_simul.cache.layout import Layout
from mlx_simul.cache.positions import Rope, TokenPositions
from mlx_simul.cache.storage import Planes, Storage

# Each an array, or what mlx-lm's quantised attention takes for one: words, scales and biases.
KeysValues: TypeAlias = tuple[Any, Any]


class SourceTargetCache(Protocol):
    """What the runner of passes and mlx-lm's attention ask of one layer's cache.

    ``offset``, ``update_and_fetch`` and ``make_mask`` are mlx-lm's names: by them an unmodified
    attention layer learns the positions, the keys and the mask of the pass under way.
    """

    storage: Storage
    """Where the tokens of all its streams lie."""

    @property
    def head_dim(self) -> int:
        """D of what RoPE has turned; 0 as long as nothing is cached."""
        ...

    def begin(self, layout: Layout) -> None:
        """Learn which pass comes next."""
        ...

    def move_target(
        self, rope: Rope, delta: int, row: int | None, n_target: int, lost: Planes
    ) -> Planes:
        """Move every target key of a stream on by ``delta``; return what rounding took."""
        ...

    def saved(self, row: int | None, n_source: int, n_target: int) -> KeysValues:
        """Keys and values of a stream."""
        ...

    def require(self, row: int | None, saved: KeysValues, n_source: int, n_target: int) -> None:
        """Check that :meth:`restore` will succeed."""
        ...

    def restore(self, row: int | None, saved: KeysValues, n_source: int, n_target: int) -> None:
        """Hold what :meth:`saved` gave earlier."""
        ...

    @property
    def offset(self) -> int | TokenPositions:
        """The position of the pass's first token, or of each where they are not consecutive."""
        ...

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Store the tokens of the pass; return what they attend to, in the order it lies in."""
        ...

    def keys_and_values(self) -> KeysValues:
        """What :meth:`update_and_fetch` returned last, for layers that share this cache."""
        ...

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Who sees whom among what :meth:`update_and_fetch` is about to return."""
        ...
