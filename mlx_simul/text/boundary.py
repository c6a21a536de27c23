"""Where a target word ends, judged by vocabulary pieces (SPEC section 2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import regex

from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.characters import is_spaceless, is_visible
from mlx_simul.text.vocabulary import end_of_turn_ids_of, piece_texts

CLOSING_PUNCTUATION = frozenset(".,:;?!")

# Unicode's property of what ends a sentence has no ellipsis.
_SENTENCE_END = regex.compile(r"[\p{Sentence_Terminal}…]")
_CLOSES = "\"'”’»)]】」』"

_REPLACEMENT = "\ufffd"


class WordBoundaryStoppingCriteria:
    """Tells where a target word ends.

    A word ends before a token that starts a new one (its piece begins with white space), before an
    end-of-turn, right after closing punctuation or a character of a script written without spaces,
    and at a length limit. What shows nothing is never a word.

    Args:
        tokenizer: a Hugging Face tokenizer or mlx-lm's wrapper around one.
        max_tokens_per_word: tokens after which a word is cut.
        end_of_turn_ids: tokens that end the turn; the tokenizer's by default.

    Raises:
        InvalidOptionError: if ``max_tokens_per_word`` is below 1.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens_per_word: int = 50,
        end_of_turn_ids: Collection[int] | None = None,
    ) -> None:
        if max_tokens_per_word < 1:
            raise InvalidOptionError(
                f"max_tokens_per_word must be at least 1, got {max_tokens_per_word}."
            )
        self._tokenizer = tokenizer
        self._pieces = piece_texts(tokenizer)
        self._max_tokens = max_tokens_per_word
        self._end_of_turn = (
            end_of_turn_ids_of(tokenizer) if end_of_turn_ids is None else frozenset(end_of_turn_ids)
        )

    def __call__(self, tokens: Sequence[int]) -> tuple[bool, bool]:
        """Judge a word by its last token.

        Args:
            tokens: the word's tokens and, last, the one just predicted.

        Returns:
            ``(should_stop, remove_last_token)``: the word has ended; the last token proved it, but
            does not belong to it.
        """
        last, length = tokens[-1], len(tokens)
        if last in self._end_of_turn:
            return True, True
        piece = self._piece(last)
        if piece[:1].isspace() and self.has_content(tokens[:-1]):
            return True, True
        if piece in CLOSING_PUNCTUATION or self._ends_spaceless(tokens):
            return True, False
        return length >= self._max_tokens and self.has_content(tokens), False

    def has_content(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens show anything: more than white space and invisible characters."""
        has_bytes = False
        for token in tokens:
            piece = self._piece(token)
            if _REPLACEMENT in piece:
                has_bytes = True
            elif is_visible(piece):
                return True
        # Bytes of a character may spell an invisible one.
        return has_bytes and is_visible(self.text(tokens))

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens of a word spell."""
        text = "".join(map(self._piece, tokens))
        # Pieces of a character: only the decoder knows which one it is.
        return self._tokenizer.decode(list(tokens)) if _REPLACEMENT in text else text

    def ends_sentence(self, tokens: Sequence[int]) -> bool:
        """Whether the last token closes a sentence."""
        return ends_sentence(self._piece(tokens[-1]))

    def _piece(self, token: int) -> str:
        """What a token spells; nothing for the ids by which a vocabulary is padded."""
        return self._pieces[token] if token < len(self._pieces) else ""

    def _ends_spaceless(self, tokens: Sequence[int]) -> bool:
        """Whether the word now ends in a whole character of a script without spaces."""
        text = self._piece(tokens[-1])
        if _REPLACEMENT in text:
            text = self.text(tokens)
        return is_spaceless(text[-1:]) and self.has_content(tokens)


def ends_sentence(text: str) -> bool:
    """Whether a text closes a sentence; a quotation mark or bracket may follow."""
    return _SENTENCE_END.fullmatch(text.rstrip().rstrip(_CLOSES)[-1:]) is not None


class MaxLengthStoppingCriteria:
    """Stops once a number of tokens are written.

    Args:
        max_tokens: the number, at least 1.
    """

    def __init__(self, max_tokens: int) -> None:
        if max_tokens < 1:
            raise InvalidOptionError(f"max_tokens must be at least 1, got {max_tokens}.")
        self._max_tokens = max_tokens

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether ``tokens`` are as many as allowed."""
        return len(tokens) >= self._max_tokens


class EOSStoppingCriteria:
    """Stops at an end-of-turn token.

    Args:
        end_of_turn_ids: one id, or several.
    """

    def __init__(self, end_of_turn_ids: int | Collection[int]) -> None:
        ids = [end_of_turn_ids] if isinstance(end_of_turn_ids, int) else end_of_turn_ids
        self._end_of_turn = frozenset(ids)

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the last of ``tokens`` ends the turn."""
        return bool(tokens) and tokens[-1] in self._end_of_turn
