"""The laws of a policy, tried on many made-up streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_simul.errors import ValidationError
from mlx_simul.policies import Action, Policy
from mlx_simul.state import StreamingState
from mlx_simul.testing.scripted import ScriptedStream

N_STREAMS = 60
PREFIX, SUFFIX = (100, 101), (200,)


@dataclass(frozen=True)
class PolicyResult:
    """What a law found.

    Attributes:
        name: of the law.
        statement: what it says.
        violation: the first stream that breaks it, or None.
    """

    name: str
    statement: str
    violation: str | None

    @property
    def holds(self) -> bool:
        """Whether the policy keeps the law."""
        return self.violation is None

    def require(self) -> None:
        """Pass if the law holds.

        Raises:
            ValidationError: if it does not.
        """
        if not self.holds:
            raise ValidationError(f"{self.name} is broken ({self.statement} {self.violation})")


@dataclass(frozen=True)
class PolicyLaw:
    """One law; call it on a policy.

    Attributes:
        name: a Python name.
        statement: what it says, in a sentence.
    """

    name: str
    statement: str
    _violations: Callable[[Policy], Iterator[str]]

    @property
    def __name__(self) -> str:
        """The name by which pytest calls a test of it."""
        return self.name

    def __call__(self, policy: Policy) -> PolicyResult:
        """Try the law."""
        return PolicyResult(self.name, self.statement, next(self._violations(policy), None))


def policy_law(violations: Callable[[Policy], Iterator[str]]) -> PolicyLaw:
    """Make a law of a generator of violations; its docstring is the statement."""
    statement = " ".join((violations.__doc__ or "").split())
    return PolicyLaw(violations.__name__, statement, violations)


@policy_law
def always_ends(policy: Policy) -> Iterator[str]:
    """Once the source has ended, the stream ends."""
    for seed in range(N_STREAMS):
        try:
            stream = _whole(policy, seed)
        except Exception as error:  # somebody else's policy may raise anything
            yield f"A stream of {len(_words(seed))} words stopped with {error!r}."
            continue
        if not stream.finished:
            yield f"A stream of {len(_words(seed))} words waits for more source than there is."


@policy_law
def any_chunking_gives_the_same_events(policy: Policy) -> Iterator[str]:
    """Words that arrive together give the same events as words that arrive one by one."""
    for seed in range(N_STREAMS):
        live = ScriptedStream(seed, policy)
        live.loop.add_segment(PREFIX)
        for word in _words(seed):
            live.feed([word])
        live.feed([], SUFFIX)
        if live.events != _whole(policy, seed).events:
            yield f"A stream of {len(_words(seed))} words differs."


@policy_law
def like_counts_give_like_decisions(policy: Policy) -> Iterator[str]:
    """What it decides depends on the counts alone, and is an Action."""
    for n_words in range(1, 9):
        for n_read in range(n_words + 2):
            for n_written in range(6):
                decisions = [policy.decide(_progress(n_words, n_read, n_written)) for _ in range(3)]
                if len(set(decisions)) > 1 or not isinstance(decisions[0], Action):
                    yield (
                        f"With {n_read} of {n_words} words read and {n_written} written it decides "
                        f"{decisions}."
                    )


POLICY_LAWS: tuple[PolicyLaw, ...] = (
    always_ends,
    any_chunking_gives_the_same_events,
    like_counts_give_like_decisions,
)
"""Every law of a policy, for ``pytest.mark.parametrize``."""


def _words(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [
        [draw.randrange(10, 99) for _ in range(draw.randint(1, 3))]
        for _ in range(draw.randint(0, 12))
    ]


def _whole(policy: Policy, seed: int) -> ScriptedStream:
    stream = ScriptedStream(seed, policy)
    stream.loop.add_segment(PREFIX)
    stream.feed(_words(seed), SUFFIX)
    return stream


def _progress(n_words: int, n_read: int, n_written: int) -> StreamingState:
    state = StreamingState([2, *[1] * n_words, 1], None)
    for _ in range(n_read):
        state.mark_source_read()
    for _ in range(n_written):
        state.mark_target_written()
    return state
