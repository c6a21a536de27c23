"""What there is to tell of predictions, beside the tokens, as plain numbers.

Shape legend: R rows, H heads, V vocabulary, N tokens attended to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.passes import Evidence


def evidence_of(
    logits: mx.array | None,
    drawn: Sequence[int],
    weights: mx.array | None,
    columns: Sequence[int],
) -> tuple[Evidence, ...]:
    """What there is to tell of each token drawn.

    Args:
        logits: (R, V), R at least the number of tokens, if probabilities were asked for; they are
            the model's own, whatever a sampler makes of them.
        drawn: the tokens, from the first row on.
        weights: (H, R, N), the attention of some heads, if that was asked for.
        columns: where the source tokens lie among the N, in order of arrival.
    """
    shares: Any = [()] * len(drawn)
    if weights is not None:
        # Behind the last token drawn stand rows of drafts that were rejected.
        shares = mx.mean(weights[:, : len(drawn), mx.array(list(columns))], axis=0).tolist()
    if logits is None:
        return tuple(Evidence(attention=tuple(share)) for share in shares)
    odds = mx.softmax(logits[: len(drawn)].astype(mx.float32), axis=-1, precise=True)
    tokens = mx.array(list(drawn))[:, None]
    chosen = mx.take_along_axis(odds, tokens, axis=-1)[:, 0]
    others = mx.max(mx.put_along_axis(odds, tokens, mx.array(0.0), axis=-1), axis=-1)
    told: list[Any] = [chosen.tolist(), (chosen - others).tolist(), shares]
    return tuple(
        Evidence(odds, margin, tuple(share)) for odds, margin, share in zip(*told, strict=True)
    )
