"""Which characters are written without spaces between words, and which show nothing."""

from __future__ import annotations

import regex

# By script, not by script extension: those would make a Latin letter's tilde Thai and the Catalan
# middle dot Han. The punctuation that only these scripts use is added by hand.
_SCRIPTS = "".join(
    rf"\p{{Script={name}}}"
    for name in ("Han", "Hiragana", "Katakana", "Thai", "Khmer", "Lao", "Myanmar")
)
SPACELESS_PUNCTUATION = (
    r"\u3001-\u3003\u3008-\u3011\u3014-\u301F\u3030\u30A0\u30FB"
    r"\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65"
)
"""Punctuation of scripts without spaces, for a set of :mod:`regex`."""

SPACELESS = rf"{_SCRIPTS}{SPACELESS_PUNCTUATION}\u30FC\uFF70"
"""Scripts without spaces and their punctuation, likewise."""

# By Unicode's properties, so that characters yet to come are judged as well. Number signs of Arabic
# are format characters that show.
_INVISIBLE = (
    r"[[\s\p{Cc}\p{Cf}\p{M}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\u2800]"
    r"--\p{Prepended_Concatenation_Mark}]"
)
# Joiners and tags change what stands before them, as marks and variation selectors do.
_NOISE = (
    r"[[\p{Cc}\p{Cf}\p{Noncharacter_Code_Point}\u2800\u3164\uFFA0]"
    r"--[\p{Prepended_Concatenation_Mark}\u200C\u200D\U000E0020-\U000E007F]]"
)
_IS_SPACELESS = regex.compile(rf"[{SPACELESS}]")
_IS_INVISIBLE = regex.compile(rf"{_INVISIBLE}*", regex.V1)
_EDGES = regex.compile(rf"\A{_NOISE}+|{_NOISE}+\Z", regex.V1)


def is_spaceless(character: str) -> bool:
    """Whether a character belongs to a script written without spaces, or to its punctuation."""
    return _IS_SPACELESS.fullmatch(character) is not None


def is_visible(text: str) -> bool:
    """Whether a text shows anything.

    White space, control and format characters, all that Unicode lets a display ignore, and
    combining marks without a letter to combine with show nothing.
    """
    return _IS_INVISIBLE.fullmatch(text) is None


def without_edge_noise(word: str) -> str:
    """A word without characters at its ends that show nothing and change nothing.

    Those are zero-width spaces, byte order marks, soft hyphens, marks of direction, controls.
    Joiners and variation selectors stay: they belong to the character before them.
    """
    return _EDGES.sub("", word)
