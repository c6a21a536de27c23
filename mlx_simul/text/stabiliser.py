"""A recogniser's hypotheses in; words that are final out (SPEC 9).

Only those words of a hypothesis are given that ``agree`` successive ones have in common
(LocalAgreement-n: Liu et al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and
Translation by Partial Hypothesis Selection"), or that the recogniser itself calls final. What was
given stays. Where a later hypothesis contradicts it, the two are aligned by the fewest words that
one would insert, delete or replace to make one of the other, and the stream goes on behind that.
Merely counting words would give one twice as soon as the recogniser inserts another before it; the
longest common blocks (difflib) would lose words wherever one happens to come again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Literal, TypeAlias

import regex

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.events import Tail
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import SourceSegmenter

Hypothesis: TypeAlias = str | tuple[str, bool | int]
"""A recogniser's text, or that and what of it is final: all (True), or so many words."""

# So many words that were given are compared with the next hypothesis, and twice as many of its own.
_KEPT_WORDS = 64

_NOT_SPOKEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


class Stabiliser:
    """Takes hypotheses as a recogniser revises them and gives each word once, when it is stable.

    Words are those of :class:`~mlx_simul.text.segmenter.SourceSegmenter`. They agree if they are
    the same letter by letter; case and punctuation alone do not contradict a word that was given.
    A hypothesis is the whole text since the last final words, or since the beginning. With
    ``since="final"`` memory is bounded by the longest hypothesis.

    Args:
        agree: how many successive hypotheses must have a word in common, at least 1.
        since: where each hypothesis begins: "final", behind what the recogniser has called final,
            or "beginning", always at the beginning of the stream.

    Raises:
        InvalidOptionError: an option is outside its range.
    """

    def __init__(self, agree: int = 2, *, since: Literal["final", "beginning"] = "final") -> None:
        if isinstance(agree, bool) or not isinstance(agree, int) or agree < 1:
            raise InvalidOptionError(f"agree must be an integer of at least 1, got {agree!r}.")
        if since not in ("final", "beginning"):
            raise InvalidOptionError(f'since must be "final" or "beginning", got {since!r}.')
        self._since = since
        self._agree = agree
        self._closed = False
        self._n_contradictions = 0
        self._last_char = " "  # of the text given
        # The words given last that a hypothesis still holds, and how many others it has before.
        self._given: list[str] = []
        self._n_before = 0
        # The latest hypotheses behind what was given, the newest last.
        self._rests: deque[list[str]] = deque([[]], maxlen=agree)

    @property
    def tail(self) -> Tail:
        """The part of the latest hypothesis that may still change."""
        return Tail("".join(self._rests[-1]).strip())

    @property
    def contradictions(self) -> int:
        """How many hypotheses contradicted a word that had been given."""
        return self._n_contradictions

    def hear(self, hypothesis: str, *, final: bool | int = False) -> str:
        """Takes the recogniser's next hypothesis.

        Args:
            hypothesis: its text, revised as a whole.
            final: what of it will not be revised: all of it (True), or so many words.

        Returns:
            Text to feed to a session: the words that have become stable, each whole (white space
            follows unless the script has none); empty if there are none.

        Raises:
            SessionClosedError: After ``finish``.
            InvalidOptionError: ``hypothesis`` is not a ``str``, or ``final`` is negative.
        """
        self._refuse_if_closed("hear")
        if not isinstance(final, int) or final < 0:
            raise InvalidOptionError(f"final must be True, False or a count, got {final!r}.")
        words = _words(hypothesis)
        n_final = len(words) if final is True else min(final, len(words))
        at = self._position(words)
        self._rests.append(words[at:])
        text = self._give(max(n_final - at, self._n_agreed()))
        n_stable = len(words) - len(self._rests[-1])
        is_final = final is True or n_final > 0
        if is_final and self._since == "final":
            # The next hypothesis begins behind the final words.
            n_stable = max(0, n_stable - n_final)
            self._given = self._given[max(0, len(self._given) - n_stable) :]
        if text or is_final:  # else it may hold less than was given
            self._n_before = max(0, n_stable - len(self._given))
        return text

    def finish(self) -> str:
        """Ends the source.

        Returns:
            The rest of the latest hypothesis, as text to feed; empty if there is none.

        Raises:
            SessionClosedError: The second time.
        """
        self._refuse_if_closed("finish")
        self._closed = True
        return self._give(len(self._rests[-1]))

    def _refuse_if_closed(self, what: str) -> None:
        if self._closed:
            raise SessionClosedError(
                f"{what}() after finish(): this source has ended; start a new Stabiliser."
            )

    def _position(self, words: Sequence[str]) -> int:
        """Where in a hypothesis the words begin that were not given."""
        start = min(self._n_before, len(words))
        given = [_spoken(word) for word in self._given]
        heard = [_spoken(word) for word in words[start : start + 2 * _KEPT_WORDS]]
        n_common = min(len(given), len(heard))
        if heard[:n_common] == given[:n_common]:
            return start + n_common
        self._n_contradictions += 1
        return start + _aligned(given, heard)

    def _n_agreed(self) -> int:
        """How many words the latest hypotheses begin with in common."""
        if len(self._rests) < self._agree:
            return 0
        return sum(1 for _ in takewhile(_are_the_same, zip(*self._rests, strict=False)))

    def _give(self, n_words: int) -> str:
        """Take the first words of the latest hypothesis for stable."""
        rest = self._rests[-1]
        words, rest = rest[:n_words], rest[n_words:]
        if not words:
            return ""
        # Those that had other words there do not count for what follows.
        agreeing = takewhile(lambda old: _begins(old, words), reversed(self._rests))
        rests = [old[n_words:] for old in agreeing]
        self._rests = deque(reversed(rests), maxlen=self._agree)
        self._given = [*self._given, *words][-_KEPT_WORDS:]
        return self._spaced("".join(words), rest)

    def _spaced(self, text: str, rest: Sequence[str]) -> str:
        """Text with the space before it and behind it that makes its words whole."""
        if self._last_char.isspace():
            text = text.lstrip()
        if not is_spaceless(text[-1]) and (not rest or rest[0][0].isspace()):
            text += " "
        self._last_char = text[-1]
        return text


def stabilise(
    hypotheses: Iterable[Hypothesis],
    agree: int = 2,
    *,
    since: Literal["final", "beginning"] = "final",
    show: Callable[[Tail], None] | None = None,
) -> Iterator[str]:
    """Make a source of a recogniser's hypotheses.

    Args:
        hypotheses: as they come: texts, or pairs of a text and what of it is final.
        agree: how many successive ones must have a word in common.
        since: where each begins; see :class:`Stabiliser`.
        show: called with the part that may still change, after each hypothesis.

    Yields:
        Text that will not change, to feed to a session or to pass on as its source.

    Raises:
        InvalidOptionError: an option, or a hypothesis, is outside its range.
    """
    stabiliser = Stabiliser(agree, since=since)
    for hypothesis in hypotheses:
        text, final = _with_final(hypothesis)
        if stable := stabiliser.hear(text, final=final):
            yield stable
        if show is not None:
            show(stabiliser.tail)
    if stable := stabiliser.finish():
        yield stable


def _with_final(hypothesis: Hypothesis) -> tuple[str, bool | int]:
    if isinstance(hypothesis, str):
        return hypothesis, False
    if isinstance(hypothesis, tuple) and len(hypothesis) == 2:
        return hypothesis
    raise InvalidOptionError(
        f"a hypothesis must be a text, or a text and what of it is final, got {hypothesis!r}."
    )


def _words(text: str) -> list[str]:
    segmenter = SourceSegmenter()
    return segmenter.feed(text) + segmenter.finish()


def _are_the_same(words: Sequence[str]) -> bool:
    """Whether words are the same but for the space before them."""
    return len(set(map(str.strip, words))) == 1


def _begins(words: Sequence[str], first: Sequence[str]) -> bool:
    pairs = zip(words, first, strict=False)
    return len(words) >= len(first) and all(map(_are_the_same, pairs))


def _spoken(word: str) -> str:
    """A word without what does not sound: case and punctuation."""
    return _NOT_SPOKEN.sub("", word).casefold() or word.strip()


def _aligned(given: Sequence[str], heard: Sequence[str]) -> int:
    """How many words heard stand for the words given: those at the smallest edit distance.

    Of several such, one whose last word was the last that was given, and then the one that is as
    many words.
    """
    distances = [*range(len(heard) + 1)]
    for i, word in enumerate(given, 1):
        above, distances = distances, [i]
        for j, other in enumerate(heard, 1):
            replaced = above[j - 1] + (word != other)
            distances.append(min(replaced, above[j] + 1, distances[-1] + 1))
    return min(
        range(len(distances)),
        key=lambda n: (distances[n], heard[n - 1 : n] != given[-1:], abs(n - len(given))),
    )
