"""Which target units of a talk translate which of its reference sentences.

A session writes a talk in one piece, while quality and latency are scores of sentences. Target and
references are aligned as wholes, and each target unit goes to the sentence of the reference token
that it lies beside. The rules are those of SoftSegmenter (Polák et al. 2025, arXiv 2509.17349) as
OmniSTEval 0.1.10 follows them, ties and unpaired tokens included, so that the field's figures are
these figures; ``docs/talks.md`` has them in full.

Shape legend: R tokens of the references, T tokens of the target, V distinct ones among the T, C
distinct characters in those.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf, isqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.units import Unit

Tokenize: TypeAlias = Callable[[str], Sequence[str]]
"""Cuts a unit, in lower case, into the tokens that are compared."""

_PUNCTUATION = frozenset(".!?,;:-()。！？，；：—（）ー")
_PAIR, _SKIP_REFERENCE, _SKIP_TARGET = range(3)


def realign(
    references: Sequence[str],
    units: Sequence[str],
    unit: Unit = "word",
    tokenize: Tokenize | None = None,
) -> list[range]:
    """Give each unit of a target to a reference sentence.

    Tokens are compared in lower case and in Unicode's form NFKC: words by the share of their
    characters that both have (Jaccard), characters by being equal. Punctuation pairs with nothing
    else. Time is proportional to R T, memory to √R T: a talk of an hour takes seconds.

    Args:
        references: a sentence each, in the order of the talk.
        units: the target, as :func:`mlx_simul.evaluation.units.target_units` cuts it.
        unit: what the units are; references are cut likewise.
        tokenize: cuts units further, so that a comma is compared by itself. A unit goes where its
            first token goes. ``None`` compares whole units, as OmniSTEval does without ``--lang``.

    Returns:
        For each sentence the indices of its units. The ranges follow each other without gaps; the
        first may begin after 0, since punctuation before everything that resembles the references
        belongs to none of them.

    Raises:
        InvalidOptionError: if there are units, and nothing in any reference.
    """
    in_sentences = [_units_of(each, unit) for each in references]
    sentence_of = [i for i, sentence in enumerate(in_sentences) for _ in sentence]
    reference, unit_of = _tokens((each for s in in_sentences for each in s), tokenize)
    target, target_unit_of = _tokens(units, tokenize)
    if target and not reference:
        raise InvalidOptionError(
            f"a target of {len(units)} units cannot be aligned with references that are empty; "
            "leave the talk out, or give its references."
        )
    sentences: dict[int, int | None] = {}
    for j, i in enumerate(_beside(reference, _Target(target, unit))):
        # Only the first token of a unit counts.
        sentences.setdefault(target_unit_of[j], None if i is None else sentence_of[unit_of[i]])
    return _ranges(list(sentences.values()), len(references))


def _units_of(sentence: str, unit: Unit) -> list[str]:
    text = sentence.strip().lower()
    return text.split() if unit == "word" else list(text.replace(" ", ""))


def _tokens(units: Iterable[str], tokenize: Tokenize | None) -> tuple[list[str], list[int]]:
    """The tokens of some units, and for each the index of its unit."""
    tokens: list[str] = []
    unit_of: list[int] = []
    for number, unit in enumerate(units):
        text = unicodedata.normalize("NFKC", unit).lower()
        parts = (tokenize(text) if tokenize is not None else ()) or [text]
        tokens += parts
        unit_of += [number] * len(parts)
    return tokens, unit_of


def _ranges(sentences: Sequence[int | None], n_sentences: int) -> list[range]:
    """Where each sentence's units lie, given each unit's sentence.

    Sentences never decrease, and only units at the beginning are without one.
    """
    end = sum(sentence is None for sentence in sentences)
    ranges: list[range] = []
    for number in range(n_sentences):
        begin = end
        while end < len(sentences) and sentences[end] == number:
            end += 1
        ranges.append(range(begin, end))
    return ranges


class _Target:
    """The tokens of a target, and how similar each is to a reference token."""

    def __init__(self, tokens: Sequence[str], unit: Unit) -> None:
        self.tokens = tokens
        self._unit = unit
        distinct = list(dict.fromkeys(tokens))
        ids = {token: number for number, token in enumerate(distinct)}
        self._ids = np.array([ids[token] for token in tokens], np.int64)  # (T,)
        self._id_of = ids
        self._is_punctuation = np.array([t in _PUNCTUATION for t in distinct], np.bool_)  # (V,)
        characters = sorted(set("".join(distinct)))
        self._row_of = {character: number for number, character in enumerate(characters)}
        self._holds = np.zeros((len(characters), len(distinct)))  # (C, V)
        for number, token in enumerate(distinct):
            self._holds[[self._row_of[character] for character in set(token)], number] = 1
        self._n_characters = self._holds.sum(axis=0)  # (V,)

    def similarity(self, reference: str) -> NDArray[np.float64]:
        """The similarity of a reference token to each token of the target, (T,); -inf where they
        must not pair."""
        if self._unit == "char":
            scores = np.zeros(len(self._id_of))
            if reference in self._id_of:
                scores[self._id_of[reference]] = 1
        else:
            characters = set(reference)
            rows = [self._row_of[each] for each in characters if each in self._row_of]
            common = self._holds[rows].sum(axis=0)
            scores = common / np.maximum(1, self._n_characters + len(characters) - common)
        scores[self._is_punctuation != (reference in _PUNCTUATION)] = -inf
        return scores[self._ids]


def _beside(reference: Sequence[str], target: _Target) -> Iterator[int | None]:
    """For each token of a target, the reference token that it lies beside, if there is one.

    A token with a pair lies beside that. Of a run of tokens without pairs, between two reference
    tokens, the first that resembles the later one more lies beside that, and so do all after it;
    those before lie beside the earlier one.
    """
    gone_over_to: int | None = None
    for j, (i, is_pair) in enumerate(_best_path(reference, target)):
        if is_pair or gone_over_to == i:
            yield i
            continue
        earlier = _similarity_at(reference, i - 1, target, j)
        if _similarity_at(reference, i, target, j) > earlier:
            gone_over_to = i
            yield i
        else:
            yield i - 1 if i else None


def _similarity_at(reference: Sequence[str], i: int, target: _Target, j: int) -> float:
    """The similarity of two tokens; -inf where there is no such reference token."""
    return float(target.similarity(reference[i])[j]) if 0 <= i < len(reference) else -inf


def _best_path(reference: Sequence[str], target: _Target) -> list[tuple[int, bool]]:
    """Align by dynamic programming for the largest sum of similarities; gaps cost nothing.

    Returns:
        For each token of the target: how many reference tokens come before it, and whether the
        next one is its pair.
    """
    # Every √R-th row of sums is kept, and the rows between are computed again on the way back.
    step = isqrt(len(reference)) + 1
    sums = np.zeros(len(target.tokens) + 1)  # row i: of the first i reference tokens
    kept = [sums]
    for i, token in enumerate(reference, 1):
        sums = _next_sums(sums, target.similarity(token))
        if i % step == 0:
            kept.append(sums)
    path: list[tuple[int, bool]] = []
    i, j = len(reference), len(target.tokens)
    while i and j:
        begin = (i - 1) // step * step
        moves = _moves(kept[begin // step], reference[begin:i], target)
        while i > begin and j:
            move = moves[i - begin - 1][j - 1]
            i -= move != _SKIP_TARGET
            j -= move != _SKIP_REFERENCE
            if move != _SKIP_REFERENCE:
                path.append((i, bool(move == _PAIR)))
    path += [(i, False)] * j
    return path[::-1]


def _next_sums(above: NDArray[Any], similarity: NDArray[Any]) -> NDArray[Any]:
    """The best sums with one reference token more, (T + 1,)."""
    sums = np.zeros_like(above)
    # Skipping a target token carries a sum to the right: a running maximum.
    np.maximum.accumulate(np.maximum(above[:-1] + similarity, above[1:]), out=sums[1:])
    return sums


def _moves(sums: NDArray[Any], reference: Sequence[str], target: _Target) -> list[NDArray[np.int8]]:
    """The last move of each best alignment, a row for each reference token, (T,).

    Of equal sums a pair is preferred, then skipping the reference token.
    """
    rows: list[NDArray[np.int8]] = []
    for token in reference:
        above, similarity = sums, target.similarity(token)
        sums = _next_sums(above, similarity)
        pair, skip_reference, skip_target = above[:-1] + similarity, above[1:], sums[:-1]
        row = np.full(len(similarity), _SKIP_TARGET, np.int8)
        row[skip_reference >= skip_target] = _SKIP_REFERENCE
        row[(pair >= skip_reference) & (pair >= skip_target)] = _PAIR
        rows.append(row)
    return rows
