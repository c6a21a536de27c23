"""Tokens in one row through a model's own caches, which can forget the newest of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from mlx_simul.engine.base import pieces
from mlx_simul.engine.orders import Thing, order
from mlx_simul.engine.ranks import HELD_BY_RANKS, Ranks, Share, kept_by
from mlx_simul.errors import InvalidOptionError


@dataclass(frozen=True)
class Mark:
    """Where the caches stood after ``n_tokens``; of a plain cache its length says all."""

    n_tokens: int
    caches: Sequence[Any]


@dataclass(frozen=True)
class TapeState:
    """A tape, to be restored as often as one likes."""

    tokens: tuple[int, ...]
    caches: Sequence[Any] | Share
    anchor: Mark


class Tape(Thing):
    """One sequence of tokens at consecutive positions.

    A recurrent state cannot be rolled back, but it can be kept: the tape remembers where it stood
    at its anchor and before the last pass, returns to the later of the two that will do, and feeds
    again what is missing. Keeping such a state is keeping a reference, as models replace it with
    each pass; plain caches, which are written into, are trimmed instead.

    Args:
        model: an mlx-lm model.

    Attributes:
        recent: where it stood before the last pass.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.n_passes = 0
        self._start_anew()

    @property
    def can_drop(self) -> bool:
        """Whether forgetting costs nothing: the caches are plain ones, which can be cut short."""
        return all(map(_is_plain, self._caches))

    @property
    def cache_kinds(self) -> tuple[type, ...]:
        """The classes of the caches, and of those that caches hold."""
        caches = list(self._caches)
        for cache in caches:  # which grows meanwhile
            caches.extend(getattr(cache, "caches", ()))
        return tuple(map(type, caches))

    def arrays(self) -> Any:
        """All that lies in the caches."""
        return [cache.state for cache in self._caches]

    def feed(self, token_ids: Sequence[int]) -> mx.array:
        """Feed tokens after those that are there.

        Returns:
            (1, L, V) logits.
        """
        return self._feed(tuple(token_ids))

    def feed_silently(self, token_ids: Sequence[int]) -> None:
        """Feed tokens in bounded pieces, and compute no logits."""
        for piece in pieces(token_ids):
            self._feed(tuple(piece))
            mx.eval(self.arrays())

    @order
    def _feed(self, token_ids: tuple[int, ...]) -> mx.array:
        self.recent = self._mark()
        self.tokens += token_ids
        self.n_passes += 1
        return self.model(mx.array([list(token_ids)], mx.int32), cache=self._caches)

    @order
    def anchor(self) -> None:
        """Remember this place, to return to it again and again."""
        self._anchor = self._mark()

    def drop(self, n_tokens: int) -> None:
        """Forget the newest tokens, as if they had never been fed."""
        if not n_tokens:
            return
        kept = self.tokens[: len(self.tokens) - n_tokens]
        self._wind_back(len(kept))
        self.feed_silently(kept[len(self.tokens) :])

    @order
    def _wind_back(self, n_tokens: int) -> None:
        """Return to where there were this many tokens, or to the nearest place before."""
        if self.can_drop:
            self._return_to(Mark(n_tokens, _kept(self._caches)))
            return
        marks = (self.recent, self._anchor)
        mark = next((mark for mark in marks if mark.n_tokens <= n_tokens), None)
        if mark is None:
            self._start_anew()
        else:
            self._return_to(mark)

    @property
    def state(self) -> TapeState:
        """All there is to save; of several ranks, what stands for the caches of each."""
        if not isinstance(self.ranks, Ranks):
            return self._state()
        share = Share(self.ranks)
        self._keep(share.number)
        return TapeState(tuple(self.tokens), share, Mark(self._anchor.n_tokens, ()))

    @state.setter
    def state(self, value: TapeState) -> None:
        if isinstance(self.ranks, Ranks):
            self._fetch(self.ranks.number_of(value.caches))
        elif isinstance(value.caches, Share):
            raise InvalidOptionError(HELD_BY_RANKS)
        else:
            self._restore(value)

    @order
    def _keep(self, number: int) -> None:
        kept_by(self.ranks)[number] = self._state()

    @order
    def _fetch(self, number: int) -> None:
        self._restore(kept_by(self.ranks)[number])

    def _state(self) -> TapeState:
        return TapeState(tuple(self.tokens), deepcopy(self._caches), self._anchor)

    def _restore(self, value: TapeState) -> None:
        own = [type(cache) for cache in self._caches]
        caches: Any = value.caches
        given = [type(cache) for cache in caches]
        if own != given:
            raise InvalidOptionError(
                f"a saved state of {len(given)} layers does not fit this model of {len(own)}, or "
                "their caches are of other kinds; it was saved from another model."
            )
        self.tokens, self._caches = list(value.tokens), deepcopy(list(caches))
        self._anchor, self.recent = value.anchor, self._mark()

    def _start_anew(self) -> None:
        self._caches: list[Any] = [_unwindowed(c) for c in make_prompt_cache(self.model)]
        self.tokens: list[int] = []
        self._anchor = self.recent = self._mark()

    def _mark(self) -> Mark:
        return Mark(len(self.tokens), _kept(self._caches))

    def _return_to(self, mark: Mark) -> None:
        n_dropped = len(self.tokens) - mark.n_tokens
        self._caches = _restored(self._caches, mark.caches, n_dropped)
        del self.tokens[mark.n_tokens :]
        self.recent = mark
        if self._anchor.n_tokens > mark.n_tokens:
            self._anchor = mark


def _unwindowed(cache: Any) -> Any:
    """A rotating cache forgets what a roll-back brings within the window; masks do windows too."""
    if isinstance(cache, CacheList):
        return CacheList(*map(_unwindowed, cache.caches))
    return KVCache() if isinstance(cache, RotatingKVCache) else cache


def _is_plain(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return all(map(_is_plain, cache.caches))
    return type(cache) is KVCache


def _kept(caches: Iterable[Any]) -> list[Any]:
    """What a mark keeps of caches: nothing of plain ones, copies of others."""
    return [
        _kept(cache.caches)
        if isinstance(cache, CacheList)
        else None
        if _is_plain(cache)
        else deepcopy(cache)
        for cache in caches
    ]


def _restored(caches: Iterable[Any], kept: Sequence[Any], n_dropped: int) -> list[Any]:
    """The caches as a mark kept them."""
    restored = []
    for cache, was in zip(caches, kept, strict=True):
        if isinstance(cache, CacheList):
            restored.append(CacheList(*_restored(cache.caches, was, n_dropped)))
        elif was is None:
            cache.trim(n_dropped)
            restored.append(cache)
        else:
            restored.append(deepcopy(was))
    return restored
