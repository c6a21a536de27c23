"""Who sees whom: one formula, with three callers: a live pass, a shared pass, a training batch.

Shape legend: B rows of a batch, L tokens that look, S source tokens, T target tokens.

A token stands in the row ``[source | target]`` of its own stream, as that row was when the token
was written: source token j at j, target token j behind the source that it sees. It sees what stands
before it there, within its window, and itself (SPEC section 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import mlx.core as mx

from mlx_simul.errors import InvalidOptionError

_UNSEEN = 2**30


def who_sees_whom(
    order: mx.array,
    n_visible: mx.array | int,
    source: mx.array,
    target: mx.array,
    window: mx.array | int | None = None,
    chunk: mx.array | int | None = None,
    apart: mx.array | None = None,
) -> mx.array:
    """The mask of tokens that look at ``[source | target]``.

    Args:
        order: (..., L), where each token stands in that row.
        n_visible: (..., L) or one number, the source tokens that each of them sees. A source token
            may be given more than it sees: what stands behind it is hidden by its order.
        source: (S,), the numbers of the source tokens in the order in which they lie.
        target: (T,), the same of the target tokens; (..., 1, T) if the rows differ.
        window: tokens that one may look back on, itself included, for all or (..., L) for each.
        chunk: tokens in each of the chunks across which nothing is seen, for all or for each.
        apart: (..., L, S + T), True where two tokens are on different branches of a tree.

    Returns:
        Boolean (..., L, S + T), True = may see.
    """
    row, n_visible = order[..., None], _column(n_visible)
    # The numbers of unread source tokens are those of the target tokens that took their places.
    ahead = mx.where(source < n_visible, source, _UNSEEN)
    columns = mx.concatenate([_for_each(row, ahead), _for_each(row, n_visible + target)], axis=-1)
    seen = columns <= row
    if window is not None:
        seen = seen & (row - columns < _column(window))
    if chunk is not None:
        chunk = _column(chunk)
        seen = seen & (row // chunk == columns // chunk)
    return seen if apart is None else seen & ~apart


def _for_each(row: mx.array, columns: mx.array) -> mx.array:
    return mx.broadcast_to(columns, (*row.shape[:-1], columns.shape[-1]))


def _column(values: mx.array | int) -> mx.array | int:
    return values[..., None] if isinstance(values, mx.array) else values


def teacher_forced_mask(visible: mx.array, n_source: int, window: int | None = None) -> mx.array:
    """Mask of whole targets, each token with the source it had when it was written (SPEC 5).

    Args:
        visible: (B, T) source tokens that each row sees.
        n_source: S, padding included.
        window: tokens a row may look back on, itself included; ``None`` for all.

    Returns:
        Boolean (B, T, S + T), True = may see; both groups in order of arrival.
    """
    target = mx.arange(visible.shape[-1])
    return who_sees_whom(visible + target, visible, mx.arange(n_source), target, window)


def visible_source_tokens(
    source_seg_len: Sequence[int],
    target_seg_len: Sequence[int],
    wait_tokens_list: Sequence[int],
) -> list[int]:
    """Source tokens that each row of a teacher-forced target sees (SPEC section 5).

    Args:
        source_seg_len: tokens per source segment: prefix, words, suffix.
        target_seg_len: tokens per target segment.
        wait_tokens_list: entry j is how many source segments, prefix included, target segment j
            may see.

    Returns:
        One count per target token: what the token *after* it may see; the last keeps its own.

    Raises:
        InvalidOptionError: if the list does not have one entry per target segment.
    """
    if len(wait_tokens_list) != len(target_seg_len):
        raise InvalidOptionError(
            f"wait_tokens_list has {len(wait_tokens_list)} entries for {len(target_seg_len)} "
            "target segments; give one count of visible source segments for each."
        )
    source_ends = [0, *accumulate(source_seg_len)]
    visible = [
        source_ends[min(wait, len(source_seg_len))]
        for wait, n_tokens in zip(wait_tokens_list, target_seg_len, strict=True)
        for _ in range(n_tokens)
    ]
    return visible[1:] + visible[-1:]
