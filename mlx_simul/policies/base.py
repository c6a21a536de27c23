"""What a policy is, what it is shown, and what it may ask for. A policy counts words.

The simplest sort is asked how many words are read and written, and answers READ or WRITE: a
:class:`Policy`. An adaptive one also wants to see what the model would write: a
:class:`JudgingPolicy` is shown words that are proposed and not yet written, and says how many of
them stand. Either is a frozen object and touches no arrays; what it has to remember it is handed
back at the next call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mlx_simul.errors import InvalidOptionError

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
        """How much speech was read, in words that are as long in any script."""
        ...

    @property
    def target_speech(self) -> Fraction:
        """How much speech was written, likewise; what lags is the difference."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Decides between reading one more source segment and writing one more target word."""

    def decide(self, progress: Progress) -> Action:
        """READ or WRITE; once the source is wholly read, READ is taken as WRITE."""
        ...


@dataclass(frozen=True)
class Needs:
    """What a judging policy is to be shown.

    Attributes:
        lookahead_words: how many words are proposed at a time; ``None`` for a hypothesis to its
            end; 0 for none: nothing is judged, and evidence is there to be observed only.
        probabilities: the model's probabilities of the proposed tokens.
        attention: how its attention falls on the source words.
        heads: the heads whose attention that is; ``None`` for those the checkpoint was calibrated
            with.
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
        margins: of each token, its probability less that of the likeliest other; likewise.
        attention: for each source word read, the share of the attention that falls on it while the
            word is predicted, a mean over heads and tokens. They sum to less than 1: the rest falls
            on the prompt and on the target. Empty if not asked for.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    attention: tuple[float, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """What the model would write, given the source read so far and all that is written.

    Attributes:
        words: at least one.
        ended: the model would end its turn, or wait, behind the last of them.
    """

    words: tuple[ProposedWord, ...]
    ended: bool


@runtime_checkable
class JudgingPolicy(Policy, Protocol):
    """Judges proposed words, wherever :meth:`decide` answers WRITE and source may be left.

    Once the source is wholly read, all that is proposed is written, and nobody is asked.
    """

    @property
    def needs(self) -> Needs:
        """What it is to be shown."""
        ...

    def judge(self, progress: Progress, proposal: Proposal, memory: Any) -> tuple[int, Any]:
        """Say how many of the proposed words to write now.

        If that is fewer than are proposed, or they were a hypothesis to its end, a source segment
        is read before the next question.

        Args:
            progress: how far both sides have got.
            proposal: what the model would write next.
            memory: what this returned last in this stream; ``None`` at first.

        Returns:
            The number of words, and what to remember.
        """
        ...


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Pass if an option is a whole number of at least ``least``.

    Raises:
        InvalidOptionError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidOptionError(
            f"{name} must be a whole number of at least {least}, got {value!r}."
        )


def require_share(name: str, value: Any) -> None:
    """Pass if an option is a number from 0 to 1.

    Raises:
        InvalidOptionError: if it is not.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise InvalidOptionError(f"{name} must be a number from 0 to 1, got {value!r}.")


def once_read(progress: Progress, n_words: int) -> Action:
    """WRITE once so many source segments are read."""
    return Action.WRITE if progress.source_words_read >= n_words else Action.READ
