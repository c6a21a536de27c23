"""The token ids of a piece of a prompt, as they are in the middle of that prompt (SPEC 2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

# Texts that leave the next one's tokens alone, to be tried in this order: some tokenizers join line
# breaks, drop them, or join letters.
_ANCHORS = ("\n", "a", ".")

# Added tokens that are not flagged special steer a model all the same ("<think>", "[/INST]"), but
# for tags of HTML, which Gemma has tokens for.
_CONTROL = re.compile(r"[<\[{|◁].*[>\]}|▷]", re.DOTALL)
_HTML = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|em|h[1-6]|i|li|ol|p|pre|span|strong|sub|sup|t[dhr]|table"
    r"|tbody|tfoot|thead|u|ul)>"
)

_THOUGHT = re.compile(r"think|thought|reason|inner_|channel", re.IGNORECASE)


class PieceEncoder:
    """Encodes the pieces of a prompt one by one, yet with the ids they have in the whole.

    Encoded alone, a piece is taken for the start of a text: SentencePiece tokenizers put a "▁"
    before it. So it is encoded after an anchor, whose ids are then taken off again.

    Args:
        tokenizer: A Hugging Face tokenizer or mlx-lm's wrapper around one.

    Attributes:
        control_ids: Ids that a template may write and a user's text must not.
        thought_ids: Those among them that open or close a thought, or a channel for one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchors = [(anchor, self.encode(anchor)) for anchor in _ANCHORS]
        self.control_ids, self.thought_ids = _control_ids_of(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Encodes a text alone; control tokens in it count."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def continuation(self, text: str, before: str = "") -> list[int]:
        """Encodes a text as it continues another one; control tokens in it count.

        Args:
            text: The piece to encode.
            before: What stands before it, if known; any plain text otherwise.

        Returns:
            The ids of ``text`` only; of ``text`` alone if the tokenizer joins it to anything.
        """
        known = [(before, self.encode(before))] if before else []
        for anchor, start in (*known, *self._anchors):
            ids = self.encode(anchor + text)
            if start and ids[: len(start)] == start:
                return ids[len(start) :]
        return self.encode(text)

    def opening(self, text: str, after: str) -> list[int]:
        """Encodes the start of a prompt as it stands before another text.

        Args:
            text: The piece to encode; control tokens in it count.
            after: A text like the one that follows: line breaks may be joined before nothing, but
                not before a word.

        Returns:
            The ids of ``text`` only; of ``text`` alone if the tokenizer joins the two.
        """
        ids, end = self.encode(text + after), self.continuation(after)
        return ids[: -len(end)] if end and ids[-len(end) :] == end else self.encode(text)

    def literal(self, text: str, before: str = "") -> list[int]:
        """Encodes a user's text: what spells a control token in it stays text.

        Args:
            text: The piece to encode.
            before: What stands before it, if known.

        Returns:
            Ids that decode to ``text`` and hold no control token.
        """
        ids = self.continuation(text, before)
        if self.has_control(ids) and len(text) > 1:
            # Not by split_special_tokens: that lets added tokens through which are not flagged
            # special. A token needs its whole text, so halving breaks every one.
            half = len(text) // 2
            ids = self.literal(text[:half]) + self.literal(text[half:])
        return ids

    def has_control(self, ids: Sequence[int]) -> bool:
        """Says whether a control token is among the ids."""
        return not self.control_ids.isdisjoint(ids)

    def bos(self) -> list[int]:
        """Gives the token that the tokenizer itself puts before a text, or nothing."""
        first = self._tokenizer.encode("a", add_special_tokens=True)[:1]
        return first if first == [self._tokenizer.bos_token_id] else []


# Gemma has thousands of them. Each beside the number of entries it was made from.
_cache: WeakKeyDictionary[Any, tuple[int, tuple[frozenset[int], frozenset[int]]]] = (
    WeakKeyDictionary()
)


def _control_ids_of(tokenizer: Any) -> tuple[frozenset[int], frozenset[int]]:
    """The control tokens, and those of thoughts among them; computed once per tokenizer."""
    n_known, found = _cache.get(tokenizer, (-1, (frozenset(), frozenset())))
    n_entries = tokenizer.vocab_size + len(tokenizer.added_tokens_decoder)
    if n_known == n_entries:
        return found
    control = {
        token: added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.special or _is_control(added.content)
    }
    thoughts = (token for token, text in control.items() if _THOUGHT.search(text))
    found = frozenset(control), frozenset(thoughts)
    _cache[tokenizer] = n_entries, found
    return found


def _is_control(text: str) -> bool:
    return bool(_CONTROL.fullmatch(text)) and not _HTML.fullmatch(text)
