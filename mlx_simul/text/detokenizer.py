"""Token ids in, text that never changes again out (SPEC 7)."""

from __future__ import annotations

import re
from typing import Any

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# How many tokens may stay undecided after a U+FFFD before a settled place is looked for: twice the
# four bytes of the longest character.
_MAX_UNDECIDED_TOKENS = 8

# Every pattern that clean_up_tokenization_spaces rewrites, to see whether it does so here.
_CLEAN_UP_PROBE = "x . x ? x ! x , x ' x n't x 'm x 's x 've x 're x"


class StableDetokenizer:
    """Turns a growing list of token ids into append-only text.

    What ``add`` and ``flush`` return concatenates to exactly ``tokenizer.decode(ids)``, in whole
    UTF-8 characters, invalid byte sequences included. The work per token does not grow with the
    session. A copy (``copy.copy``) is an independent snapshot, to come back to after a roll-back.

    Args:
        tokenizer: A Hugging Face tokenizer or mlx-lm's wrapper around one.
    """

    # Not mlx-lm's detokenizers: its BPE and SentencePiece ones drop a first space that decode()
    # keeps, and byte 0; its naive one decodes the whole line again for every token. Here a short
    # window is decoded: the tokens emitted last (so that no decoder takes the rest for the start of
    # a text) and the undecided ones; what it adds to the text of the former is new.
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        probe = tokenizer.encode(_CLEAN_UP_PROBE, add_special_tokens=False)
        self._cleans_up = tokenizer.decode(probe) != self._decode(tuple(probe))
        self._context: tuple[int, ...] = ()  # tokens whose text is out, the newest only
        self._context_text = ""
        self._undecided: tuple[int, ...] = ()
        self._raw = ""  # text that clean-up may still change

    @property
    def is_holding(self) -> bool:
        """Whether text is held back until later tokens make it certain."""
        return bool(self._undecided or self._raw)

    def add(self, token: int) -> str:
        """Takes the next token.

        Args:
            token: Its id.

        Returns:
            The text that is now certain, often ``""``: a character's last byte, or a byte run's
            end, may still be missing.
        """
        token = int(token)
        self._undecided = (*self._undecided, token)
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is not None and _BYTE_PIECE.fullmatch(piece):
            # A byte-fallback decoder spells a whole run of byte pieces as characters or, if any
            # byte of it is wrong, none: nothing is certain before the run ends.
            return ""
        text = self._new_text(self._undecided)
        if not text.endswith("\ufffd"):
            return self._clean(self._commit(self._undecided, text))
        if len(self._undecided) > _MAX_UNDECIDED_TOKENS:
            return self._clean(self._commit_settled_part(text))
        return ""

    def flush(self) -> str:
        """Ends the text.

        Returns:
            What was still held back; ``""`` when called again.
        """
        text = self._raw + self._commit(self._undecided, self._new_text(self._undecided))
        self._raw = ""
        return self._tokenizer.clean_up_tokenization(text) if self._cleans_up else text

    def _decode(self, tokens: tuple[int, ...]) -> str:
        return self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    def _new_text(self, tokens: tuple[int, ...]) -> str:
        if not tokens:
            return ""
        return self._decode(self._context + tokens)[len(self._context_text) :]

    def _commit(self, tokens: tuple[int, ...], text: str) -> str:
        self._undecided = self._undecided[len(tokens) :]
        if text:
            self._context, self._context_text = tokens, self._decode(tokens)
        elif not self._context_text:
            # Still at the start: a piece that decodes to nothing here may yet have used up the one
            # space that the decoder strips.
            self._context = self._context + tokens
        return text

    def _commit_settled_part(self, text: str) -> str:
        # Endless invalid bytes. Bytes that spell one U+FFFD together spell more of them apart, so
        # where two parts spell apart what they spell together, no character spans the cut.
        for size in range(len(self._undecided) - 1, 0, -1):
            left = self._new_text(self._undecided[:size])
            right = self._new_text(self._undecided[size:])
            if left and right and left + right == text:
                return self._commit(self._undecided[:size], left)
        return ""

    def _clean(self, text: str) -> str:
        if not self._cleans_up:
            return text
        self._raw += text
        # Clean-up joins " n ' t" and less, so a space after a longer word is a safe place to cut.
        cut = len(self._raw)
        while (cut := self._raw.rfind(" ", 0, cut)) > 0:
            before = self._raw[:cut]
            if before[-1] not in " '" and not before.endswith(" n"):
                self._raw = self._raw[cut:]
                return self._tokenizer.clean_up_tokenization(before)
        return ""
