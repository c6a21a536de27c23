"""Where a target is to stop by itself: at a text, at tokens, or once a unit of text is complete.

What may belong to a stop is held back until that is decided, so no part of a stop is ever shown.
Looking for stops changes nothing before the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import regex

from mlx_simul.options import Stop, StopUnit
from mlx_simul.text.segmenter import PARAGRAPH, SourceSegmenter
from mlx_simul.text.turn_splitter import TurnBreak, TurnSplitter

_Item = TypeVar("_Item")
_Seen = TypeVar("_Seen", contravariant=True)

# CommonMark 0.31, section 4.5.
_OPENING_FENCE = regex.compile(r" {0,3}(?P<fence>`{3,}(?=[^`]*\Z)|~{3,})")
_CLOSING_FENCE = regex.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<behind>[ \t]*)")
_BRACKETS = {"{": "}", "[": "]"}
# What may come next in a JSON value.
_VALUE, _KEY, _COLON, _COMMA, _END = (1 << i for i in range(5))
_STRING = regex.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_SCALAR = regex.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
# A sentence of a target is never cut for its length.
_MAX_SENTENCE_WORDS = 10**9


class Cut(NamedTuple):
    """What stays of a target in which a stop was found.

    Attributes:
        stop: the one that was found: a text, token ids, or the name of a unit.
        n_tokens: how many tokens stay; None if the stop is one of text.
        n_chars: how many characters stay; None if the stop is one of tokens.
    """

    stop: Stop
    n_tokens: int | None
    n_chars: int | None


class StopWatch:
    """Looks for stops in one target while it is written; the first that is complete counts.

    Of several that are complete at once the longest counts, and tokens before texts.

    Args:
        stops: texts and token ids, none of them empty.
        unit: a unit of text after which to stop: a sentence, a code block with its fences at the
            margin, or a JSON object or array.
        language: whose sentences end there, a name or a code.

    Attributes:
        cut: what stays, once a stop is found; nothing after it changes that.
    """

    def __init__(
        self, stops: Sequence[Stop] = (), unit: StopUnit | None = None, language: str | None = None
    ) -> None:
        self.cut: Cut | None = None
        self._of_chars: list[tuple[str, _Matcher[str]]] = [
            (stop, _Sequence(stop)) for stop in stops if isinstance(stop, str)
        ]
        self._of_tokens: list[tuple[tuple[int, ...], _Matcher[int]]] = [
            (stop, _Sequence(stop)) for stop in stops if not isinstance(stop, str)
        ]
        if unit is not None:
            made = {
                "sentence": lambda: _Sentence(language),
                "code_block": _CodeBlock,
                "json": _Json,
            }
            self._of_chars.append((unit, made[unit]()))
        self._n_tokens = self._n_chars = 0
        self._made_of = stops, unit, language

    def anew(self) -> StopWatch:
        """A new one that goes on from here; what this one has seen belongs to none of its stops."""
        watch = StopWatch(*self._made_of)
        watch._n_tokens, watch._n_chars = self._n_tokens, self._n_chars
        return watch

    @property
    def settled_tokens(self) -> int:
        """How many tokens no stop can take back any more."""
        return self._n_tokens - max((one.n_undecided for _, one in self._of_tokens), default=0)

    @property
    def settled_chars(self) -> int:
        """How many characters no stop can take back any more."""
        return self._n_chars - max((one.n_undecided for _, one in self._of_chars), default=0)

    def add(self, token: int | None, text: str) -> None:
        """Look at the next token, and at the text that becomes stable with it.

        Args:
            token: its id; None at the end of the target, for the text that is left.
            text: possibly empty.
        """
        if self.cut is None and token is not None:
            self._n_tokens += 1
            if found := _look(self._of_tokens, token):
                self.cut = Cut(found[0], self._n_tokens - found[1], None)
        for char in text:
            if self.cut is not None:
                return
            self._n_chars += 1
            if found := _look(self._of_chars, char):
                self.cut = Cut(found[0], None, self._n_chars - found[1])


class _Matcher(Protocol[_Seen]):
    """Looks at one item after another, for one stop.

    Attributes:
        n_undecided: how many of the newest items a stop may yet take back.
    """

    n_undecided: int

    def add(self, item: _Seen) -> int | None:
        """Look at the next item; if the stop is complete, say how many of the newest must go."""
        ...


_Name = TypeVar("_Name", str, tuple[int, ...])


def _look(
    matchers: Sequence[tuple[_Name, _Matcher[_Item]]], item: _Item
) -> tuple[_Name, int] | None:
    """The longest stop that is complete with an item, and how many items must go."""
    looked = [(name, one.add(item)) for name, one in matchers]
    found = [(name, n_items) for name, n_items in looked if n_items is not None]
    return max(found, key=lambda one: one[1], default=None)


class _Sequence(Generic[_Item]):
    """A stop that is a sequence of items, in linear time (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stop: Sequence[_Item]) -> None:
        self._stop = stop
        # For each prefix, how long a shorter prefix its end is.
        self._borders = [0]
        self.n_undecided = 0
        for item in stop[1:]:
            self._borders.append(self._longest(self._borders[-1], item))

    def add(self, item: _Item) -> int | None:
        self.n_undecided = self._longest(self.n_undecided, item)
        return self.n_undecided if self.n_undecided == len(self._stop) else None

    def _longest(self, length: int, item: _Item) -> int:
        while length and self._stop[length] != item:
            length = self._borders[length - 1]
        return length + (self._stop[length] == item)


class _Sentence:
    """A sentence, which ends where one of a source does (SPEC section 8)."""

    def __init__(self, language: str | None) -> None:
        self._words = SourceSegmenter(paragraphs=True)
        self._sentences = TurnSplitter(language, max_turn_words=_MAX_SENTENCE_WORDS)
        self._text = ""  # the last whole word, and what stands behind it
        self._end = 0  # of that word
        self.n_undecided = 0

    def add(self, item: str) -> int | None:
        self._text += item
        for word in self._words.feed(item):
            if (n_behind := self._behind_sentence(word)) is not None:
                return n_behind
        pending = self._text[self._end :]
        # No sentence ends after a letter or a digit, unless it is the last of a paragraph.
        is_open = not self._end or self._text[self._end - 1].isalnum()
        self.n_undecided = len(pending) - (len(pending.rstrip()) if is_open else 0)
        return None

    def _behind_sentence(self, word: str) -> int | None:
        """Take a whole word; if a sentence has ended, say how many characters stand after it."""
        cut = self._sentences.add(word)
        ends_before = bool(cut) and isinstance(cut[0], TurnBreak)
        if word != PARAGRAPH and not ends_before:
            text = word.strip()
            start = self._text.index(text, self._end)
            self._text, self._end = self._text[start:], len(text)
        ended = any(isinstance(one, TurnBreak) for one in cut)
        return len(self._text) - self._end if ended else None


class _CodeBlock:
    """A fenced code block, which ends with the line of its closing fence."""

    def __init__(self) -> None:
        self._line, self._fence = "", ""
        self.n_undecided = 0

    def add(self, item: str) -> int | None:
        if item in "\r\n":
            closing, line, self._line = self._closing(), self._line, ""
            if closing is not None:
                return len(closing["behind"]) + 1
            opening = _OPENING_FENCE.match(line)
            if opening is not None and not self._fence:
                self._fence = opening["fence"]
        else:
            self._line += item
        closing = self._closing()
        self.n_undecided = 0 if closing is None else len(closing["behind"])
        return None

    def _closing(self) -> regex.Match[str] | None:
        """The closing fence that the line under way is so far."""
        closing = _CLOSING_FENCE.fullmatch(self._line)
        is_fence = self._fence and closing is not None and closing["fence"].startswith(self._fence)
        return closing if is_fence else None


class _Json:
    """A JSON object or array (RFC 8259); what stands before it may be anything.

    What begins like one and goes on otherwise, such as a remark in brackets, is text before it.
    """

    n_undecided = 0

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._closers: list[str] = []
        self._expected = _VALUE
        self._scalar = ""  # a string, number or word under way

    def add(self, item: str) -> int | None:
        if self._closers and not self._goes_on(item):
            self._begin()
        if not self._closers:
            if item in _BRACKETS:
                self._open(item)
            return None
        return None if self._closers != [""] else 0

    def _goes_on(self, item: str) -> bool:
        """Take a character after the opening bracket; say whether it can stand there."""
        if self._scalar.startswith('"'):
            self._scalar += item
            is_whole = _STRING.fullmatch(self._scalar, partial=True)
            if is_whole and not is_whole.partial:
                self._scalar = ""
            return is_whole is not None
        if self._scalar and item not in " \t\n\r,]}":
            self._scalar += item
            return _SCALAR.fullmatch(self._scalar, partial=True) is not None
        if self._scalar:
            is_whole, self._scalar = _SCALAR.fullmatch(self._scalar), ""
            if is_whole is None:
                return False
        return item in " \t\n\r" or self._takes(item)

    def _takes(self, item: str) -> bool:
        """Take a character that is neither white space nor within a string, number or word."""
        expected, closer = self._expected, self._closers[-1]
        if item == closer and expected & _END:
            self._closers.pop()
            self._expected = _COMMA | _END
            self._closers = self._closers or [""]
            return True
        if item == "," and expected & _COMMA:
            self._expected = _KEY if closer == "}" else _VALUE
            return True
        if item == ":" and expected & _COLON:
            self._expected = _VALUE
            return True
        if item == '"' and expected & _KEY:
            self._scalar, self._expected = item, _COLON
            return True
        if not expected & _VALUE:
            return False
        if item in _BRACKETS:
            self._open(item)
            return True
        self._scalar, self._expected = item, _COMMA | _END
        return item == '"' or _SCALAR.fullmatch(item, partial=True) is not None

    def _open(self, bracket: str) -> None:
        self._closers.append(_BRACKETS[bracket])
        self._expected = (_KEY if bracket == "{" else _VALUE) | _END
