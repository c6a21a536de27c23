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


def source_mask(n_new: int, n_source: int, window: int | None = None) -> mx.array | None:
    """Mask of a source pass: each token sees earlier source tokens and itself (SPEC section 1).

    Args:
        n_new: L, tokens of this pass.
        n_source: S, source tokens once they are cached.
        window: source tokens a row may look back on, itself included; ``None`` for all.

    Returns:
        Boolean (L, S), True = may see; ``None`` if everything may be seen.
    """
    if n_new == 1 and (window is None or n_source <= window):
        return None
    rows = mx.arange(n_source - n_new, n_source)[:, None]
    columns = mx.arange(n_source - 1, -1, -1)[None]
    return _look_back(rows, columns, window)


def target_mask(
    n_new: int, n_source: int, n_target: int, window: int | None = None, as_array: bool = False
) -> mx.array | str | None:
    """Mask of a target pass: the source read so far, and earlier target tokens (SPEC section 1).

    A window is measured in the order ``[source | target]`` as it stands at this moment.

    Args:
        n_new: L, tokens of this pass.
        n_source: S, source tokens cached.
        n_target: T, target tokens once these are cached.
        window: tokens a row may look back on, itself included; ``None`` for all.
        as_array: never answer with the name ``"causal"``.

    Returns:
        Boolean (L, S + T), True = may see; ``"causal"`` or ``None`` where MLX knows a shorter form.
    """
    total = n_source + n_target
    if window is None or total <= window:
        if n_new == 1:
            return None
        if not as_array:
            return "causal"
    rows = mx.arange(total - n_new, total)[:, None]
    source = mx.arange(n_source - 1, -1, -1)
    columns = mx.concatenate([source, mx.arange(n_source, total)])[None]
    return _look_back(rows, columns, window)


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
    row_visible = [0] * n_source + visible[1:] + visible[-1:]
    row_visible += [0] * (total_len - len(row_visible))

    index = mx.arange(total_len)
    rows, columns = index[:, None], index[None]
    real = (rows < n_source + n_target) & (columns < n_source + n_target)
    to_source = columns < n_source
    from_target = rows >= n_source
    sees_source = columns < mx.array(row_visible)[:, None]
    return real & (columns <= rows) & mx.where(from_target & to_source, sees_source, True)


def _look_back(rows: mx.array, columns: mx.array, window: int | None) -> mx.array:
    """Columns at or before a row, and within its window, in the order they are numbered."""
    seen = columns <= rows
    return seen if window is None else seen & (rows - columns < window)
