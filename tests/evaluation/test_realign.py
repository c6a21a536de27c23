"""Realignment: equal to OmniSTEval's on the golden cases, and what holds for any talk.

Every law runs over the real function, and is shown to reject a broken one.
"""

import json
from itertools import pairwise

import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.realign import realign

CASES = json.loads((GOLDEN / "realign.json").read_text("utf-8"))

words = st.sampled_from(
    ["le", "la", "un", "chat", "chats", ",", ".", "?", "(", "déjà", "ﬁn", "Été", "(ici)"]
)
sentences = st.lists(st.lists(words, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=5)
units = st.sampled_from(["word", "char"])


def units_of(sentence, unit):
    return sentence.split() if unit == "word" else list(sentence.replace(" ", ""))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_units_go_where_omnisteval_puts_them(case):
    spans = realign(case["references"], case["units"], case["unit"])
    assert [[span.start, span.stop] for span in spans] == case["spans"]


def test_the_golden_cases_hold_what_is_rare():
    """Units in no sentence, sentences without units, and both kinds of units."""
    assert {case["unit"] for case in CASES} == {"word", "char"}
    assert sum(case["spans"][0][0] > 0 for case in CASES) >= 5
    assert sum(any(begin == end for begin, end in case["spans"]) for case in CASES) >= 5


# Laws: each takes what realigns, and raises AssertionError if it is broken.


def references_come_back(how, references, unit):
    """A target equal to the references is divided as they are."""
    told = [units_of(each, unit) for each in references]
    target = [each for sentence in told for each in sentence]
    assert [target[s.start : s.stop] for s in how(references, target, unit)] == told


def every_unit_has_one_place(how, references, target, unit):
    """Spans follow each other without gaps up to the last unit."""
    spans = how(references, target, unit)
    assert len(spans) == len(references)
    assert all(before.stop == after.start for before, after in pairwise(spans))
    assert spans[-1].stop == len(target)


def case_is_ignored(how, references, target, unit):
    assert how(references, [each.upper() for each in target], unit) == how(references, target, unit)


def what_is_left_out_is_missing_there(how, unit):
    """Sentences with nothing in common: the one left out is empty, and no other loses anything."""
    alphabets = ["abc", "def", "ghi"]
    told = [[f"{a}{b}" for a in letters for b in letters] for letters in alphabets]
    references = [" ".join(each) for each in told]
    for missing in range(len(told)):
        kept = [[] if i == missing else units_of(r, unit) for i, r in enumerate(references)]
        target = [each for sentence in kept for each in sentence]
        spans = how(references, target, unit)
        assert [target[span.start : span.stop] for span in spans] == kept


@given(sentences, units)
def test_references_come_back(references, unit):
    references_come_back(realign, references, unit)


@given(sentences, st.lists(words, max_size=20), units)
def test_every_unit_has_one_place(references, target, unit):
    target = units_of(" ".join(target), unit)
    every_unit_has_one_place(realign, references, target, unit)


@given(sentences, st.lists(words, max_size=20))
def test_case_is_ignored(references, target):
    case_is_ignored(realign, references, target, "word")


@pytest.mark.parametrize("unit", ["word", "char"])
def test_what_is_left_out_is_missing_there(unit):
    what_is_left_out_is_missing_there(realign, unit)


# Negative controls.


def by_length(references, target, unit):
    """Cuts after as many units as each reference has: exact while nothing is lost or added."""
    spans, end = [], 0
    for number, sentence in enumerate(references, 1):
        begin = end
        end = min(len(target), begin + len(units_of(sentence, unit)))
        spans.append(range(begin, len(target) if number == len(references) else end))
    return spans


def one_late(references, target, unit):
    spans = realign(references, target, unit)
    return [range(min(s.start + 1, s.stop), s.stop) for s in spans]


def case_matters(references, target, unit):
    seen = [each for each in target if each == each.lower()]
    return by_length(references, seen, unit)


def test_the_laws_reject_what_is_broken():
    references = ["le chat dort .", "un chat", "la fin"]
    target = ["le", "chat", "dort", ".", "un", "chat", "la", "fin"]
    references_come_back(by_length, references, "word")
    with pytest.raises(AssertionError):
        references_come_back(one_late, references, "word")
    with pytest.raises(AssertionError):
        every_unit_has_one_place(one_late, references, target, "word")
    with pytest.raises(AssertionError):
        case_is_ignored(case_matters, references, target, "word")
    with pytest.raises(AssertionError):
        what_is_left_out_is_missing_there(by_length, "word")


# Single cases.


def test_a_unit_goes_where_its_first_token_goes():
    def split(word):
        return [word[:-1], word[-1]] if len(word) > 1 and word[-1] in ".," else [word]

    references = ["chat.", "chien dort"]
    assert realign(references, ["chat.", "chien", "dort"], "word", split) == [range(1), range(1, 3)]
    # Whole, "." is punctuation that nothing before it pairs with; cut, it finds the full stop.
    assert realign(references, [".", "chien"], "word") == [range(1, 1), range(1, 2)]
    assert realign(references, [".", "chien"], "word", split) == [range(1), range(1, 2)]


def test_nothing_written_is_nothing_for_each_sentence():
    assert realign(["le chat", "dort"], []) == [range(0), range(0)]
    assert realign([""], []) == [range(0)]


def test_a_target_without_references_is_refused():
    with pytest.raises(InvalidOptionError, match="3 units cannot be aligned with references"):
        realign(["", " "], ["a", "b", "c"])
