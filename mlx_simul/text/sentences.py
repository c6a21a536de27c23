"""Where the sentences of a text end, in the language it is written in (SPEC 8).

The rules are those of sentencex, Wikimedia's. What it gets wrong is put right by joining sentences,
never by cutting them: two that stand together translate well, half of one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import regex
import sentencex

from mlx_simul.errors import InvalidOptionError

Splitter = Callable[[str], Sequence[str]]
"""Text -> its sentences, which concatenate to it, white space aside."""

_ENGLISH = "en"

# English names of the languages that sentencex has rules for, and of those that it reads by the
# rules of another one. Any other language is read by the English rules, and any code it knows may
# be given as a code.
_CODES = {
    "amharic": "am",
    "arabic": "ar",
    "armenian": "hy",
    "asturian": "ast",
    "bangla": "bn",
    "bengali": "bn",
    "bulgarian": "bg",
    "burmese": "my",
    "castilian": "es",
    "catalan": "ca",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "finnish": "fi",
    "flemish": "nl",
    "french": "fr",
    "galician": "gl",
    "german": "de",
    "greek": "el",
    "gujarati": "gu",
    "hindi": "hi",
    "italian": "it",
    "japanese": "ja",
    "kannada": "kn",
    "kazakh": "kk",
    "luxembourgish": "lb",
    "malayalam": "ml",
    "marathi": "mr",
    "myanmar": "my",
    "occitan": "oc",
    "panjabi": "pa",
    "polish": "pl",
    "portuguese": "pt",
    "punjabi": "pa",
    "russian": "ru",
    "slovak": "sk",
    "spanish": "es",
    "tamil": "ta",
    "tatar": "tt",
    "telugu": "te",
    "ukrainian": "uk",
}
_CODE = regex.compile(r"([a-z]{2,3})(?:[-_]\w+)*", regex.IGNORECASE)

# Full stops that Unicode knows and sentencex does not (Khmer and others), for one that it knows.
_UNKNOWN_STOP = regex.compile(
    r"[\u17d4\u17d5\u1b4e\u1b4f\u1b7f\u2cf9-\u2cfb\u2e60\u2e61\ufe12\ufe15\ufe16]"
)
# Words that its lists of abbreviations hold ("Me." is Maine), and that end sentences every day.
_ORDINARY_WORDS = {"en": ("me", "ill", "ok", "ore"), "es": ("bien", "mar", "contra", "sobre")}

_LETTER = regex.compile(r"\p{L}")
# "M.", "z.B.", "т. е.": a letter with a stop, or several; not the end of "Tom's." or "can't."
_INITIAL = regex.compile(r"(?<![\p{L}\p{M}\p{N}.])(?!(?<=\p{L}['’])\p{Ll})(?:\p{L}\p{M}*\.)+\s*\Z")
_NUMBER = regex.compile(r"\p{N}[.．]\s*\Z")
_LOWERCASE_OR_DIGIT = regex.compile(r"[\p{Ll}\p{N}]")
# All that sentencex looks at after a full stop.
_NEXT_CHARS = 32


def language_code(language: str | None) -> str:
    """The code of the language whose rules a text is read by.

    Args:
        language: an English name ("French", "Brazilian Portuguese"), a code ("fr", "pt-BR"), or
            None.

    Returns:
        A code without its region; English's if the language is not known.

    Raises:
        InvalidOptionError: ``language`` is not a text.
    """
    if language is not None and not isinstance(language, str):
        raise InvalidOptionError(
            f'a language must be a name or a code, as in "French" or "fr", got {language!r}.'
        )
    name = (language or "").strip()
    if code := _CODE.fullmatch(name):
        return code.group(1).lower()
    known = [_CODES[part] for part in regex.findall(r"\w+", name.lower()) if part in _CODES]
    return known[-1] if known else _ENGLISH


def sentence_splitter(language: str | None = None) -> Splitter:
    """Make a function that cuts a text into its sentences.

    Args:
        language: a name or a code; see :func:`language_code`.

    Returns:
        Text -> sentences, which concatenate to the text.
    """
    return _Rules(language_code(language)).split


def checked(splitter: Splitter) -> Splitter:
    """The same splitter of the caller's, which raises InvalidOptionError if it changes a text.

    Raises:
        InvalidOptionError: ``splitter`` is not a function.
    """
    if not callable(splitter):
        raise InvalidOptionError(
            f"splitter must be a function from text to its sentences, not "
            f"{type(splitter).__name__}."
        )

    def split(text: str) -> Sequence[str]:
        sentences = splitter(text)
        is_list = isinstance(sentences, Sequence) and not isinstance(sentences, str)
        if not is_list or without_space("".join(sentences)) != without_space(text):
            raise InvalidOptionError(
                f"splitter returned {sentences!r}, which does not concatenate to its input "
                f"{text!r}; return a list of sentences that holds every character, in order "
                "(white space may differ)."
            )
        return sentences

    return split


def ends_before(splitter: Splitter, text: str, following: str) -> bool:
    """Whether a sentence ends between a text and what follows it."""
    n_following = len(without_space(following))
    sentences = splitter(text + following)
    ends = accumulate(len(without_space(sentence)) for sentence in reversed(sentences))
    return n_following in ends


def without_space(text: str) -> str:
    """The text without its white space."""
    return "".join(text.split())


class _Rules:
    """The rules of one language.

    Args:
        code: of the language.
    """

    def __init__(self, code: str) -> None:
        self._code = code
        words = "|".join(_ORDINARY_WORDS.get(code, ()))
        self._ordinary = regex.compile(rf"\b(?:{words})(?=\.)") if words else None

    def split(self, text: str) -> list[str]:
        """The sentences of a text."""
        sentences: list[str] = []
        for sentence in self._segments(text):
            if sentences and self._goes_on(sentences[-1], sentence):
                sentences[-1] += sentence
            else:
                sentences.append(sentence)
        return sentences

    def _segments(self, text: str) -> list[str]:
        """The sentences of sentencex."""
        known = _UNKNOWN_STOP.sub("。", text)
        if self._ordinary is not None:
            known = self._ordinary.sub(lambda match: "x" * len(match.group()), known)
        segments = sentencex.segment(self._code, known)  # pyright: ignore[reportAttributeAccessIssue]
        ends = [0, *accumulate(map(len, segments))]
        return [text[start:end] for start, end in pairwise(ends)]

    def _goes_on(self, before: str, after: str) -> bool:
        """Whether two sentences of sentencex are one."""
        if not _LETTER.search(before):
            return True  # the number of an item, a dash, an opening mark
        if _NUMBER.search(before) and _LOWERCASE_OR_DIGIT.match(after):
            return True  # "5. mai"
        # Of initials sentencex knows those of a name in Latin letters, as in "Ann B. Smith". So it
        # is asked about one.
        name = "A A. "
        is_initial = _INITIAL.search(before) is not None
        return is_initial and self._segments(name + after[:_NEXT_CHARS])[0] != name
