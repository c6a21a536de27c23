"""Source segments on their way: at hand, read by the policy, encoded by the engine. No arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class SourceQueue:
    """Keeps count of what is read and of what is encoded, since either may come first.

    A segment that is read waits for the next pass. Where enough source is at hand, some of it is
    encoded before it is read, and hidden from the target until then.
    """

    def __init__(self) -> None:
        # Text and length of each segment at hand that is not read.
        self._unread: deque[tuple[str, int]] = deque()
        # Tokens at hand that are not encoded, the oldest first: those that wait, if any do, and
        # then those that are not read.
        self._unencoded: deque[int] = deque()
        # Tokens read and not encoded, if positive; encoded and not read, if negative.
        self._n_waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether every segment at hand is read."""
        return not self._unread

    @property
    def n_waiting(self) -> int:
        """Tokens that are read and not encoded."""
        return max(self._n_waiting, 0)

    @property
    def n_hidden(self) -> int:
        """Tokens that are encoded and not read."""
        return max(-self._n_waiting, 0)

    def add(self, token_ids: Sequence[int], text: str = "", *, n_encoded: int = 0) -> None:
        """Append a segment that has arrived, whose first tokens may be encoded already."""
        self._unread.append((text, len(token_ids)))
        self._n_waiting -= n_encoded
        self._unencoded.extend(token_ids[n_encoded:])

    def read(self) -> str:
        """Read the oldest segment at hand; return its text."""
        text, n_tokens = self._unread.popleft()
        self._n_waiting += n_tokens
        return text

    def take(self, chunk_tokens: int = 0) -> tuple[int, ...]:
        """Take what the next pass is to encode.

        Args:
            chunk_tokens: if a token waits and this many are at hand, read or not, take that many at
                once; 0 never to read ahead.
        """
        n = self.n_waiting
        if n and chunk_tokens and len(self._unencoded) >= chunk_tokens:
            n = max(n, chunk_tokens)
        self._n_waiting -= n
        return tuple(self._unencoded.popleft() for _ in range(n))
