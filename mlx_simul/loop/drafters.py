"""Guesses at what comes next, to be verified in the pass that would predict it. No arrays.

A drafter says what it thinks will be predicted; the engine feeds it and keeps as much as its own
predictions agree with. So a drafter changes how many passes a stream takes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass


@runtime_checkable
class Drafter(Protocol):
    """Guesses token by token what a pass will predict; one drafter serves one stream."""

    def follow(self, request: Pass) -> None:
        """Take in what a pass is about to feed: every pass, those of source alone, too."""
        ...

    def guess(self) -> int | None:
        """What comes after the pass's drafts and the guesses so far; None for no idea."""
        ...


class NGramDrafter:
    """Looks up how the newest tokens went on when they stood together before.

    In the source, prefix and all, and in the target so far: names, numbers, glossary terms, and
    whatever else is copied (prompt lookup decoding, Saxena 2023). The longest match counts, and of
    several the newest, of the source first. Looking up takes the same time however long the stream.

    Args:
        max_ngram_tokens: of the longest match that is tried.
        min_ngram_tokens: of the shortest.

    Raises:
        InvalidOptionError: unless ``1 <= min_ngram_tokens <= max_ngram_tokens``.
    """

    def __init__(self, max_ngram_tokens: int = 3, min_ngram_tokens: int = 1) -> None:
        if not 1 <= min_ngram_tokens <= max_ngram_tokens:
            raise InvalidOptionError(
                f"n-grams of {min_ngram_tokens} to {max_ngram_tokens} tokens: the shortest must "
                "have at least 1, and the longest as many as the shortest."
            )
        self._lengths = range(max_ngram_tokens, min_ngram_tokens - 1, -1)
        self._source, self._target = _Continuations(self._lengths), _Continuations(self._lengths)
        self._n_written = 0
        self._newest: tuple[int, ...] = ()

    def follow(self, request: Pass) -> None:
        """Remember what is fed."""
        self._source.add(request.source_ids)
        if not request.target_ids:
            return
        written = request.written
        if len(written) < self._n_written:
            # What was proposed was taken back.
            self._n_written = len(written)
            self._target.go_on_from(written[-self._lengths[0] :])
        self._target.add(written[self._n_written :])
        self._n_written = len(written)
        self._newest = self._cut((*written[-self._lengths[0] :], *request.draft_ids))

    def guess(self) -> int | None:
        """What followed the longest match, or None if there is none."""
        for length in self._lengths:
            ngram = self._newest[-length:]
            for known in (self._source, self._target):
                token = known.after(ngram)
                if token is not None:
                    self._newest = self._cut((*self._newest, token))
                    return token
        return None

    def _cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens[-self._lengths[0] :]


class _Continuations:
    """What each n-gram of a growing row was last followed by."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self._lengths = tuple(lengths)
        self._next: dict[tuple[int, ...], int] = {}
        self._newest: tuple[int, ...] = ()

    def add(self, token_ids: Sequence[int]) -> None:
        longest = self._lengths[0]
        for token in token_ids:
            for length in self._lengths:
                if length <= len(self._newest):
                    self._next[self._newest[-length:]] = token
            self._newest = (*self._newest, token)[-longest:]

    def go_on_from(self, newest: Sequence[int]) -> None:
        """What is added next follows these; what was known stays known."""
        self._newest = tuple(newest)

    def after(self, ngram: tuple[int, ...]) -> int | None:
        return self._next.get(ngram)
