"""What comes after the target: the tokens drawn from a pass's logits, and the evidence for them.

A pass may serve one stream or many. Rows of greedy streams are searched together, and so are the
probabilities that judging policies ask for; samplers and logits processors are called for their own
stream only.

Shape legend: D drafts of a stream, R rows of all streams, H heads, V vocabulary, N tokens attended
to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_simul.engine.attention import Recording, View
from mlx_simul.loop.requests import Candidate, Evidence, Pass

if TYPE_CHECKING:
    from mlx_simul.engine.base import Engine


@dataclass(eq=False)
class Drawing:
    """What one stream draws from.

    Attributes:
        engine: the stream's, which draws and rolls back.
        request: what the stream asked for.
        logits: (1 + D, V), the row after its target and one after each draft.
        drafts: the drafts that were fed.
        view: whose attention was recorded for it, if any was asked for.
        columns: where its source tokens lie among the N, in order of arrival.
    """

    engine: Engine
    request: Pass
    logits: mx.array
    drafts: tuple[int, ...] = ()
    view: View | None = None
    columns: Sequence[int] = ()

    @property
    def wants_probabilities(self) -> bool:
        """Whether the probabilities of its tokens are asked for."""
        return self.request.wanted is not None and self.request.wanted.probabilities


@dataclass(frozen=True)
class Drawn:
    """What one stream gets.

    Attributes:
        token_ids: the prediction after the target, and one after each draft that agreed.
        evidence: of each, if it was asked for.
        candidates: what may come next instead, if that was asked for.
    """

    token_ids: tuple[int, ...]
    evidence: tuple[Evidence, ...] = ()
    candidates: tuple[tuple[Candidate, ...], ...] = ()


def draw_all(drawings: Sequence[Drawing], recorded: Recording) -> list[Drawn | Exception]:
    """Draw for every stream of a pass; the drafts that do not agree are rolled back.

    Args:
        drawings: one for each stream that predicts.
        recorded: the attention in this pass.

    Returns:
        What each stream gets. A stream whose sampler, processor or logits fail gets the error, and
        no other stream notices.
    """
    everyone, drawings = drawings, [one for one in drawings if not one.request.n_candidates]
    for one in drawings:
        # A tokenizer may have tokens that the model has no row for.
        size = one.logits.shape[-1]
        if ids := [token for token in one.request.forbidden_ids if token < size]:
            one.logits[:, ids] = -math.inf
    greedy = [one.logits for one in drawings if one.engine.is_greedy]
    found = iter(likeliest(_joined(greedy)) if greedy else ())
    drawn: list[list[int] | Exception] = []
    for one in drawings:
        rows = list(islice(found, 1 + len(one.drafts))) if one.engine.is_greedy else None
        try:
            drawn.append(_draw(one, rows))
        except Exception as error:
            drawn.append(error)
    outcomes = iter(_with_evidence(drawings, drawn, recorded))
    return [_search(one) if one.request.n_candidates else next(outcomes) for one in everyone]


def _search(one: Drawing) -> Drawn | Exception:
    request = one.request
    leaves = request.leaves
    try:
        one.engine.roll_back(len(one.drafts))
        rows = one.logits[mx.array(leaves) + 1]
        return Drawn((), candidates=one.engine.candidates(rows, request))
    except Exception as error:
        return error


def likeliest(logits: mx.array) -> list[tuple[float, int]]:
    """The largest of each row of (R, V) logits, and the token that it belongs to."""
    peaks, tokens = mx.max(logits, axis=-1), mx.argmax(logits, axis=-1)
    mx.eval(peaks, tokens)
    return list(zip(peaks.tolist(), tokens.tolist(), strict=True))  # pyright: ignore


def _draw(one: Drawing, found: Sequence[tuple[float, int]] | None) -> list[int]:
    if found is not None:
        return one.engine.agree(found, one.drafts)
    request = one.request
    return one.engine.draw(one.logits, request.written, one.drafts, request.seed)


def _with_evidence(
    drawings: Sequence[Drawing], drawn: Sequence[list[int] | Exception], recorded: Recording
) -> list[Drawn | Exception]:
    told = [
        (one, tokens)
        for one, tokens in zip(drawings, drawn, strict=True)
        if one.wants_probabilities and not isinstance(tokens, Exception)
    ]
    # Behind the last token drawn stand rows of drafts that were rejected.
    odds = iter(_odds([(one.logits[: len(tokens)], tokens) for one, tokens in told]))
    outcomes: list[Drawn | Exception] = []
    for one, tokens in zip(drawings, drawn, strict=True):
        if isinstance(tokens, Exception):
            outcomes.append(tokens)
            continue
        n = len(tokens)
        of_tokens = list(islice(odds, n)) if one.wants_probabilities else [(math.nan,) * 3] * n
        try:
            shares = _shares(one, n, recorded)
        except Exception as error:
            outcomes.append(error)
            continue
        evidence = ()
        if one.request.wanted is not None:
            evidence = tuple(
                Evidence(probability, margin, share, logprob)
                for (probability, margin, logprob), share in zip(of_tokens, shares, strict=True)
            )
        outcomes.append(Drawn(tuple(tokens), evidence))
    return outcomes


def _odds(parts: Sequence[tuple[mx.array, Sequence[int]]]) -> Iterable[tuple[float, float, float]]:
    """Probability of each token in its row, that less the likeliest other's, and its logarithm."""
    if not parts:
        return ()
    rows = _joined([rows for rows, _ in parts]).astype(mx.float32)
    tokens = mx.array([token for _, tokens in parts for token in tokens])[:, None]
    total = mx.logsumexp(rows, axis=-1)
    logprobs = mx.take_along_axis(rows, tokens, axis=-1)[:, 0] - total
    others = mx.max(mx.put_along_axis(rows, tokens, mx.array(-math.inf), axis=-1), axis=-1) - total
    probabilities = mx.exp(logprobs)
    margins = probabilities - mx.exp(others)
    mx.eval(probabilities, margins, logprobs)
    told: list[Any] = [probabilities.tolist(), margins.tolist(), logprobs.tolist()]
    return zip(*told, strict=True)


def _shares(one: Drawing, n_tokens: int, recorded: Recording) -> Sequence[tuple[float, ...]]:
    """The share of the attention of each token on each source token, a mean over the heads."""
    if one.view is None:
        return [()] * n_tokens
    weights = recorded.weights(recorded.views.index(one.view))
    means: Any = mx.mean(weights[:, :n_tokens, mx.array(list(one.columns))], axis=0)
    return [tuple(share) for share in means.tolist()]


def _joined(rows: Sequence[mx.array]) -> mx.array:
    return rows[0] if len(rows) == 1 else mx.concatenate(list(rows))
