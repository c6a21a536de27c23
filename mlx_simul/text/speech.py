"""How much speech a text is, in words, whatever script it is written in (SPEC 2).

A word between spaces counts 1. Scripts without spaces are counted by characters: Han and Yi, whose
characters stand for syllables with a meaning, 2/3 of a word each; letters of other such scripts,
kana among them, 1/4. Marks on a letter count with it.

The fractions come from the Universal Declaration of Human Rights. For each English word of its
articles there are 1.5 characters in Chinese, 1.05 Han characters and 1.21 kana in Japanese, and 4.2
letters in Thai, 4.3 in Lao, 3.6 in Khmer, 3.9 in Burmese and 3.5 in Javanese, marks not counted.
With them the articles are 0.88 (Javanese) to 1.13 (Lao) times as much speech as in English;
Tibetan, which ends each syllable with a letter's worth of punctuation, 1.35. That is as alike as
languages with spaces are: all 521 translations lie between 0.29 and 1.95.
"""

from __future__ import annotations

from fractions import Fraction

import regex

from mlx_simul.text.characters import SPACELESS, is_visible

# Twelfths of a word.
_WORD, _SYLLABLE, _LETTER = 12, 8, 3

_SYLLABLES = r"\p{Script=Han}\p{Script=Yi}"
# Line breaks in these take a dictionary (UAX 14), and so no space ends a word.
_LETTERS = r"\p{Line_Break=SA}\p{Script=Tibetan}\p{Script=Javanese}\p{Script=Balinese}"
# U+1361 is the space between words that Ethiopic has of its own.
_PART = regex.compile(
    rf"(?P<syllable>[{_SYLLABLES}])|(?P<letter>[{SPACELESS}{_LETTERS}])"
    rf"|(?P<word>[^\s\u1361{SPACELESS}{_SYLLABLES}{_LETTERS}]+)"
)
_COUNTS = {"word": _WORD, "syllable": _SYLLABLE, "letter": _LETTER}


def speech(text: str) -> Fraction:
    """How much speech a text is.

    Args:
        text: whole words; a source word or a target word counts as it does within its text.

    Returns:
        Words, exactly; 0 if nothing in the text shows.
    """
    parts = (part for part in _PART.finditer(text) if is_visible(part.group()))
    return Fraction(sum(_COUNTS[part.lastgroup or ""] for part in parts), _WORD)
