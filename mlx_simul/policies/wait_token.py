"""The model says itself when it wants to read."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Action, Needs, Progress, Proposal, once_read, require_count


@dataclass(frozen=True)
class WaitToken:
    """Write until the model predicts its wait token; then read one more word.

    For checkpoints that were trained to emit one (Koshkin et al. 2024, "TransLLaMa"). Like an
    end-of-turn before the source has ended it is never fed, written or counted. Once the source has
    ended it cannot be predicted.

    Args:
        token: the token as the tokenizer spells it.
        min_words: source words to read before the first word is proposed.

    Raises:
        InvalidOptionError: for anything else.
    """

    token: str = "<WAIT>"
    min_words: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.token, str) or not self.token:
            raise InvalidOptionError(f"the wait token must be a text, got {self.token!r}.")
        require_count("min_words", self.min_words)

    @property
    def needs(self) -> Needs:
        """One word, and the wait token kept out of it."""
        return Needs(lookahead_words=1, wait_token=self.token)

    def decide(self, progress: Progress) -> Action:
        """WRITE once ``min_words`` are read."""
        return once_read(progress, self.min_words)

    def judge(self, progress: Progress, proposal: Proposal, memory: None) -> tuple[int, None]:
        """Whatever the model proposes before it waits."""
        return len(proposal.words), None
