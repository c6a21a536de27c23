"""The helper that makes more training pairs: first words, and a model's own translations."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT, tool_module

from mlx_simul.errors import DataError
from mlx_simul.evaluation.pairs import Pair, read_pairs

SENTENCES = [
    Pair("We went home early.", "Nous sommes rentrés tôt."),
    Pair("I am not tired.", "Je ne suis pas fatigué."),
    Pair("He is at home.", "Il est à la maison."),
    Pair("Where is the station?", "Où est la gare ?"),
    Pair("Does he know?", "Le sait-il ?"),
    Pair("Paris is large.", "Paris est grand."),
]
UNSUITED = SENTENCES[4:]
"""Nothing says whether their first words begin with a capital elsewhere."""


@pytest.fixture(scope="module")
def tool():
    return tool_module("more_pairs")


def behind(text, endings):
    """Which sentence a text ends with, but for the capital it began with."""
    return {ending for ending in endings if text.lower().endswith(ending.lower())}


@given(seed=st.integers(0, 2**32))
def test_a_pair_with_first_words_is_a_pair_behind_words_that_are_known(tool, seed):
    made = list(tool.with_first_words(SENTENCES, 30, seed))
    assert made
    for pair in made:
        (kept,) = [each for each in SENTENCES if behind(pair.source, [each.source])]
        assert behind(pair.target, [kept.target])
        assert kept not in UNSUITED
        first = pair.source[: -len(kept.source)].strip()
        target_first = pair.target[: -len(kept.target)].strip()
        known = tool.FIRST_WORDS[first]
        assert {target_first, target_first.rstrip(","), target_first.rstrip("'") + "e"} & {*known}
        assert ("'" in target_first[-1]) == (" que" in known[0] and kept.target.startswith("Il"))
        assert not kept.source.endswith("?") or first in tool.BEFORE_QUESTIONS


def test_sentences_whose_first_words_are_not_known_stay_as_they_are(tool):
    assert list(tool.with_first_words(UNSUITED, 30)) == []


def test_a_slot_holds_the_same_in_both_languages(tool):
    phrases = list(read_pairs(tool.PHRASES))
    filled = list(tool.with_slots(phrases, 40))
    assert len(filled) == 40 * len(phrases)
    for i, pair in enumerate(filled):
        phrase = phrases[i // 40]
        slots = [slot for slot in tool.SLOTS if slot in phrase.source]
        assert [slot for slot in tool.SLOTS if slot in phrase.target] == slots
        assert len(slots) <= 1
        if not slots:
            assert pair == phrase
            continue
        (slot,) = slots
        source, target = [
            re.fullmatch(re.escape(before).replace(slot, "(.+)"), after)[1]
            for before, after in ((phrase.source, pair.source), (phrase.target, pair.target))
        ]
        assert (source, target) in tool.SLOTS[slot]
    # Negative control: what is drawn differs from one copy to the next.
    assert len({pair for pair in filled if "half past" in pair.source}) > 20


def test_translations_are_kept_that_are_near_a_reference_and_not_equal_to_it(tool):
    source = "I am very tired."
    references = {source: ["Je suis très fatigué.", "Je suis crevé."]}
    said = ["Je suis très fatiguée.", "Je suis très fatigué.", "Il pleut.", ""]
    kept = tool.near_references((Pair(source, each) for each in said), references)
    assert [pair.target for pair in kept] == said[:1]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_translating_goes_on_with_what_is_there(tool, tmp_path, num_beams):
    model = str(ROOT / "mlx_simul" / "models" / "en-fr")
    sources = ["Thank you.", "I am tired.", "Where is the station?", "He went home.", "It rains."]
    once, again = tmp_path / "once.tsv", tmp_path / "again.tsv"
    tool.translate_all(model, sources, once, num_beams=num_beams, n_shared=2)
    lines = once.read_text("utf-8").splitlines(keepends=True)
    assert [line.split("\t")[0] for line in lines] == sources
    assert all(line.split("\t")[1].strip() for line in lines)
    # What is there is taken as it is, though the model would not say it.
    again.write_text("Thank you.\tBonjour.\n" + "".join(lines[1:3]) + lines[3][:8], "utf-8")
    tool.translate_all(model, sources, again, num_beams=num_beams, n_shared=2)
    assert again.read_text("utf-8").splitlines()[0] == "Thank you.\tBonjour."
    assert again.read_text("utf-8").splitlines(keepends=True)[1:] == lines[1:]
    with pytest.raises(DataError, match="other sources"):
        tool.translate_all(model, sources[::-1], again)
