"""Which source word a target word translates, learned from pairs alone (IBM model 1 with a leaning
to the diagonal, as in fast_align, Dyer et al. 2013)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

# How much less likely a link is that leaves the diagonal by the whole length.
_DIAGONAL_TENSION = 4.0
_N_ITERATIONS = 5

Words = Sequence[Hashable]


def align(pairs: Sequence[tuple[Words, Words]]) -> list[list[list[float]]]:
    """Link the words of each pair.

    Args:
        pairs: source words and target words, of any hashable kind.

    Returns:
        For each pair, for each target word, the probability that it translates each source word;
        they sum to 1.
    """
    # t(target | source); equal at first, so that counts decide.
    table: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    links: list[list[list[float]]] = []
    for _ in range(_N_ITERATIONS):
        counts: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
        links = [[_link(table, s, t, i) for i in range(len(t))] for s, t in pairs]
        for (source, target), rows in zip(pairs, links, strict=True):
            for word, row in zip(target, rows, strict=True):
                for other, share in zip(source, row, strict=True):
                    counts[other][word] += share
        for row in counts.values():
            total = sum(row.values())
            for word in row:
                row[word] /= total
        table = counts
    return links


def _link(
    table: dict[Hashable, dict[Hashable, float]], source: Words, target: Words, i: int
) -> list[float]:
    where = (i + 0.5) / len(target)
    scores = [
        table[word][target[i]] * math.exp(-_DIAGONAL_TENSION * abs((j + 0.5) / len(source) - where))
        for j, word in enumerate(source)
    ]
    total = sum(scores)
    return [score / total for score in scores]
