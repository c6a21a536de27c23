"""What a policy is: it says when to read and when to write. A policy counts words.

Every policy answers READ or WRITE from the counts of words read and written. An adaptive policy
also declares what it needs to see of what the model would write next; it is then shown words that
are proposed but not yet written, and says how many of them stand. A policy is a frozen object that
handles no arrays; what it has to remember is handed back to it at the next call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count

Head: TypeAlias = tuple[int, int]
"""An attention head: its layer and its number there, both from 0."""


class Action(Enum):
    """What to do next."""

    READ = "read"
    WRITE = "write"


class Progress(Protocol):
    """What a policy may look at; :class:`mlx_simul.StreamingState` provides it."""

    @property
    def source_seg_len(self) -> Sequence[int]:
        """Tokens per source segment known so far: prefix, words, and the suffix once it ended."""
        ...

    @property
    def source_complete(self) -> bool:
        """The source has ended: ``source_seg_len`` holds its suffix."""
        ...

    @property
    def source_words_read(self) -> int:
        """Segments read beyond the prefix; the suffix counts as one."""
        ...

    @property
    def target_words_generated(self) -> int:
        """Target words written."""
        ...

    @property
    def source_speech(self) -> Fraction:
        """How much speech was read, in words that are equally long in any script."""
        ...

    @property
    def target_speech(self) -> Fraction:
        """How much speech was written, likewise; what lags is the difference."""
        ...


@dataclass(frozen=True)
class Needs:
    """What a policy needs to be shown before a word is written.

    Attributes:
        lookahead_words: how many words are proposed at a time; ``None`` for a whole hypothesis, to
            the end of the turn; 0 to propose nothing, so that the policy judges nothing. What else
            is needed can then only be observed (:meth:`mlx_simul.SimulSession.observe`).
        probabilities: whether to show the model's probabilities of the proposed tokens.
        attention: whether to show how the model's attention falls on the source words.
        heads: the heads whose attention is shown; ``None`` for those that ``mlx-simul calibrate``
            stored with the checkpoint.
        wait_token: a token by which the model says that it wants to read; it is never written.
    """

    lookahead_words: int | None = 1
    probabilities: bool = False
    attention: bool = False
    heads: tuple[Head, ...] | None = None
    wait_token: str | None = None

    def __post_init__(self) -> None:
        if self.lookahead_words is not None:
            require_count("lookahead_words", self.lookahead_words, least=0)


@dataclass(frozen=True)
class ProposedWord:
    """A target word that the model would write.

    Attributes:
        tokens: its token ids.
        probabilities: of each token, in the model's own distribution; empty if not asked for.
        margins: for each token, its probability minus that of the likeliest other token; empty if
            probabilities were not asked for.
        attention: for each source word read, the share of the attention that falls on it while the
            word is predicted, averaged over heads and tokens. The shares sum to less than 1: the
            rest falls on the prompt and on the target. Empty if not asked for.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    attention: tuple[float, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """What the model would write next, given the source read so far and the target written.

    Attributes:
        words: the proposed words, at least one.
        ended: whether the model would end its turn, or wait, after the last of them.
    """

    words: tuple[ProposedWord, ...]
    ended: bool


class Policy(ABC):
    """Decides between reading one more source segment and writing one more target word.

    Subclass it for a policy of your own. One that goes by counts defines :meth:`decide` alone; one
    that judges what the model would write also declares its :attr:`needs` and defines
    :meth:`judge`.
    """

    @property
    def needs(self) -> Needs:
        """What the policy needs to be shown; nothing by default, so that it judges nothing."""
        return Needs(lookahead_words=0)

    @abstractmethod
    def decide(self, progress: Progress) -> Action:
        """Answer READ or WRITE; once the source is wholly read, READ is taken as WRITE."""

    def judge(self, progress: Progress, proposal: Proposal, memory: Any) -> tuple[int, Any]:
        """Say how many of the proposed words to write now; all of them by default.

        It is called wherever :meth:`decide` answers WRITE while source may be left. Once the source
        is wholly read, everything is written without a call. If the answer is fewer words than were
        proposed, or the proposal was a whole hypothesis, a source segment is read before the next
        question.

        Args:
            progress: how far source and target have got.
            proposal: what the model would write next.
            memory: what this method returned last in this stream; ``None`` at first.

        Returns:
            The number of words, and what to remember.
        """
        return len(proposal.words), memory


def require_share(name: str, value: Any) -> None:
    """Check that an option is a number from 0 to 1.

    Raises:
        InvalidOptionError: if it is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise InvalidOptionError(f"{name} must be a number from 0 to 1, got {value!r}.")


def once_read(progress: Progress, n_words: int) -> Action:
    """WRITE once this many source segments are read."""
    return Action.WRITE if progress.source_words_read >= n_words else Action.READ
