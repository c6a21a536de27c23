"""The laws of a policy, tried on many made-up streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlx_simul.errors import ValidationError
from mlx_simul.events import Finished, Read, Write
from mlx_simul.loop.progress import StreamingState
from mlx_simul.policies import (
    Action,
    Needs,
    Policy,
    Progress,
    Proposal,
    ProposedWord,
    as_policy,
)
from mlx_simul.testing.scripted import HEADER, WAIT, ScriptedStream

N_STREAMS = 60
PREFIX, SUFFIX = (100, 101), (200,)

MakeStream: TypeAlias = Callable[[int, Policy], ScriptedStream]
"""Seed and policy in, a stream without a model out."""


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
        """Check that the law holds.

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
    _violations: Callable[[Policy, MakeStream], Iterator[str]]

    @property
    def __name__(self) -> str:
        """The name by which pytest calls a test of it."""
        return self.name

    def __call__(
        self, policy: Policy | str, make_stream: MakeStream = ScriptedStream
    ) -> PolicyResult:
        """Try the law.

        Args:
            policy: the policy, or its name.
            make_stream: drives it; by default the library's own loop.

        Raises:
            InvalidOptionError: if it is not a policy.
        """
        violation = next(self._violations(as_policy(policy), make_stream), None)
        return PolicyResult(self.name, self.statement, violation)


def policy_law(violations: Callable[[Policy, MakeStream], Iterator[str]]) -> PolicyLaw:
    """Make a law of a generator of violations; its docstring is the statement."""
    statement = " ".join((violations.__doc__ or "").split())
    return PolicyLaw(violations.__name__, statement, violations)


@policy_law
def always_ends(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
    """Once the source has ended, the stream ends."""
    for seed in range(N_STREAMS):
        try:
            stream = _whole(policy, seed, make_stream)
        except Exception as error:  # a user's policy may raise anything
            yield f"A stream of {len(_words(seed))} words stopped with {error!r}."
            continue
        if not stream.finished:
            yield f"A stream of {len(_words(seed))} words waits for more source than there is."


@policy_law
def any_chunking_gives_the_same_events(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
    """Words that arrive together give the same events as words that arrive one by one."""
    for seed in range(N_STREAMS):
        live = make_stream(seed, policy)
        live.loop.add_segment(PREFIX)
        for word in _words(seed):
            live.feed([word])
        live.feed([], SUFFIX)
        if live.events != _whole(policy, seed, make_stream).events:
            yield f"A stream of {len(_words(seed))} words differs."


@policy_law
def never_writes_before_it_may(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
    """While source is left, a word is written only if the policy, asked then, let it stand."""
    for seed in range(N_STREAMS):
        noted = _Noted(policy)
        for event in _whole(noted, seed, make_stream).events:
            if isinstance(event, Read) and event.source_finished:
                break
            if not isinstance(event, Write):
                continue
            n_before = event.target_words_generated - event.word_complete
            if n_before >= noted.allowed.get(event.source_words_read, 0):
                yield (
                    f"Word {n_before + 1} of a stream was written with "
                    f"{event.source_words_read} of {len(_words(seed))} words read."
                )


@policy_law
def what_is_written_stays(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
    """Each token is the model's answer to the source read then and to all tokens before it."""
    for seed in range(N_STREAMS):
        stream = _whole(policy, seed, make_stream)
        replayed = make_stream(seed, policy)
        replayed.source, replayed.target = list(PREFIX), list(HEADER)
        segments = iter([*_words(seed), SUFFIX])
        waits = policy.needs.wait_token is not None
        forbidden: tuple[int, ...] = ()
        for event in stream.events:
            match event:
                case Read():
                    replayed.source += next(segments)
                    forbidden = (WAIT,) if waits and event.source_finished else ()
                case Write():
                    answer = replayed.predict_but(forbidden)
                    if event.token != answer:
                        yield f"Token {len(replayed.target)} is {event.token}, not {answer}."
                    replayed.target.append(event.token)
                case Finished() if list(event.token_ids) != replayed.target[len(HEADER) :]:
                    yield f"In the end {event.token_ids} stand, not {replayed.target}."


@policy_law
def like_counts_give_like_decisions(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
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


@policy_law
def judges_by_what_it_is_shown(policy: Policy, make_stream: MakeStream) -> Iterator[str]:
    """The same proposal with the same memory is judged alike, and neither is changed."""
    if policy.needs.lookahead_words == 0:
        return
    for seed in range(N_STREAMS):
        draw = random.Random(seed)
        memory: Any = None
        n_written = 0
        for n_read in range(1, 8):
            shown = _progress(9, n_read, n_written), _proposal(draw, n_read, policy.needs), memory
            before = deepcopy(shown[1:])
            n_words, memory = policy.judge(*shown)
            if shown[1:] != before:
                yield f"It changed what it was shown, {before}."
            if policy.judge(_progress(9, n_read, n_written), *before) != (n_words, memory):
                yield f"It judged {before[0]} differently the second time."
            if not 0 <= n_words <= len(before[0].words):
                yield f"Of {len(before[0].words)} words it lets {n_words} stand."
            n_written += n_words


POLICY_LAWS: tuple[PolicyLaw, ...] = (
    always_ends,
    any_chunking_gives_the_same_events,
    never_writes_before_it_may,
    what_is_written_stays,
    like_counts_give_like_decisions,
    judges_by_what_it_is_shown,
)
"""Every law of a policy, for ``pytest.mark.parametrize``."""


class _Noted(Policy):
    """A policy, and how many words it has let stand, by source words read."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.allowed: dict[int, int] = {}

    @property
    def needs(self) -> Needs:
        """What the policy needs."""
        return self.policy.needs

    def decide(self, progress: Progress) -> Action:
        """What the policy decides; if it judges as well, that alone lets nothing stand."""
        decision = self.policy.decide(progress)
        if decision is Action.WRITE:
            self._allow(progress, 1 if self.needs.lookahead_words == 0 else 0)
        return decision

    def judge(self, progress: Progress, proposal: Proposal, memory: Any) -> tuple[int, Any]:
        """What the policy judges."""
        n_words, memory = self.policy.judge(progress, proposal, memory)
        may = self.policy.decide(progress) is Action.WRITE
        self._allow(progress, n_words if may else 0)
        return n_words, memory

    def _allow(self, progress: Progress, n_words: int) -> None:
        self.allowed[progress.source_words_read] = progress.target_words_generated + n_words


def _words(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [
        [draw.randrange(10, 99) for _ in range(draw.randint(1, 3))]
        for _ in range(draw.randint(0, 12))
    ]


def _whole(policy: Policy, seed: int, make_stream: MakeStream) -> ScriptedStream:
    stream = make_stream(seed, policy)
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


def _proposal(draw: random.Random, n_read: int, needs: Needs) -> Proposal:
    n_words = draw.randint(1, needs.lookahead_words or 5)
    return Proposal(tuple(_proposed(draw, n_read) for _ in range(n_words)), draw.random() < 0.3)


def _proposed(draw: random.Random, n_read: int) -> ProposedWord:
    tokens = tuple(draw.randrange(1, 3) for _ in range(draw.randint(1, 2)))
    odds = tuple(draw.random() for _ in tokens)
    shares = tuple(draw.random() / n_read for _ in range(n_read))
    return ProposedWord(tokens, odds, tuple(p * draw.random() for p in odds), shares)
