"""Pairs the way live sources bring them: captions, speech, cut sentences, turns after other turns.

What is drawn for a sample changes how its source looks, never its target. There are two exceptions,
and in both the target stays the translation of the source: a number, a time or a name is replaced
in both texts, and a cut leaves of both texts the halves that translate each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import regex

from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.options import AugmentOptions
from mlx_simul.training.word_alignment import WordAligner

_MARK = r"(?V1)[\p{P}--[%&@#§]]"
# A mark between two characters of a word belongs to it: "don't", "2:30".
_UNSPOKEN = regex.compile(rf"(?<!\w){_MARK}|{_MARK}(?!\w)")
_VALUE = regex.compile(
    r"(?<![\w.,:'’-])(?:(?P<hour>\d{1,2})(?P<sign> ?[:hH] ?)(?P<minute>[0-5]\d)|(?P<number>\d+))"
    r"(?![\w:'’-]|[.,]\d)"
)
_WORD = regex.compile(r"\w+")

_N_ALIGNED_PAIRS = 20_000
_MAX_CUT_WORDS = 60
_MIN_HALF_WORDS = 2
# The part of each target word's link that must lie on its own side of a cut.
_SURE = 0.9

_Value: TypeAlias = tuple[str, ...]


class Augmenter:
    """Draws for each sample what happens to it.

    Args:
        options: what may happen, and how often.
        pairs: the corpus: earlier turns come from it, and so do the word links for cuts.
        seed: of the choice of pairs that the word links are learned from.
    """

    def __init__(self, options: AugmentOptions, pairs: Sequence[Pair], seed: int = 0) -> None:
        self._options = options
        self._corpus = pairs
        self._group_of = {name: group for group in options.names for name in group}
        self._cutter = Cutter(pairs, seed) if options.cut_rate else None

    def __call__(
        self, pairs: Sequence[Pair], draw: random.Random
    ) -> tuple[Sequence[Pair], Sequence[Pair]]:
        """Change a sample.

        Args:
            pairs: its pairs, which follow each other in one turn.
            draw: decides everything.

        Returns:
            Pairs that came before, each as a turn of its own, and the sample's pairs.
        """
        options, changed = self._options, list(pairs)
        history: list[Pair] = []
        if draw.random() < options.history_rate:
            n_turns = draw.randint(1, options.history_pairs)
            history = [draw.choice(self._corpus) for _ in range(n_turns)]
        if self._cutter and draw.random() < options.cut_rate:
            self._cutter.cut(history, changed, draw)
        turns = [*history, *changed]
        if draw.random() < options.values_rate:
            turns = [with_other_values(pair, draw) for pair in turns]
        if draw.random() < options.names_rate:
            turns = [with_other_names(pair, self._group_of, draw) for pair in turns]
        turns = self._as_heard(turns, draw)
        return turns[: len(history)], turns[len(history) :]

    def _as_heard(self, turns: Sequence[Pair], draw: random.Random) -> list[Pair]:
        """The same spelling for all turns, for they come from the same recogniser."""
        options = self._options
        sources = [pair.source for pair in turns]
        if draw.random() < options.disfluent_rate:
            sources = [with_disfluencies(text, options.fillers, draw) for text in sources]
        spelled = self._spelling(draw)
        return [Pair(spelled(text), pair.target) for text, pair in zip(sources, turns, strict=True)]

    def _spelling(self, draw: random.Random) -> Callable[[str], str]:
        options, left = self._options, draw.random()
        for spelled, rate in (
            (caption, options.caption_rate),
            (without_punctuation, options.unpunctuated_rate),
            (str.lower, options.lower_case_rate),
        ):
            if left < rate:
                return spelled
            left -= rate
        return str


def caption(text: str) -> str:
    """A text without punctuation and without capitals."""
    return without_punctuation(text).lower()


def without_punctuation(text: str) -> str:
    """Leave out the marks that no speaker says; a text of nothing else stays as it is."""
    return " ".join(_UNSPOKEN.sub(" ", text).split()) or text


def with_disfluencies(text: str, fillers: Sequence[str], draw: random.Random) -> str:
    """Put one or two fillers or repeated words into a text.

    Args:
        text: words with spaces between them; a single word is not repeated.
        fillers: to choose from; without any, words are repeated only.
        draw: decides what, and where.
    """
    words = text.split()
    has_one = len(words) == 1
    for _ in range(draw.randint(1, 2)):
        where = draw.randrange(len(words))
        if not has_one and (not fillers or draw.random() < 0.5):
            words.insert(where, without_punctuation(words[where]))
        elif fillers:
            words.insert(where, draw.choice(fillers))
    return " ".join(words)


def with_other_values(pair: Pair, draw: random.Random) -> Pair:
    """Replace numbers and times of day by others, the same in both texts.

    Only those that each text holds once, in digits, are replaced. A number keeps how many digits it
    has, and those below two stay, since words around them may be in the singular.
    """
    sources, targets = ([_value(m) for m in _VALUE.finditer(t)] for t in (pair.source, pair.target))
    changes = {
        value: _other_value(value, draw)
        for value in sources
        if int(value[0]) >= 2 and sources.count(value) == targets.count(value) == 1
    }

    def replaced(match: regex.Match[str]) -> str:
        new = changes.get(_value(match))
        return match[0] if new is None else (match["sign"] or "").join(new)

    return Pair(_VALUE.sub(replaced, pair.source), _VALUE.sub(replaced, pair.target))


def _value(match: regex.Match[str]) -> _Value:
    return (match["number"],) if match["number"] else (match["hour"], match["minute"])


def _other_value(value: _Value, draw: random.Random) -> _Value:
    if len(value) == 2:
        latest = 12 if int(value[0]) <= 12 else 23
        return str(draw.randint(latest - 10, latest)), str(draw.randint(10, 59))
    n_digits = len(value[0])
    return (str(draw.randint(max(2, 10 ** (n_digits - 1)), 10**n_digits - 1)),)


def with_other_names(
    pair: Pair, group_of: Mapping[str, Sequence[str]], draw: random.Random
) -> Pair:
    """Replace names by others of their group, the same in both texts.

    Only a name that both texts hold equally often is replaced, by one that neither holds.

    Args:
        pair: texts.
        group_of: the names that may stand for each name.
        draw: decides which does.
    """
    sources, targets = _WORD.findall(pair.source), _WORD.findall(pair.target)
    taken = {*sources, *targets}
    changes: dict[str, str] = {}
    for name in dict.fromkeys(sources):
        free = [other for other in group_of.get(name, ()) if other not in taken]
        if free and sources.count(name) == targets.count(name):
            changes[name] = draw.choice(free)
            taken.add(changes[name])
    if not changes:
        return pair

    def replaced(match: regex.Match[str]) -> str:
        return changes.get(match[0], match[0])

    return Pair(_WORD.sub(replaced, pair.source), _WORD.sub(replaced, pair.target))


class Cutter:
    """Cuts a pair in mid-sentence where both halves are pairs themselves.

    Args:
        pairs: word links are learned from a part of them.
        seed: of which part.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int = 0) -> None:
        draw = random.Random(f"{seed}/links")
        some = draw.sample(pairs, min(len(pairs), _N_ALIGNED_PAIRS))
        self._aligner = WordAligner([(_keys(p.source), _keys(p.target)) for p in some])

    def cut(self, history: list[Pair], pairs: list[Pair], draw: random.Random) -> None:
        """End a turn in mid-sentence, or begin it there after its first half; in place.

        Args:
            history: earlier turns; the last of them becomes the first half.
            pairs: of the turn; left alone where no honest cut is found.
            draw: decides which and where.
        """
        ends_early = draw.random() < 0.5
        at = -1 if ends_early else 0
        cuts = self.halves(pairs[at])
        if not cuts:
            return
        first, second = draw.choice(cuts)
        pairs[at] = first if ends_early else second
        if history and not ends_early:
            history[-1] = first

    def halves(self, pair: Pair) -> list[tuple[Pair, Pair]]:
        """All ways to cut a pair so that each half of the target translates its half of the source.

        Every target word must be linked to its own side; a source word that is translated on the
        other side takes a target word's link there, so that the cut is not one of them.
        """
        source, target = pair.source.split(), pair.target.split()
        if max(len(source), len(target)) > _MAX_CUT_WORDS:
            return []
        links = self._aligner.links(_keys(pair.source), _keys(pair.target))
        found = []
        for a in range(_MIN_HALF_WORDS, len(source) - _MIN_HALF_WORDS + 1):
            before = [sum(row[:a]) for row in links]
            # Where a cut is honest, all words up to it lean to the first half and no other does.
            b = sum(share > 0.5 for share in before)
            sides = [*before[:b], *(1 - share for share in before[b:])]
            # A mark that stands alone belongs to the word before it.
            if 0 < b < len(target) and min(sides) >= _SURE and _WORD.search(target[b]):
                found.append(
                    (
                        Pair(" ".join(source[:a]), " ".join(target[:b])),
                        Pair(" ".join(source[a:]), " ".join(target[b:])),
                    )
                )
        return found


def _keys(text: str) -> list[str]:
    """Words as they are linked, whatever their capitals and the marks beside them."""
    return [without_punctuation(word).lower() for word in text.split()]
