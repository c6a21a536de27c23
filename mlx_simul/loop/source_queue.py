"""Source tokens on their way: at hand, read by the policy, encoded by the engine. No arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class SourceQueue:
    """Keeps count of what is read and of what is encoded, since either may come first.

    What is read waits for the next pass. Where enough is at hand, some of it is encoded before it
    is read, and hidden from the target until then.
    """

    def __init__(self) -> None:
        self._unread_tokens: deque[int] = deque()  # per segment
        self._unencoded: deque[int] = deque()
        # Read and not encoded, if positive; encoded and not read, if negative.
        self._n_waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether no segment is at hand that is not read."""
        return not self._unread_tokens

    @property
    def n_waiting(self) -> int:
        """Tokens that are read and not encoded."""
        return max(self._n_waiting, 0)

    @property
    def n_hidden(self) -> int:
        """Tokens that are encoded and not read."""
        return max(-self._n_waiting, 0)

    def add(self, token_ids: Sequence[int], *, n_encoded: int = 0) -> None:
        """A segment has arrived, whose first tokens may be encoded already."""
        self._unread_tokens.append(len(token_ids))
        self._n_waiting -= n_encoded
        self._unencoded.extend(token_ids[n_encoded:])

    def read(self) -> None:
        """The policy reads the oldest segment at hand."""
        self._n_waiting += self._unread_tokens.popleft()

    def take(self, chunk_tokens: int = 0) -> tuple[int, ...]:
        """What the next pass is to encode.

        Args:
            chunk_tokens: as many at once if so many are at hand, read or not, and any of them is
                read; 0 never to read ahead.
        """
        n = self.n_waiting
        if n and chunk_tokens and len(self._unencoded) >= chunk_tokens:
            n = max(n, chunk_tokens)
        self._n_waiting -= n
        return tuple(self._unencoded.popleft() for _ in range(n))
