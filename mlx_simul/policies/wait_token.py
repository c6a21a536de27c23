"""The model says itself when it wants to read."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Action, Needs, Policy, Progress, once_read, require_count


@dataclass(frozen=True)
class WaitToken(Policy):
    """Write until the model predicts its wait token; then read one more word.

    For checkpoints that were trained to emit one (Koshkin et al. 2024, "TransLLaMa"). Like an
    end-of-turn before the source has ended, the token is never fed, written or counted. Once the
    source has ended it cannot be predicted. Every word that is proposed before it stands.

    Args:
        token: the wait token as the tokenizer spells it.
        min_words: source words to read before the first word is proposed.

    Raises:
        InvalidOptionError: if an option is outside its range.
    """

    token: str = "<WAIT>"
    min_words: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.token, str) or not self.token:
            raise InvalidOptionError(f"token must be a non-empty string, got {self.token!r}.")
        require_count("min_words", self.min_words)

    @property
    def needs(self) -> Needs:
        """One word at a time, without the wait token."""
        return Needs(lookahead_words=1, wait_token=self.token)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)
