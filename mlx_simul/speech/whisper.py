"""What Whisper's packages have in common: segments in, words that were said out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import regex

from mlx_simul.errors import InvalidOptionError
from mlx_simul.speech.recogniser import Word
from mlx_simul.text.sentences import language_code

# Whisper's own threshold for text that repeats itself. Speech stays below it, even the beginning
# of A Tale of Two Cities (2.2).
_REPETITIVE = 2.4
_MAX_REPEATED_WORDS = 16
_MIN_REPEATS = 3

_NOT_SPOKEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


@dataclass(frozen=True)
class Segment:
    """A part of what Whisper makes of a piece of audio.

    Attributes:
        words: with times in the piece.
        compression_ratio: of the text that the segment was decoded with; high where it repeats
            itself.
    """

    words: Sequence[Word]
    compression_ratio: float


def words_said(segments: Iterable[Segment]) -> list[Word]:
    """The words of segments, without those that Whisper only repeats.

    In noise and silence its decoder may fall into a loop and write the same words again and again.
    They are kept once.
    """
    return [
        word
        for segment in segments
        for word in (
            without_repeats(segment.words)
            if segment.compression_ratio > _REPETITIVE
            else segment.words
        )
    ]


def without_repeats(words: Sequence[Word]) -> list[Word]:
    """Words without those that only repeat the ones right before them, three times or more."""
    sounds = [_NOT_SPOKEN.sub("", word.text).casefold() for word in words]
    kept: list[Word] = []
    at = 0
    while at < len(words):
        n_words, n_repeats = _repeats(sounds, at)
        kept += words[at : at + n_words]
        at += n_words * n_repeats
        if n_repeats > 1:  # a last repeat that breaks off
            while at < len(words) and sounds[at] == sounds[at - n_words]:
                at += 1
    return kept


def _repeats(sounds: Sequence[str], at: int) -> tuple[int, int]:
    """How many words from a place on are repeated, and how many times they stand there."""
    for n_words in range(1, _MAX_REPEATED_WORDS + 1):
        part, n_repeats = sounds[at : at + n_words], 1
        while sounds[at + n_repeats * n_words : at + (n_repeats + 1) * n_words] == part:
            n_repeats += 1
        if n_repeats >= _MIN_REPEATS:
            return n_words, n_repeats
    return 1, 1


def known_language(language: str | None, known: Iterable[str], model: str) -> str | None:
    """The code of a language for a model that knows some.

    Args:
        language: a name or a code, or None.
        known: codes.
        model: its name, for the error.

    Raises:
        InvalidOptionError: the model does not know the language.
    """
    if language is None:
        return None
    code, codes = language_code(language), sorted(known)
    if code not in codes:
        raise InvalidOptionError(
            f"the model {model} does not recognise {language!r}; it knows {', '.join(codes)}. "
            "Give another language, or a model for many languages."
        )
    return code
