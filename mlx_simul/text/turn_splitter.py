"""Where the turns of a stream end: words in, words and breaks out (SPEC 8).

A break is a function of the words alone. Where a word by itself ends a sentence, the break comes
right after it, so that a listener does not wait for the next one; where only the next word can
tell, it comes with that one. To know which, the splitter is asked about words that might come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import regex

from mlx_simul.errors import SessionClosedError
from mlx_simul.events import TurnReason
from mlx_simul.machine.fields import require_count
from mlx_simul.options import DEFAULT_MAX_TURN_WORDS
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import PARAGRAPH, require_text
from mlx_simul.text.sentences import Splitter, checked, ends_before, sentence_splitter
from mlx_simul.text.speech import speech

# What closes what opens a quotation or bracket; single quotes look like apostrophes.
_CLOSERS = {
    **{"(": ")", "[": "]", "{": "}", "（": "）", "［": "］", "〔": "〕", "【": "】"},
    **{"«": "»", "‹": "›", "“": "”", "„": "“”", '"': '"'},
    **{"「": "」", "『": "』", "《": "》", "〈": "〉", "﹁": "﹂", "﹃": "﹄"},
}
_PAIRED = regex.compile("[" + regex.escape("".join({*_CLOSERS, *"".join(_CLOSERS.values())})) + "]")
_MAX_OPEN = 8
# A quotation mark without a partner (5" for five inches) must not delay every turn to come.
_MAX_TURNS_OPEN = 8

# Marks that belong to the word before them, even if a space stands between.
_CLOSING = regex.compile(r"\s*[\p{Pe}\p{Pf}\p{Terminal_Punctuation}…]+")
_MAX_CLOSING_IN_A_ROW = 8
# In scripts without spaces each mark is a word: "！？" is two.
_REPEATED = "！？"

_CLAUSE_END = regex.compile(
    r"(?:[[\p{Terminal_Punctuation}…—–―]--\p{Sentence_Terminal}]|(?:\A|\s)-)[\p{Pe}\p{Pf}\"]*\Z",
    regex.V1,
)
# What cannot be an abbreviation that the splitter does not know: those are short.
_ORDINARY_END = regex.compile(r"(?:\p{L}{5}[.]|\p{L}[!?])\Z")
_LAST_LETTER = regex.compile(r"(?r)\p{L}")

# So that a splitter's work stays bounded, it sees the end of a longer turn and the beginning of a
# longer word that follows.
_MAX_SEEN_CHARS = 1024
_MAX_FOLLOWING_CHARS = 256
_LEAST_SPEECH = Fraction(1, 12)


@dataclass(frozen=True)
class TurnBreak:
    """A turn ends here.

    Attributes:
        reason: why.
    """

    reason: TurnReason


class TurnSplitter:
    """Cuts a stream of words into turns, each a sentence where that is possible.

    A turn ends where a sentence does, where the caller says so, or before it would hold more than
    ``max_turn_words``: then at the last clause mark of its second half, if there is one. So words
        after such a mark are held until the next one, the end of the sentence, or that many words
    decide. Every turn has at least one word. Marks that are written as a word of their own, as
    French does before ``?``, belong to the word before them and do not count. The sentences of a
    quotation are turns too, because its end may be far away. Work and memory per word are bounded.

    Args:
        language: of the text, a name as in "French" or a code as in "fr"; it selects the rules.
        max_turn_words: the most words of speech in a turn; in a script without spaces
            these are several characters each (:mod:`mlx_simul.text.speech`). Only a single source
            word can be more than that.
        splitter: text -> its sentences, which must concatenate to it, white space aside; it
            replaces the rules of the language. It sees one turn and a word that follows, or might.

    Raises:
        InvalidOptionError: an option is outside its range, or the splitter changed a text.
    """

    def __init__(
        self,
        language: str | None = None,
        *,
        max_turn_words: int = DEFAULT_MAX_TURN_WORDS,
        splitter: Splitter | None = None,
    ) -> None:
        require_count("max_turn_words", max_turn_words)
        self._splitter = sentence_splitter(language) if splitter is None else checked(splitter)
        self._max_speech = max_turn_words
        # Some languages' rules never begin a sentence in lower case. Then a word in lower case
        # tells nothing about the one before, unless that may be an abbreviation.
        self._needs_capital = not ends_before(self._splitter, "Aaaaaa aaaaaa.", " aa")
        self._closed = False
        self._closers: list[str] = []  # of the quotations and brackets that are open
        self._turns_open = 0
        self._begin()

    def add(self, word: str) -> list[str | TurnBreak]:
        """Takes a word of the source.

        Args:
            word: with the space before it, if there is one, as
                :class:`~mlx_simul.text.segmenter.SourceSegmenter` gives it; ``PARAGRAPH`` ends the
                turn as a blank line.

        Returns:
            The words that are decided now, in order, and the breaks between them.

        Raises:
            SessionClosedError: After ``finish``.
            InvalidOptionError: ``word`` is not a ``str``, or the splitter changed a text.
        """
        self._refuse_if_closed("add")
        require_text(word)
        if word == PARAGRAPH:
            return self.end_turn("blank_line")
        out: list[str | TurnBreak] = []
        is_closing = self._closes(word)
        weight = Fraction(0) if is_closing else _weight(word)
        before, closers = self._closers, self._closers_behind(word)
        if self._words and not is_closing:
            # A quotation that opens here will be closed. A splitter may take an opening mark that
            # nothing closes for one that closes the sentence before it.
            opened = "".join(closer[0] for closer in reversed(closers[len(before) :]))
            if ends_before(self._splitter, self._seen, word[:_MAX_FOLLOWING_CHARS] + opened):
                out += self._end("sentence")
            else:
                out += self._make_room(weight)
        out += self._take(word, weight)
        if closers != before:
            self._closers, self._turns_open = closers, 0
        if self._ends_here(word):
            out += self._end("sentence")
        return out

    def end_turn(self, reason: TurnReason = "end_turn") -> list[str | TurnBreak]:
        """Ends the turn: a pause in speech, a blank line, a commit.

        Args:
            reason: what the break will say.

        Returns:
            The words that were held and a break; nothing if the turn has no words.

        Raises:
            SessionClosedError: After ``finish``.
        """
        self._refuse_if_closed("end_turn")
        self._closers = []
        return self._end(reason) if self._words else []

    def finish(self) -> list[str | TurnBreak]:
        """Ends the source.

        Returns:
            The words that were held and a break; nothing if the turn has no words.

        Raises:
            SessionClosedError: The second time.
        """
        out = self.end_turn("source_end")
        self._closed = True
        return out

    def _refuse_if_closed(self, what: str) -> None:
        if self._closed:
            raise SessionClosedError(
                f"{what}() after finish(): this source has ended; start a new TurnSplitter."
            )

    # The turn under way

    def _begin(self, words: Sequence[str] = (), speech: Fraction = Fraction(0)) -> None:
        self._words = [*words]  # the first of which have been given out
        self._n_out = 0
        self._speech = speech
        self._mark: tuple[int, Fraction] | None = None  # words and speech before a cut
        self._n_closing = 0  # words in a row that are only closing marks
        self._seen = ""
        self._see("".join(words))

    def _take(self, word: str, weight: Fraction) -> list[str | TurnBreak]:
        if self._words and _is_space_between_spaceless(self._words[-1], word):
            self._note_mark()  # all the punctuation that Thai has
        is_behind_mark = self._mark is not None and self._mark[0] == len(self._words)
        self._words.append(word)
        self._see(word)
        self._speech += weight
        self._n_closing = 0 if weight else self._n_closing + 1
        if _CLAUSE_END.search(word) or (is_behind_mark and not weight):
            self._note_mark()
        return self._release(len(self._words) if self._mark is None else self._mark[0])

    def _see(self, text: str) -> None:
        self._seen = (self._seen + text)[-_MAX_SEEN_CHARS:].lstrip()

    def _note_mark(self) -> None:
        if 2 * self._speech >= self._max_speech:
            self._mark = (len(self._words), self._speech)

    def _release(self, n: int) -> list[str | TurnBreak]:
        """The first words of the turn, those that were given out left out."""
        words: list[str | TurnBreak] = [*self._words[self._n_out : n]]
        self._n_out = n
        return words

    def _end(self, reason: TurnReason) -> list[str | TurnBreak]:
        out = [*self._release(len(self._words)), TurnBreak(reason)]
        self._turns_open += 1
        if self._turns_open == _MAX_TURNS_OPEN:
            self._closers = []
        self._begin()
        return out

    def _make_room(self, weight: Fraction) -> list[str | TurnBreak]:
        """End the turn if it has no room for a word."""
        out: list[str | TurnBreak] = []
        while self._words and self._speech + weight > self._max_speech:
            if self._mark is None:
                return out + self._end("max_turn_words")
            n_words, speech_before = self._mark
            out.append(TurnBreak("max_turn_words"))
            self._begin(self._words[n_words:], self._speech - speech_before)
        return out

    # What may come next

    def _closes(self, word: str) -> bool:
        """Whether a word is only marks that close what stands before it."""
        if not self._words or self._n_closing == _MAX_CLOSING_IN_A_ROW:
            return False
        is_open = bool(self._closers) and word.strip() in [*self._closers[-1]]
        return is_open or _CLOSING.fullmatch(word) is not None

    def _closers_behind(self, word: str) -> list[str]:
        """What closes the quotations and brackets that are open after a word."""
        closers = [*self._closers]
        for mark in _PAIRED.findall(word):
            if closers and mark in closers[-1]:
                closers.pop()
            elif mark in _CLOSERS and len(closers) < _MAX_OPEN:
                closers.append(_CLOSERS[mark])
        return closers

    def _ends_here(self, word: str) -> bool:
        """Whether a sentence ends after a word, whatever follows it."""
        letter = _LAST_LETTER.search(self._seen)
        if self._closers or word[-1:] in _REPEATED or letter is None:
            return False
        # The next word is most likely in the same script.
        upper, lower = letter.group().upper()[0], letter.group().lower()[0]
        space = "" if is_spaceless(word[-1:]) else " "
        follows = [space + upper + lower]
        if upper != lower and not (self._needs_capital and _ORDINARY_END.search(word)):
            follows.append(space + lower + lower)
        return all(ends_before(self._splitter, self._seen, word) for word in follows)


def _weight(word: str) -> Fraction:
    # What shows counts, even the space that Ethiopic writes as a mark.
    return max(speech(word), _LEAST_SPEECH)


def _is_space_between_spaceless(before: str, word: str) -> bool:
    return word[:1].isspace() and is_spaceless(word[1:2]) and is_spaceless(before[-1:])
