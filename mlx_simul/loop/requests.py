"""What a loop asks of an engine, and what it is told: tokens, no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """What a reply is to tell of each prediction, beside the token.

    Attributes:
        probabilities: how likely it was.
        heads: (layer, head) pairs, from 0, whose attention over the source is averaged.
    """

    probabilities: bool = False
    heads: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a model thought when it predicted a token.

    Attributes:
        probability: of the token, in the model's own distribution.
        margin: that, less the probability of the likeliest other token.
        attention: the share of the attention on each source token that it sees, in order of
            arrival; empty if no heads were named.
    """

    probability: float = math.nan
    margin: float = math.nan
    attention: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pass:
    """Tokens to feed, each to its group, and what to predict from them.

    Attributes:
        source_ids: what to append to the source first.
        target_ids: what to append to the target, so that it sees that source; if there is nothing,
            nothing is predicted.
        n_rewind: target tokens, the newest, to forget before.
        draft_ids: what may come after ``target_ids``; kept as far as the predictions agree.
        n_hidden: source tokens, the newest, that the target must not see yet.
        written: the target ids up to and including ``target_ids``, header excluded, for logits
            processors.
        n_passes: how often the model ran for what was fed of it already, if it was fed in parts.
        forbidden_ids: tokens that cannot be predicted.
        wanted: what else to tell of each prediction; ``None`` for nothing.
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


@dataclass(frozen=True)
class Reply:
    """What a :class:`Pass` gave.

    Attributes:
        token_ids: the prediction after ``target_ids``, and behind it the one after each draft that
            was accepted. All but the last were drafts and are fed; no other draft is.
        n_passes: how often the model ran.
        evidence: of each prediction, if it was asked for.
    """

    token_ids: tuple[int, ...]
    n_passes: int
    evidence: tuple[Evidence, ...] = ()
