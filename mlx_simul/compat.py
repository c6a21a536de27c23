"""The names by which the founding documents of this project know its parts (SPEC section 6).

Each is thin over what a session runs on, and most *are* what it runs on. New programs use
:func:`mlx_simul.stream_generate` and :class:`mlx_simul.SimulSession`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypedDict

import mlx.core as mx
import mlx.nn as nn

from mlx_simul.cache import DualStreamingCache
from mlx_simul.cache.masks import visible_source_tokens, who_sees_whom
from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Write
from mlx_simul.generation import stream_generate
from mlx_simul.loop.progress import StreamingState
from mlx_simul.policies import WaitK, calculate_wait_words
from mlx_simul.text.boundary import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)
from mlx_simul.text.prompts import StreamingDataPreparator, TokenizedSource

__all__ = [
    "DualStreamingCache",
    "EOSStoppingCriteria",
    "MaxLengthStoppingCriteria",
    "StreamingDataPreparator",
    "StreamingState",
    "WordBoundaryStoppingCriteria",
    "WrittenToken",
    "calculate_wait_words",
    "create_streaming_attention_mask",
    "stream_generate_streaming",
]


class WrittenToken(TypedDict):
    """One target token, as :class:`~mlx_simul.events.Write` has it."""

    token: int
    text: str
    word_complete: bool
    source_words_read: int
    target_words_generated: int


def stream_generate_streaming(
    model: nn.Module,
    tokenizer: Any,
    source_token_ids: Sequence[int],
    source_seg_len: Sequence[int],
    wait_k: int = 3,
    max_new_words: int | None = None,
    max_tokens_per_word: int = 50,
    temp: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float | None = None,
    repetition_context_size: int = 20,
) -> Iterator[WrittenToken]:
    """Answer a tokenised source under wait-k, token by token.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        source_token_ids: the whole source group, from
            :meth:`~mlx_simul.text.prompts.StreamingDataPreparator.prepare_source_text`.
        source_seg_len: the number of tokens in each of its segments: prefix, words, suffix.
        wait_k: how many source words the target stays behind.
        max_new_words: target words after which the stream ends; None for no limit.
        max_tokens_per_word: target tokens after which a word is cut.
        temp: the temperature; 0 takes the likeliest token.
        top_p: sample among the likeliest tokens that together have this probability; no effect at
            ``temp=0``.
        repetition_penalty: divides the logits of recent target tokens.
        repetition_context_size: how many target tokens are recent.

    Returns:
        An iterator over the tokens. The texts in a row are the target; a token's text is what
        became stable with it, so a word of several tokens has its text in several pieces.

    Raises:
        InvalidOptionError: if the segments do not add up to the ids, or an option is
            outside its range.
        PromptError: if an id is not one, or the tokenizer's template cannot carry a source.
    """
    if min(source_seg_len, default=0) < 0 or sum(source_seg_len) != len(source_token_ids):
        raise InvalidOptionError(
            f"source_seg_len must split the {len(source_token_ids)} source_token_ids, got "
            f"{list(source_seg_len)}, {sum(source_seg_len)} in total; take both from "
            "StreamingDataPreparator.prepare_source_text."
        )
    spans = pairwise([0, *accumulate(source_seg_len)])
    source = TokenizedSource(
        (source_token_ids[start:end] for start, end in spans),
        StreamingDataPreparator(tokenizer).header_ids,
    )
    events = stream_generate(
        model,
        tokenizer,
        source,
        policy=WaitK(wait_k),
        max_words=max_new_words,
        max_tokens_per_word=max_tokens_per_word,
        max_target_source_ratio=None,
        temp=temp,
        top_p=top_p if temp else None,
        repetition_penalty=repetition_penalty,
        repetition_context_size=repetition_context_size,
    )
    return (_written(event) for event in events if isinstance(event, Write))


def _written(event: Write) -> WrittenToken:
    return {
        "token": event.token,
        "text": event.text,
        "word_complete": event.word_complete,
        "source_words_read": event.source_words_read,
        "target_words_generated": event.target_words_generated,
    }


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
        InvalidOptionError: if the segments do not fit into ``total_len``, or the list does not have
            one entry per target segment.
    """
    n_source, n_target = sum(source_seg_len), sum(target_seg_len)
    if n_source + n_target > total_len:
        raise InvalidOptionError(
            f"{n_source} source and {n_target} target tokens do not fit into total_len={total_len}."
        )
    visible = visible_source_tokens(source_seg_len, target_seg_len, wait_tokens_list)
    order = [*range(n_source), *(v + i for i, v in enumerate(visible))]
    mask = who_sees_whom(
        mx.array(order, mx.int32),
        mx.array([n_source] * n_source + visible, mx.int32),
        mx.arange(n_source),
        mx.arange(n_target),
    )
    return mx.pad(mask, [(0, total_len - n_source - n_target)] * 2)
