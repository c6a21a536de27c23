"""Wait-k that catches up, or that reads and writes in strides."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Action, Policy, Progress, once_read, require_count


@dataclass(frozen=True)
class WaitKCatchUp(Policy):
    """Wait-k for targets that are longer than their sources, several words at a time if wanted.

    Where a target has more words than its source, plain wait-k falls behind. With a catch-up of c,
    one word in 1/c is written without reading (STACL, Ma et al. 2019, section 3.2). With a stride
    of s, s words are read at a time and then s written (Zeng et al. 2021).

    Args:
        k: source words to read before the first is written, at least 1.
        catch_up: c, at least 0 and below 1.
        stride: s, at least 1.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    k: int
    catch_up: float = 0.0
    stride: int = 1

    def __post_init__(self) -> None:
        require_count("k", self.k)
        require_count("stride", self.stride)
        is_number = isinstance(self.catch_up, int | float) and not isinstance(self.catch_up, bool)
        if not is_number or not 0 <= self.catch_up < 1:
            raise InvalidOptionError(
                f"catch_up must be a number of at least 0 and below 1, got {self.catch_up!r}; 0.2 "
                "writes one word in five without reading."
            )

    def decide(self, progress: Progress) -> Action:
        """WRITE once k segments are read, and one more for each word written after a read."""
        n_written = progress.target_words_generated
        n_followed = n_written - math.floor(self.catch_up * n_written)
        return once_read(progress, self.k + n_followed // self.stride * self.stride)
