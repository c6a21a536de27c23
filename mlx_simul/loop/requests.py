"""What a loop asks of an engine, and what the engine answers: tokens, no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_simul.errors import InvalidOptionError


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
    seed: int | None = None

    def checked(self, reply: Reply | None) -> Reply:
        """The reply, if it answers this pass.

        Raises:
            InvalidOptionError: if it does not.
        """
        predicts = reply is not None and bool(reply.token_ids)
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
        return reply


@dataclass(frozen=True)
class Reply:
    """The answer to a :class:`Pass`.

    Attributes:
        token_ids: the prediction after ``target_ids``, then the prediction after each draft that
            was accepted. All but the last were drafts and are fed; no other draft is.
        n_passes: how often the model ran.
        evidence: for each prediction, if it was asked for.
    """

    token_ids: tuple[int, ...]
    n_passes: int
    evidence: tuple[Evidence, ...] = ()
