"""What a loop asks of an engine, and what the engine answers: tokens, no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mlx_simul.errors import InvalidOptionError

Candidate: TypeAlias = tuple[int, float]
"""A token that may come next, and its log probability."""


@dataclass(frozen=True)
class Wanted:
    """The evidence that a reply has to hold for each prediction, beside the token.

    Attributes:
        probabilities: whether to say how likely the token was, which costs a look at all logits.
        heads: (layer, head) pairs, from 0, whose mean attention over the source to give.
    """

    probabilities: bool = False
    heads: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a model thought when it predicted a token.

    Attributes:
        probability: of the token, in the model's own distribution.
        margin: its probability minus that of the likeliest other token.
        attention: the share of the attention on each source token that the prediction sees, in
            order of arrival; empty if no heads were named.
        logprob: the natural logarithm of the probability, also where that is too small for a float.
    """

    probability: float = math.nan
    margin: float = math.nan
    attention: tuple[float, ...] = ()
    logprob: float = math.nan


@dataclass(frozen=True)
class Pass:
    """Tokens to feed, each to its group, and what to predict from them.

    Attributes:
        source_ids: tokens to append to the source first.
        target_ids: tokens to append to the target, so that they see that source; without any,
            nothing is predicted.
        n_rewind: target tokens, the newest, to forget first.
        draft_ids: tokens that may come after ``target_ids``; kept as far as the predictions agree.
        n_hidden: source tokens, the newest, that the target must not see yet.
        written: the target ids up to and including ``target_ids``, header excluded, for logits
            processors.
        n_passes: how often the model has run for this pass already, if it is fed in parts.
        forbidden_ids: tokens that cannot be predicted.
        wanted: the evidence to give for each prediction; ``None`` for none.
        n_candidates: for a search: how many tokens to name that may come next, instead of one that
            is predicted. Every draft is forgotten again then, and the drafts may form a tree.
        draft_parents: of a tree, the draft that each draft follows: its index, which is smaller
            than its own, or -1 for the last of ``target_ids``. A draft sees no others but those
            that lead to it, and stands where it would stand if there were no others.
        seed: of the random numbers that a sampler draws from; ``None`` for MLX's random state.
    """

    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...] = ()
    n_rewind: int = 0
    draft_ids: tuple[int, ...] = ()
    n_hidden: int = 0
    written: Sequence[int] = ()
    n_passes: int = 0
    forbidden_ids: tuple[int, ...] = ()
    wanted: Wanted | None = None
    n_candidates: int = 0
    draft_parents: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def leaves(self) -> tuple[int, ...]:
        """The drafts of a tree that no other draft follows; -1 if there are no drafts."""
        inner = {*self.draft_parents}
        return tuple(i for i in range(len(self.draft_parents)) if i not in inner) or (-1,)

    def path(self, leaf: int) -> tuple[int, ...]:
        """The drafts that lead to one of a tree, itself included."""
        path: list[int] = []
        while leaf >= 0:
            path.append(self.draft_ids[leaf])
            leaf = self.draft_parents[leaf]
        return tuple(reversed(path))

    def checked(self, reply: Reply | None) -> Reply:
        """The reply, if it answers this pass.

        Raises:
            InvalidOptionError: if it does not.
        """
        predicts = reply is not None and bool(reply.candidates or reply.token_ids)
        if reply is None or predicts != bool(self.target_ids):
            raise InvalidOptionError(
                "a Pass must be answered with a Reply that predicts a token if the pass has target "
                f"tokens, and only then; got {reply!r}."
            )
        if self.wanted is not None and len(reply.evidence) != len(reply.token_ids):
            raise InvalidOptionError(
                f"a Pass that asks for evidence must be answered with evidence for each of its "
                f"{len(reply.token_ids)} predictions; got {reply!r}."
            )
        if self.n_candidates and len(reply.candidates) != len(self.leaves):
            raise InvalidOptionError(
                f"a Pass that asks for candidates must be answered with some after each of its "
                f"{len(self.leaves)} branches; got {reply!r}."
            )
        return reply


@dataclass(frozen=True)
class Insertion:
    """Tokens that a target is given: the result of a tool and what stands around it.

    Attributes:
        call: the number of the call that it answers.
        token_ids: they follow the newest token that is written.
    """

    call: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """The answer to a :class:`Pass`.

    Attributes:
        token_ids: the prediction after ``target_ids``, then the prediction after each draft that
            was accepted. All but the last were drafts and are fed; no other draft is.
        n_passes: how often the model ran.
        evidence: for each prediction, if it was asked for.
        candidates: if they were asked for, there are no predictions, but after each of the
            ``leaves`` the likeliest tokens, the likeliest first; fewer if fewer can be predicted.
    """

    token_ids: tuple[int, ...]
    n_passes: int
    evidence: tuple[Evidence, ...] = ()
    candidates: tuple[tuple[Candidate, ...], ...] = ()
