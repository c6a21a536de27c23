"""What the engine and mlx-lm's attention ask of one layer's cache."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.positions import FusedPositions, Rope

# Each an array, or what mlx-lm's quantised attention takes for one: words, scales and biases.
KeysValues: TypeAlias = tuple[Any, Any]


class SourceTargetCache(Protocol):
    """What the engine and mlx-lm's attention ask of one layer's cache.

    ``offset``, ``update_and_fetch`` and ``make_mask`` are mlx-lm's names: by them an unmodified
    attention layer learns the position, the keys and the mask of the group that is being fed.
    """

    is_reading: bool
    """The group that the next pass feeds: source if True, target if False."""

    n_fused_source: int
    """Tokens at the head of the next pass that feed the source while the others feed the target; 0
    for a pass to one group. Only a cache that can do so is asked to; ``is_reading`` is False then.
    """

    n_hidden_source: int
    """Source tokens, the newest, that the next pass to the target does not see."""

    target_start: int
    """φ, the position of the first target token."""

    windows_target: bool
    """Whether sliding windows bind target rows too; in the public reference they do not."""

    @property
    def source_tokens(self) -> int:
        """S."""
        ...

    @property
    def target_tokens(self) -> int:
        """T."""
        ...

    @property
    def head_dim(self) -> int:
        """D of what RoPE has turned; 0 as long as nothing is cached."""
        ...

    @property
    def offset(self) -> int | FusedPositions:
        """Position of the next token of the group being fed, or of both."""
        ...

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysValues:
        """Append to the group being fed; return what its tokens attend to, in memory order."""
        ...

    def keys_and_values(self) -> KeysValues:
        """What :meth:`update_and_fetch` returned last, for layers that share this cache."""
        ...

    def make_mask(
        self, n_new: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """Who sees whom among what :meth:`update_and_fetch` is about to return."""
        ...

    def trim_target(self, n_tokens: int) -> None:
        """Forget the newest target tokens."""
        ...

    def rotate_target(self, rope: Rope, delta: int) -> None:
        """Move all target positions on by ``delta``."""
        ...

    def reset(self) -> None:
        """Forget both groups."""
        ...

    def reset_target(self) -> None:
        """Forget the target, keep the source."""
        ...

    @property
    def state(self) -> Any:
        """All there is to save; assigning it restores it."""
        ...

    @state.setter
    def state(self, value: Any) -> None: ...
