"""The text that each entry of a vocabulary stands for, white space included (SPEC 2)."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

# Each beside the number of entries it was made from: a vocabulary can be added to.
_cache: WeakKeyDictionary[Any, tuple[int, tuple[str, ...]]] = WeakKeyDictionary()


def end_of_turn_ids_of(tokenizer: Any) -> frozenset[int]:
    """The tokens that end a turn, as a tokenizer or mlx-lm's wrapper around one names them."""
    ends = tokenizer.eos_token_ids
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def piece_texts(tokenizer: Any) -> tuple[str, ...]:
    """Spells out every vocabulary entry as it reads in the middle of a text.

    A leading space shows, although a SentencePiece decoder strips it from a piece that stands
    alone; a byte that is not a character by itself reads U+FFFD; special and added tokens read as
    their content; ids that stand for nothing read ``""``. Computed once per tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer or mlx-lm's wrapper around one.

    Returns:
        One string per id, from 0 to the largest id of the vocabulary.
    """
    n_entries = tokenizer.vocab_size + len(tokenizer.added_tokens_decoder)
    n_known, pieces = _cache.get(tokenizer, (-1, ()))
    if n_known == n_entries:
        return pieces
    size = 1 + max(tokenizer.get_vocab().values(), default=-1)
    # The tokenizer's own decoder is the one authority on what its pieces mean. After an anchor it
    # takes each piece for the middle of a text, where no decoder strips anything.
    anchor = tokenizer.encode("a", add_special_tokens=False)
    texts = tokenizer.batch_decode(
        [anchor, *([*anchor, token] for token in range(size))],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    start = texts[0]
    # Only a byte piece can spoil the anchor: the two together are then no valid UTF-8.
    pieces = tuple(text[len(start) :] if text.startswith(start) else "\ufffd" for text in texts[1:])
    _cache[tokenizer] = n_entries, pieces
    return pieces
