"""Target text in the units that latency is counted in, as SimulEval counts them.

A unit is a word, which is what stands between white space, or a character, for scripts without
spaces. That is not always a target word of the loop: "1.5" is two of those (SPEC section 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

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


def target_units(pieces: Iterable[tuple[str, int, float]], unit: Unit) -> Units:
    """Cut a text that came in pieces into units.

    Args:
        pieces: text, the source words read when it was written, and when that was, in
            milliseconds.
        unit: words, or characters that are no white space.
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
    texts, delays, times_ms = zip(*made, strict=True) if made else ((), (), ())
    return Units(texts, delays, times_ms)


def reference_length(text: str, unit: Unit) -> int:
    """Units of a reference, as SimulEval counts them: at single spaces, or all its characters."""
    return len(text.split(" ")) if unit == "word" else len(text.strip())
