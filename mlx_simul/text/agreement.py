"""Which words of a recogniser's successive hypotheses are stable (SPEC 9).

Stable are the words that ``agree`` successive hypotheses have in common (LocalAgreement-n: Liu et
al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis
Selection"), or that the recogniser itself calls final. A word that was given stays. Where a later
hypothesis contradicts it, the two are aligned by the fewest words that one would insert, delete or
replace to make one of the other, and the stream goes on after that. Merely counting words would
give one twice as soon as the recogniser inserts another before it; the longest common blocks
(difflib) would lose words wherever one happens to come again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import regex

from mlx_simul.errors import InvalidOptionError

# This many words that were given are compared with the next hypothesis, and twice as many of its
# own.
_KEPT_WORDS = 64

_NOT_SPOKEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


class Agreement:
    """Takes hypotheses as lists of words and says which words of each have become stable.

    Words agree if they are the same letter by letter, white space around them aside; case and
    punctuation alone do not contradict a word that was given. Memory is bounded by the longest
    hypothesis.

    Args:
        agree: how many successive hypotheses must have a word in common, at least 1.
        by_sound: words agree, too, if only case and punctuation differ, and are given as the
            latest hypothesis has them; except its very last word, whose punctuation depends on what
            follows.

    Raises:
        InvalidOptionError: ``agree`` is outside its range.
    """

    def __init__(self, agree: int = 2, *, by_sound: bool = False) -> None:
        if isinstance(agree, bool) or not isinstance(agree, int) or agree < 1:
            raise InvalidOptionError(f"agree must be an integer of at least 1, got {agree!r}.")
        self._agree = agree
        self._key = _spoken if by_sound else str.strip
        self._n_contradictions = 0
        # The words given last that a hypothesis still holds, and how many others it has before.
        self._given: list[str] = []
        self._n_before = 0
        self._n_stable = 0  # words of the latest hypothesis, from its beginning
        # The latest hypotheses, after what was given, the newest last.
        self._rests: deque[list[str]] = deque([[]], maxlen=agree)

    @property
    def rest(self) -> Sequence[str]:
        """The words of the latest hypothesis that may still change."""
        return self._rests[-1]

    @property
    def contradictions(self) -> int:
        """How many hypotheses contradicted a word that had been given."""
        return self._n_contradictions

    def hear(self, words: Sequence[str], *, n_final: int = 0) -> range:
        """Takes the next hypothesis.

        Args:
            words: of the hypothesis, from where it begins (see ``forget``).
            n_final: how many of its first words the recogniser will not revise.

        Returns:
            The places in ``words`` of those that have become stable by it.
        """
        at = self._position(words)
        self._rests.append([*words[at:]])
        n_words = max(0, n_final - at, self._n_agreed())
        self._give(n_words)
        self._n_stable = at + n_words
        if n_words or n_final:  # else it may hold less than was given
            self._n_before = max(0, self._n_stable - len(self._given))
        return range(at, self._n_stable)

    def finish(self) -> range:
        """Take the whole rest of the latest hypothesis as stable.

        Returns:
            The places of these words in the latest hypothesis.
        """
        at = self._n_stable
        self._n_stable += len(self.rest)
        self._give(len(self.rest))
        return range(at, self._n_stable)

    def forget(self, n_words: int) -> None:
        """Let the next hypothesis begin after this many words of the latest one, all of them given.

        Args:
            n_words: how many.
        """
        self._n_stable = max(0, self._n_stable - n_words)
        self._given = self._given[max(0, len(self._given) - self._n_stable) :]
        self._n_before = max(0, self._n_stable - len(self._given))

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
        columns = zip(*self._rests, strict=False)
        agreed = [*takewhile(lambda words: _are_the_same(words, self._key), columns)]
        if len(agreed) == len(self.rest) and agreed and not _are_the_same(agreed[-1], str.strip):
            return len(agreed) - 1
        return len(agreed)

    def _give(self, n_words: int) -> None:
        """Take the first words of the latest hypothesis as stable."""
        if not n_words:
            return
        words = self._rests[-1][:n_words]
        # Those that had other words there do not count for what follows.
        agreeing = takewhile(lambda old: self._begins(old, words), reversed(self._rests))
        rests = [old[n_words:] for old in agreeing]
        self._rests = deque(reversed(rests), maxlen=self._agree)
        self._given = [*self._given, *words][-_KEPT_WORDS:]

    def _begins(self, words: Sequence[str], first: Sequence[str]) -> bool:
        pairs = zip(words, first, strict=False)
        return len(words) >= len(first) and all(_are_the_same(pair, self._key) for pair in pairs)


def _are_the_same(words: Iterable[str], key: Callable[[str], str]) -> bool:
    return len(set(map(key, words))) == 1


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
