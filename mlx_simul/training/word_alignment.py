"""Which source word a target word translates, learned from pairs alone (IBM model 1 with a leaning
to the diagonal, as in fast_align, Dyer et al. 2013)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

# How much less likely a link is that leaves the diagonal by the whole length.
_DIAGONAL_TENSION = 4.0
_N_ITERATIONS = 5
# The probability of a translation that was not among the pairs: it hardly counts beside one that
# was, and leaves the choice to the diagonal where there is none.
_UNSEEN = 1e-6

Words = Sequence[Hashable]


def align(pairs: Sequence[tuple[Words, Words]]) -> list[list[list[float]]]:
    """Link the words of each pair.

    Args:
        pairs: source words and target words, of any hashable kind.

    Returns:
        For each pair, for each target word, the probability that it translates each source word;
        they sum to 1.
    """
    aligner = WordAligner(pairs)
    return [aligner.links(source, target) for source, target in pairs]


class WordAligner:
    """Links the words of pairs, those that it learned from and others.

    Args:
        pairs: to learn from: source words and target words, of any hashable kind.
    """

    def __init__(self, pairs: Sequence[tuple[Words, Words]]) -> None:
        # t(target | source); equal at first, so that counts decide.
        table: Mapping[Hashable, Mapping[Hashable, float]] = {}
        for _ in range(_N_ITERATIONS - 1):
            counts: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
            for source, target in pairs:
                for i, word in enumerate(target):
                    row = _link(table, source, target, i)
                    for other, share in zip(source, row, strict=True):
                        counts[other][word] += share
            for row in counts.values():
                total = sum(row.values())
                for word in row:
                    row[word] /= total
            table = counts
        # Plain dictionaries: to look a word up must not make an entry for it.
        self._table = {word: dict(row) for word, row in table.items()}

    def links(self, source: Words, target: Words) -> list[list[float]]:
        """Link the words of one pair.

        Args:
            source: at least one word, unless the target has none.
            target: words.

        Returns:
            For each target word, the probability that it translates each source word.
        """
        return [_link(self._table, source, target, i) for i in range(len(target))]


def _link(
    table: Mapping[Hashable, Mapping[Hashable, float]], source: Words, target: Words, i: int
) -> list[float]:
    where = (i + 0.5) / len(target)
    scores = [
        table.get(word, {}).get(target[i], _UNSEEN)
        * math.exp(-_DIAGONAL_TENSION * abs((j + 0.5) / len(source) - where))
        for j, word in enumerate(source)
    ]
    total = sum(scores)
    return [score / total for score in scores]
