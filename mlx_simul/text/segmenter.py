"""Text chunks in, whole source words out (SPEC 2).

A word travels with the single space before it, so the segments of a source concatenate to its text
with white space normalised: ``"Good", " morning,", " how"``. What has half arrived is held back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import regex

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.text.characters import (
    SPACELESS,
    SPACELESS_PUNCTUATION,
    is_visible,
    without_edge_noise,
)

MAX_WORD_CHARS = 4096
"""A word is cut once it has this many characters, so that a source without spaces stays bounded."""

PARAGRAPH = "\n\n"
"""Stands between two words for a blank line, where the caller asked for it; it is never a word."""

MAX_GRAPHEME_CHARS = 64
"""A grapheme cluster is cut once it has this many characters (a base under endless accents)."""

_RUN = regex.compile(rf"(?P<space>\s+)|(?P<word>[^\s{SPACELESS}]+)|(?P<spaceless>[{SPACELESS}])")
_LINE_BREAK = regex.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")
# Burmese has vowel signs that Unicode gives a grapheme of their own; they belong to their letter.
_GRAPHEME = regex.compile(r"\X\p{M}*")
_CLAUSE_END = regex.compile(rf"[{SPACELESS_PUNCTUATION}]")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")


class SourceSegmenter:
    """Cuts a source that arrives in arbitrary chunks into words; any chunking gives the same words.

    A word is a maximal run of characters that are not Unicode white space. Inside it, text in a
    script written without spaces (Han, Hiragana, Katakana, Thai, Khmer, Lao, Myanmar, with the
    punctuation of these) is cut again, grapheme by grapheme or by ``split``: ``"iPhone15手机"``
    gives ``"iPhone15", "手", "机"``. What shows nothing (a zero-width space, a byte order mark, a
    control character, an accent without a letter) is not a word. At the ends of a word it is
    dropped, joiners and variation selectors excepted; within a word it stays. Halves of a surrogate
    pair are joined; a lone one becomes U+FFFD. Time is linear in the characters fed; memory is
    bounded by ``MAX_WORD_CHARS``.

    Args:
        split: Segmenter for runs of spaceless script: run -> its words, which must concatenate to
            the run. It is called once a run is complete: at white space, another script, the end
            of the source, or right after clause punctuation (``，。！？`` …), so that a live
            source is translated clause by clause.
        paragraphs: Report blank lines, two line breaks with nothing visible between them: once for
            any number of them, ``PARAGRAPH`` stands among the words, as soon as the second line
            break is there. It never stands before the first word.
    """

    def __init__(
        self, split: Callable[[str], Sequence[str]] | None = None, *, paragraphs: bool = False
    ) -> None:
        if split is not None and not callable(split):
            raise InvalidOptionError(
                f"split must be a function from text to its words, not {type(split).__name__}."
            )
        self._split = split
        self._paragraphs = paragraphs
        self._closed = False
        self._surrogate = ""  # a high surrogate whose other half may be in the next chunk
        self._grapheme = ""  # a spaceless grapheme that the next chunk may extend
        self._run: list[str] = []  # the parts of the word or spaceless run under way
        self._run_chars = 0
        self._run_is_spaceless = False
        self._started = False
        self._space = False
        self._n_line_breaks = 0  # behind the last word
        self._is_after_return = False  # a line feed would belong to the same line break

    def feed(self, chunk: str) -> list[str]:
        """Takes the next piece of the source.

        Args:
            chunk: Any piece of text, the empty one included.

        Returns:
            The words it completed, each with the space before it (the source's first without).

        Raises:
            SessionClosedError: After ``finish``.
            InvalidOptionError: ``chunk`` is not a ``str``, or ``split`` lost or changed text.
        """
        self._refuse_if_closed("feed")
        require_text(chunk)
        text = self._surrogate + chunk
        self._surrogate = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._surrogate = text[:-1], text[-1]
        return self._cut(self._grapheme + _join_surrogates(text), is_last=False)

    def flush(self) -> list[str]:
        """Ends a word that has half arrived, but not the source: a pause, the end of a turn.

        Returns:
            The words that were held back; at most a few. The next word has no space before it if
            none comes.

        Raises:
            SessionClosedError: After ``finish``.
            InvalidOptionError: ``split`` lost or changed text.
        """
        self._refuse_if_closed("flush")
        return self._drain()

    def finish(self) -> list[str]:
        """Ends the source.

        Returns:
            The words that were held back; at most a few.

        Raises:
            SessionClosedError: The second time.
            InvalidOptionError: ``split`` lost or changed text.
        """
        self._refuse_if_closed("finish")
        self._closed = True
        return self._drain()

    def _drain(self) -> list[str]:
        text = self._grapheme + _join_surrogates(self._surrogate)
        self._surrogate = ""
        words = self._cut(text, is_last=True)
        words.extend(self._end_run())
        return words

    def _refuse_if_closed(self, what: str) -> None:
        if self._closed:
            raise SessionClosedError(
                f"{what}() after finish(): this source has ended; start a new SourceSegmenter."
            )

    def _cut(self, text: str, is_last: bool) -> list[str]:
        words: list[str] = []
        self._grapheme = ""
        at = 0
        # The three groups cover every character: only the end of the text matches none.
        while run := _RUN.match(text, at):
            if run.lastgroup == "spaceless":
                # A slice: \X looks behind its start, and what lies there depends on chunking.
                window = text[at : at + MAX_GRAPHEME_CHARS + 1]
                match = _GRAPHEME.match(window)
                end = at + min(match.end() if match else 1, MAX_GRAPHEME_CHARS)
                if end == len(text) and not is_last:
                    self._grapheme = text[at:]
                    break
                words.extend(self._add_grapheme(text[at:end]))
                at = end
            elif run.lastgroup == "word":
                words.extend(self._add_word_part(run.group()))
                at = run.end()
            else:
                words.extend(self._end_run())
                self._space = self._started
                words.extend(self._blank_line(run.group()))
                at = run.end()
            self._is_after_return = text[at - 1] == "\r"
        return words

    def _blank_line(self, space: str) -> list[str]:
        """A paragraph's end, if white space brings the second line break after a word."""
        if not self._paragraphs or not self._started:
            return []
        n_before = self._n_line_breaks
        self._n_line_breaks += len(_LINE_BREAK.findall(space))
        if self._is_after_return and space[0] == "\n":
            self._n_line_breaks -= 1
        return [PARAGRAPH] if n_before < 2 <= self._n_line_breaks else []

    def _add_word_part(self, part: str) -> list[str]:
        words = self._end_run() if self._run_is_spaceless else []
        self._run_is_spaceless = False
        while part:
            room = MAX_WORD_CHARS - self._run_chars
            self._run.append(part[:room])
            self._run_chars += len(part[:room])
            part = part[room:]
            if self._run_chars == MAX_WORD_CHARS:
                words.extend(self._end_run())
        return words

    def _add_grapheme(self, grapheme: str) -> list[str]:
        if self._run and not self._run_is_spaceless and not is_visible(grapheme):
            return self._add_word_part(grapheme)  # a vowel sign on a dotted circle
        words = [] if self._run_is_spaceless else self._end_run()
        self._run_is_spaceless = True
        self._run.append(grapheme)
        self._run_chars += len(grapheme)
        if (
            self._split is None
            or _CLAUSE_END.match(grapheme)
            or self._run_chars > MAX_WORD_CHARS - MAX_GRAPHEME_CHARS
        ):
            words.extend(self._end_run())
        return words

    def _end_run(self) -> list[str]:
        if not self._run:
            return []
        run, self._run, self._run_chars = "".join(self._run), [], 0
        words = self._words_of(run)
        if not words:
            return []
        if self._space:
            words[0] = " " + words[0]
        self._space = False
        self._started = True
        self._n_line_breaks = 0
        return words

    def _words_of(self, run: str) -> list[str]:
        """The words of a run, each of which shows something."""
        if not self._run_is_spaceless:
            return [without_edge_noise(run)] if is_visible(run) else []
        parts = [run] if self._split is None else self._split(run)
        if "".join(parts) != run:
            raise InvalidOptionError(
                f"split returned {parts!r}, which does not concatenate to its input {run!r}; "
                "return every character, in order."
            )
        words: list[str] = []
        for part in parts:
            # A mark that was cut off belongs to the letter before it.
            if words and not is_visible(part):
                words[-1] += part
            elif is_visible(part):
                words.append(part)
        return words


def require_text(chunk: object) -> None:
    """Check that a piece of a source is text.

    Raises:
        InvalidOptionError: if it is not.
    """
    if not isinstance(chunk, str):
        raise InvalidOptionError(
            f"a source chunk must be a str, not {type(chunk).__name__}; decode bytes first "
            "(codecs.getincrementaldecoder does so across chunks)."
        )


def _join_surrogates(text: str) -> str:
    return _SURROGATES.sub(_joined, text)


def _joined(match: re.Match[str]) -> str:
    if len(match.group()) == 1:
        return "\ufffd"
    high, low = match.group()
    return chr(0x10000 + ((ord(high) - 0xD800) << 10) + (ord(low) - 0xDC00))
