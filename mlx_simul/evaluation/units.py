"""The units that latency is counted in: source words of speech, and target units.

A target unit is as SimulEval counts it: a word, which is what stands between white space, or a
character, for scripts without spaces. That is not always a target word of the loop: "1.5" is two of
those (SPEC section 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Literal, TypeAlias

import regex

from mlx_simul.text.characters import is_visible
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.speech import speech

_KANA = r"[\p{Hiragana}\p{Katakana}]"

Unit: TypeAlias = Literal["word", "char"]

UNITS: tuple[Unit, ...] = ("word", "char")


@dataclass(frozen=True)
class Units:
    """A target text in units.

    Attributes:
        texts: the units.
        delays: for each, the source words read when its last character was written.
        times_ms: for each, when that was.
    """

    texts: tuple[str, ...]
    delays: tuple[int, ...]
    times_ms: tuple[float, ...]


def said_by(source: str) -> tuple[float, ...]:
    """How much is said with the first words of a source, from none of them to all.

    Args:
        source: the whole text; its words are those of a session, so that in a script without spaces
            each grapheme is one.

    Returns:
        Words of speech, which are equally long in any script; where there are spaces, 0, 1, 2 ...
    """
    segmenter = SourceSegmenter()
    words = [*segmenter.feed(source), *segmenter.finish()]
    totals = accumulate(map(speech, words), initial=Fraction(0))
    return tuple(int(said) if said == int(said) else float(said) for said in totals)


def unit_of(texts: Iterable[str]) -> Unit:
    """The unit for some references: characters if most of what they say has no spaces."""
    letters = [char for text in texts for char in text if char.isalnum()]
    n_spaceless = sum(0 < speech(char) < 1 for char in letters)
    return "char" if 2 * n_spaceless > len(letters) else "word"


def bleu_tokenizer_of(texts: Iterable[str]) -> str:
    """sacrebleu's tokenizer for some references, one that needs no other package.

    By "13a", the usual one, a sentence without spaces would be a single token.
    """
    said = "".join(texts)
    if unit_of([said]) == "word":
        return "13a"
    is_chinese = regex.search(r"\p{Han}", said) and not regex.search(_KANA, said)
    return "zh" if is_chinese else "char"


def target_units(pieces: Iterable[tuple[str, int, float]], unit: Unit) -> Units:
    """Cut a text that came in pieces into units.

    Args:
        pieces: text, the source words read when it was written, and when that was, in
            milliseconds.
        unit: words that show something, or characters that are not white space.
    """
    made: list[tuple[str, int, float]] = []
    is_open = False
    for text, delay, time_ms in pieces:
        for char in text:
            if char.isspace():
                is_open = False
                continue
            begun = made.pop()[0] if is_open and unit == "word" else ""
            made.append((begun + char, delay, time_ms))
            is_open = True
    if unit == "word":
        made = [each for each in made if is_visible(each[0])]
    texts, delays, times_ms = zip(*made, strict=True) if made else ((), (), ())
    return Units(texts, delays, times_ms)


def joined(texts: Iterable[str], unit: Unit) -> str:
    """Parts as one text: a space between words, and nothing between characters."""
    return (" " if unit == "word" else "").join(texts)


def reference_length(text: str, unit: Unit) -> int:
    """Units of a reference, as SimulEval counts them: at single spaces, or all its characters."""
    return len(text.split(" ")) if unit == "word" else len(text.strip())
