"""Who may see whom, for a source pass, a target pass and a training batch.

Shape legend: L new tokens, S source tokens, T target tokens, the new ones included in their group.

In the cache the source lies mirrored, newest token first, so that it can grow away from the target
(see :mod:`mlx_simul.cache`). Columns here follow that order: ``[source mirrored | target]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul.errors import InvalidOptionError


def source_mask(
    n_new: int, n_source: int, window: int | None = None, chunk: int | None = None
) -> mx.array | None:
    """Mask of a source pass: each token sees earlier source tokens and itself (SPEC section 1).

    Args:
        n_new: L, tokens of this pass.
        n_source: S, source tokens once they are cached.
        window: source tokens a row may look back on, itself included; ``None`` for all.
        chunk: tokens in each of the chunks across which nothing is seen; ``None`` for no chunks.

    Returns:
        Boolean (L, S), True = may see; ``None`` if everything may be seen.
    """
    if n_new == 1 and _reaches_all(n_source, window, chunk):
        return None
    rows = mx.arange(n_source - n_new, n_source)[:, None]
    columns = mx.arange(n_source - 1, -1, -1)[None]
    return _look_back(rows, columns, window, chunk)


def target_mask(
    n_new: int,
    n_source: int,
    n_target: int,
    window: int | None = None,
    chunk: int | None = None,
    as_array: bool = False,
) -> mx.array | str | None:
    """Mask of a target pass: the source read so far, and earlier target tokens (SPEC section 1).

    Windows and chunks are measured in the order ``[source | target]`` as it stands at this moment.

    Args:
        n_new: L, tokens of this pass.
        n_source: S, source tokens cached.
        n_target: T, target tokens once these are cached.
        window: tokens a row may look back on, itself included; ``None`` for all.
        chunk: tokens in each of the chunks across which nothing is seen; ``None`` for no chunks.
        as_array: never answer with the name ``"causal"``.

    Returns:
        Boolean (L, S + T), True = may see; ``"causal"`` or ``None`` where MLX knows a shorter form.
    """
    total = n_source + n_target
    if _reaches_all(total, window, chunk):
        if n_new == 1:
            return None
        if not as_array:
            return "causal"
    rows = mx.arange(total - n_new, total)[:, None]
    source = mx.arange(n_source - 1, -1, -1)
    columns = mx.concatenate([source, mx.arange(n_source, total)])[None]
    return _look_back(rows, columns, window, chunk)


def fused_mask(
    source_rows: mx.array | None,
    target_rows: mx.array | str | None,
    n_new_source: int,
    n_new_target: int,
    n_source: int,
    n_target: int,
) -> mx.array:
    """Mask of a pass to both groups, the source's rows first: each row sees what it sees alone.

    Args:
        source_rows: what :func:`source_mask` gives for the source's rows.
        target_rows: what :func:`target_mask` gives, as an array, for the target's.
        n_new_source: source tokens of this pass.
        n_new_target: target tokens of this pass.
        n_source: S.
        n_target: T.

    Returns:
        Boolean (L, S + T), True = may see.
    """
    if source_rows is None:
        source_rows = mx.ones((n_new_source, n_source), mx.bool_)
    if not isinstance(target_rows, mx.array):
        target_rows = mx.ones((n_new_target, n_source + n_target), mx.bool_)
    return mx.concatenate([mx.pad(source_rows, [(0, 0), (0, n_target)]), target_rows])


def create_streaming_attention_mask(
    total_len: int,
    source_seg_len: Sequence[int],
    target_seg_len: Sequence[int],
    wait_tokens_list: Sequence[int],
) -> mx.array:
    """Mask of one teacher-forced sequence ``[source | target | padding]`` (SPEC section 5).

    Args:
        total_len: rows and columns, padding included.
        source_seg_len: tokens per source segment: prefix, words, suffix.
        target_seg_len: tokens per target segment: header, words, closing end-of-turn.
        wait_tokens_list: entry j is how many source segments, prefix included, target segment j
            may see: ``min(k + j, n + 2)``.

    Returns:
        Boolean (total_len, total_len), True = may see. A row sees what the token *after* it may
        see; the last target row keeps its own. Padding rows and columns are False.

    Raises:
        InvalidOptionError: if the segments do not fit into ``total_len``, or the list has not one
            entry per target segment.
    """
    n_source, n_target = sum(source_seg_len), sum(target_seg_len)
    if n_source + n_target > total_len:
        raise InvalidOptionError(
            f"{n_source} source and {n_target} target tokens do not fit into total_len={total_len}."
        )
    visible = visible_source_tokens(source_seg_len, target_seg_len, wait_tokens_list)
    source = mx.tri(n_source, total_len, dtype=mx.bool_)
    target = teacher_forced_mask(mx.array([visible], mx.int32), n_source)[0]
    n_padding = total_len - n_source - n_target
    target = mx.pad(target.reshape(n_target, n_source + n_target), [(0, n_padding)] * 2)
    return mx.concatenate([source, target])


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
        InvalidOptionError: if the list has not one entry per target segment.
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


def teacher_forced_mask(visible: mx.array, n_source: int, window: int | None = None) -> mx.array:
    """Mask of whole targets, each row with the source it had when it was written (SPEC section 5).

    Columns are ``[source | target]``, both in order of arrival. A window is measured in that order
    as it stood when the row was written.

    Args:
        visible: (B, T) source tokens that each row sees.
        n_source: S, padding included.
        window: tokens a row may look back on, itself included; ``None`` for all.

    Returns:
        Boolean (B, T, S + T), True = may see.
    """
    B, T = visible.shape
    index, visible = mx.arange(T), visible[..., None]
    to_source = mx.arange(n_source)[None, None]
    sees_source = to_source < visible
    if window is not None:
        sees_source = sees_source & (visible + index[None, :, None] - to_source < window)
    sees_target = _look_back(index[:, None], index[None], window)
    return mx.concatenate([sees_source, mx.broadcast_to(sees_target, (B, T, T))], axis=-1)


def _reaches_all(n_tokens: int, window: int | None, chunk: int | None) -> bool:
    return n_tokens <= min(n for n in (window, chunk, n_tokens) if n is not None)


def _look_back(
    rows: mx.array, columns: mx.array, window: int | None, chunk: int | None = None
) -> mx.array:
    """Columns at or before a row, and within its window or chunk, in the order of their numbers."""
    seen = columns <= rows
    if window is not None:
        seen = seen & (rows - columns < window)
    return seen if chunk is None else seen & (rows // chunk == columns // chunk)
