"""Wait-k: stay k words behind (STACL, Ma et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Action, Policy, Progress


def calculate_wait_words(source_seg_len: Sequence[int], target_word_idx: int, wait_k: int) -> int:
    """Source segments beyond the prefix to read before a target word is written.

    Args:
        source_seg_len: tokens per source segment, prefix and suffix included.
        target_word_idx: index of the target word, from 0.
        wait_k: how many words the target lags behind.

    Returns:
        ``min(wait_k + target_word_idx, len(source_seg_len) - 1)`` (SPEC section 3; Ma et al. 2019).
    """
    return min(wait_k + target_word_idx, len(source_seg_len) - 1)


@dataclass(frozen=True)
class WaitK(Policy):
    """Read k words, then write one word for each word read (STACL, Ma et al. 2019).

    Args:
        k: how many source words the target stays behind, at least 1.

    Raises:
        InvalidOptionError: if ``k`` is not a positive integer.
    """

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InvalidOptionError(
                f"wait-k needs a whole number k of at least 1, got {self.k!r}; "
                "k=1 is the earliest, and a k beyond the source's length reads all of it first."
            )

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``k + i`` segments are read, or all of them (SPEC section 3)."""
        wanted = self.k + progress.target_words_generated
        if progress.source_complete:
            wanted = calculate_wait_words(
                progress.source_seg_len, progress.target_words_generated, self.k
            )
        return Action.WRITE if progress.source_words_read >= wanted else Action.READ
