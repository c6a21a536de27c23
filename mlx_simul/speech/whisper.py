"""What Whisper's packages have in common: segments in, words that were said out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import regex

from mlx_simul.errors import InvalidOptionError
from mlx_simul.speech.recogniser import Word
from mlx_simul.speech.window import Span
from mlx_simul.text.sentences import language_code

_logger = logging.getLogger(__name__)

# Whisper's own threshold for text that repeats itself. Speech stays below it, even the beginning
# of A Tale of Two Cities (2.2).
_REPETITIVE = 2.4
_MAX_REPEATED_WORDS = 16
_MIN_REPEATS = 3
# A word that lies further from any voice than this was not said. Whisper's times are not exact.
_BESIDE_S = 0.4
# This much voice must be left for another pass. Whisper ends the last word of a pass up to 0.4 s
# before the voice does.
_MIN_VOICE_S = 0.5

_IS_ENGLISH = regex.compile(r"\s*en(?![a-z])|.*\benglish\b", regex.IGNORECASE)
_NOT_SPOKEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


FRAME_S = 0.01
"""Whisper counts time in frames of 10 ms."""


@dataclass(frozen=True)
class Segment:
    """A part of what Whisper makes of a piece of audio.

    Attributes:
        words: with times in the piece.
        pass_start_s: when the audio begins that it was decoded from. Whisper decodes what is left
            after the last segment in another pass.
        compression_ratio: of the text of that pass; high where it repeats itself.
    """

    words: Sequence[Word]
    pass_start_s: float
    compression_ratio: float


def words_said(segments: Iterable[Segment], voices: Sequence[Span]) -> list[Word]:
    """The words of segments, without those that were not said.

    Whisper was trained on subtitles and writes some for silence too ("Thanks for watching"). So a
    further pass counts only if a voice is left for it, and a word only next to a voice. In noise
    its decoder may fall into a loop and write the same words again and again; they are kept once.
    What is dropped is logged at the level DEBUG.

    Args:
        segments: in order. No more of them are asked for than are needed.
        voices: when somebody speaks in the audio.
    """
    said: list[Word] = []
    for segment in segments:
        if segment.pass_start_s > 0 and _voice_s(voices, segment.pass_start_s) < _MIN_VOICE_S:
            _log_dropped(segment.words, "no voice is left for them")
            break
        words = segment.words
        if segment.compression_ratio > _REPETITIVE:
            words = without_repeats(words)
            repeated = [word for word in segment.words if word not in words]
            _log_dropped(repeated, "they repeat what is before them")
        _log_dropped([word for word in words if not _is_beside(word, voices)], "no voice is near")
        said += [_within(word, voices) for word in words if _is_beside(word, voices)]
    return said


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


def _log_dropped(words: Sequence[Word], why: str) -> None:
    if words:
        text = "".join(word.text for word in words).strip()
        _logger.debug("%d words are dropped, since %s: %s", len(words), why, text)


def _voice_s(voices: Sequence[Span], from_s: float) -> float:
    """How long somebody speaks from a moment on."""
    return sum(max(0.0, end_s - max(start_s, from_s)) for start_s, end_s in voices)


def _is_beside(word: Word, voices: Sequence[Span]) -> bool:
    """Whether a word lies where somebody speaks, or next to it."""
    return any(
        word.end_s >= start_s - _BESIDE_S and word.start_s <= end_s + _BESIDE_S
        for start_s, end_s in voices
    )


def _within(word: Word, voices: Sequence[Span]) -> Word:
    """A word without the silence around it: Whisper lets a first word begin with the audio."""
    spoken = [voice for voice in voices if voice[1] > word.start_s and voice[0] < word.end_s]
    if not spoken:
        return word
    start_s, end_s = max(word.start_s, spoken[0][0]), min(word.end_s, spoken[-1][1])
    return replace(word, start_s=start_s, end_s=end_s)


def known_language(language: str | None, known: Iterable[str], model: str) -> str | None:
    """The code of a language for a model that knows some.

    Args:
        language: a name or a code, or None.
        known: codes.
        model: its name, for the error.

    Raises:
        InvalidOptionError: the model does not know the language, or its name is unknown.
    """
    if language is None:
        return None
    code, codes = language_code(language), sorted(known)
    if code == "en" and not _IS_ENGLISH.match(language):  # what it says of any unknown name
        raise InvalidOptionError(
            f"the language {language!r} is not known by this name; give its code, one of "
            f"{', '.join(codes)}."
        )
    if code not in codes:
        raise InvalidOptionError(
            f"the model {model} does not recognise {language!r}; it knows {', '.join(codes)}. "
            "Give another language, or a model for many languages."
        )
    return code
