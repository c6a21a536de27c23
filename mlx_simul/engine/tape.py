"""Tokens in one row through a model's own caches, which can forget the newest of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache


@dataclass(frozen=True)
class _Mark:
    """Where the caches stood after ``n_tokens``; of a plain cache its length says all."""

    n_tokens: int
    caches: Sequence[Any]


class Tape:
    """One sequence of tokens at consecutive positions.

    A recurrent state cannot be rolled back, but it can be kept: the tape remembers where it stood
    at its anchor and before the last pass, returns to the later of the two that will do, and feeds
    again what is missing. Keeping costs nothing until something is written over, as MLX's arrays
    share memory until then.

    Args:
        model: an mlx-lm model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.n_passes = 0
        self._start_anew()

    @property
    def can_drop(self) -> bool:
        """Whether forgetting costs nothing: the caches are plain ones, which can be cut short."""
        return all(type(cache) is KVCache for cache in self._caches)

    def feed(self, token_ids: Sequence[int]) -> mx.array:
        """Feed tokens behind those there are.

        Returns:
            (1, L, V) logits.
        """
        self._recent = self._mark()
        self.tokens += token_ids
        self.n_passes += 1
        return self._model(mx.array([list(token_ids)], mx.int32), cache=self._caches)

    def wait(self) -> None:
        """Compute what was fed, without its logits."""
        mx.eval([cache.state for cache in self._caches])

    def anchor(self) -> None:
        """Remember this place, to return to it again and again."""
        self._anchor = self._mark()

    def drop(self, n_tokens: int) -> None:
        """Forget the newest tokens, as if they had never been fed."""
        if not n_tokens:
            return
        kept = self.tokens[: len(self.tokens) - n_tokens]
        marks = (self._recent, self._anchor)
        mark = next((mark for mark in marks if mark.n_tokens <= len(kept)), None)
        if mark is None:
            self._start_anew()
        else:
            self._return_to(mark)
        missing = kept[len(self.tokens) :]
        if missing:
            self.feed(missing)

    @property
    def state(self) -> tuple[list[int], list[Any]]:
        """The tokens and the caches."""
        return list(self.tokens), deepcopy(self._caches)

    @state.setter
    def state(self, value: tuple[list[int], list[Any]]) -> None:
        tokens, caches = value
        self.tokens, self._caches = list(tokens), deepcopy(caches)
        self._anchor = self._recent = self._mark()

    def _start_anew(self) -> None:
        self._caches: list[Any] = make_prompt_cache(self._model)
        self.tokens: list[int] = []
        self._anchor = self._recent = self._mark()

    def _mark(self) -> _Mark:
        kept = [None if type(cache) is KVCache else deepcopy(cache) for cache in self._caches]
        return _Mark(len(self.tokens), kept)

    def _return_to(self, mark: _Mark) -> None:
        n_dropped = len(self.tokens) - mark.n_tokens
        for i, kept in enumerate(mark.caches):
            if kept is None:
                self._caches[i].trim(n_dropped)
            else:
                self._caches[i] = deepcopy(kept)
        del self.tokens[mark.n_tokens :]
        self._recent = mark
        if self._anchor.n_tokens > mark.n_tokens:
            self._anchor = mark
