"""Guesses at the next tokens, to be verified in the pass that would predict them. No arrays.

A drafter guesses what will be predicted; the engine feeds the guesses and keeps as many as its own
predictions agree with. So a drafter changes how many passes a stream takes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass


@runtime_checkable
class Drafter(Protocol):
    """Guesses, token by token, what a pass will predict; one drafter serves one stream."""

    def follow(self, request: Pass) -> None:
        """Take in what a pass is about to feed: every pass, those of source alone too."""
        ...

    def guess(self) -> int | None:
        """What comes after the pass's drafts and the guesses so far; None for no guess."""
        ...


class NGramDrafter:
    """Looks up which token followed the newest ones when they occurred before.

    It looks in the source, prefix included, and in the target so far, and so finds names, numbers,
    glossary terms and other text that is copied (prompt lookup decoding, Saxena 2023). The longest
    match counts; of equally long ones those in the source come first, and of those the newest. A
    look-up takes the same time however long the stream is.

    Args:
        max_ngram_tokens: length of the longest match to try.
        min_ngram_tokens: length of the shortest.

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
        """Remember the tokens that the pass feeds."""
        self._source.add(request.source_ids)
        if not request.target_ids:
            return
        written = request.written
        if len(written) < self._n_written:
            # Proposed words were counted as written, and did not stand.
            self._n_written = len(written)
            self._target.go_on_from(written[-self._lengths[0] :])
        self._target.add(written[self._n_written :])
        self._n_written = len(written)
        self._newest = self._cut((*written[-self._lengths[0] :], *request.draft_ids))

    def guess(self) -> int | None:
        """The token that followed the longest match, or None without a match."""
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
    """The token that last followed each n-gram of a growing sequence."""

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
        """Let the tokens added next follow these; nothing is forgotten."""
        self._newest = tuple(newest)

    def after(self, ngram: tuple[int, ...]) -> int | None:
        return self._next.get(ngram)
