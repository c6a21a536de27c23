"""What is drawn for a sample changes how its source looks, and never what it means."""

import hashlib
import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batches import batches_of, corpus
from tiny_run import PAIRS

from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.augment import (
    Augmenter,
    Cutter,
    with_disfluencies,
    with_other_names,
    with_other_values,
    without_punctuation,
)
from mlx_simul.training.batches import Position
from mlx_simul.training.options import AugmentOptions

SOURCES = st.lists(st.text("abIé'-.,!?:5%$…", min_size=1, max_size=6), min_size=1, max_size=7).map(
    " ".join
)
SEEDS = st.integers(0, 2**31)
NAMES = (("Tom", "John", "Peter"), ("Mary", "Linda"))
LOOKS = AugmentOptions(
    lower_case_rate=0.3, unpunctuated_rate=0.2, caption_rate=0.3, disfluent_rate=0.5
)


# How a source looks


def targets_stay(augment, pairs, seed):
    """The law: whatever happens to the sources, the targets are those that they had."""
    history, changed = augment(pairs, random.Random(seed))
    return not history and [p.target for p in changed] == [p.target for p in pairs]


@settings(max_examples=60)
@given(sources=st.lists(SOURCES, min_size=1, max_size=3), seed=SEEDS)
def test_the_look_of_a_source_never_changes_its_target(sources, seed):
    pairs = [Pair(source, f"Il est {i}. Oui !") for i, source in enumerate(sources)]
    assert targets_stay(Augmenter(LOOKS, PAIRS), pairs, seed)


def test_the_law_rejects_one_that_treats_both_texts_alike():
    def lowers_both(pairs, draw):
        return [], [Pair(p.source.lower(), p.target.lower()) for p in pairs]

    assert not targets_stay(lowers_both, [Pair("It is.", "Il est.")], 0)


@settings(max_examples=30)
@given(sources=st.lists(SOURCES, min_size=1, max_size=3), seed=SEEDS)
def test_without_rates_nothing_happens(sources, seed):
    pairs = [Pair(source, "Oui.") for source in sources]
    assert Augmenter(AugmentOptions(), PAIRS)(pairs, random.Random(seed)) == ([], pairs)


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ({"lower_case_rate": 1.0}, "tom's 2:30 train, is it?"),
        ({"unpunctuated_rate": 1.0}, "Tom's 2:30 Train is it"),
        ({"caption_rate": 1.0}, "tom's 2:30 train is it"),
        ({}, "Tom's 2:30 Train, is it?"),
    ],
)
def test_spellings(options, heard):
    augment = Augmenter(AugmentOptions(**options), PAIRS)
    pair = Pair("Tom's 2:30 Train, is it?", "Le train de Tom.")
    assert augment([pair], random.Random(0))[1] == [Pair(heard, pair.target)]


def test_each_spelling_comes_as_often_as_it_was_asked_for():
    options = AugmentOptions(lower_case_rate=0.1, unpunctuated_rate=0.2, caption_rate=0.3)
    augment, draw = Augmenter(options, PAIRS), random.Random(0)
    seen = Counter(augment([Pair("A b.", "x")], draw)[1][0].source for _ in range(4000))
    shares = {text: round(n / 4000, 1) for text, n in seen.items()}
    assert shares == {"a b.": 0.1, "A b": 0.2, "a b": 0.3, "A b.": 0.4}


@settings(max_examples=100)
@given(text=SOURCES)
def test_punctuation_goes_and_words_stay(text):
    said = without_punctuation(text)
    assert without_punctuation(said) == said
    letters = [c for c in text if c.isalnum()]
    assert [c for c in said if c.isalnum()] == letters
    if letters:
        assert all(word[0] not in ".,!?:…" and word[-1] not in ".,!?:…" for word in said.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("«\u202fIl n'y a pas 5,5\u202f% !\u202f»", "Il n'y a pas 5,5 %"),
        ('"Well-known," he said – "isn\'t it?"', "Well-known he said isn't it"),
        ("¿Qué? ¡Sí!", "Qué Sí"),
        ("…", "…"),
    ],
)
def test_what_no_speaker_says(text, said):
    assert without_punctuation(text) == said


@settings(max_examples=100)
@given(words=st.lists(st.sampled_from(["I", "think", "so."]), min_size=1, max_size=6), seed=SEEDS)
def test_disfluencies_are_added_and_nothing_is_lost(words, seed):
    text = " ".join(words)
    heard = with_disfluencies(text, ("uh", "um"), random.Random(seed)).split()
    assert 1 <= len(heard) - len(words) <= 2
    rest = iter(heard)
    assert all(word in rest for word in words)
    assert set(heard) <= {*words, *map(without_punctuation, words), "uh", "um"}


def test_a_single_word_is_not_said_twice():
    heard = {with_disfluencies("Stop!", ("uh",), random.Random(i)) for i in range(50)}
    assert heard == {"uh Stop!", "uh uh Stop!"}
    assert with_disfluencies("Stop!", (), random.Random(0)) == "Stop!"


def test_without_fillers_words_are_repeated():
    heard = {with_disfluencies("I see.", (), random.Random(i)) for i in range(50)}
    assert {"I I see.", "I see see."} <= heard
    assert set(" ".join(heard).split()) == {"I", "see", "see."}


# What changes in both texts


@settings(max_examples=60)
@given(number=st.integers(2, 99999), hour=st.integers(2, 23), seed=SEEDS)
def test_numbers_and_times_change_together(number, hour, seed):
    pair = Pair(f"At {hour}:05, {number} men left.", f"À {hour} h 05, {number} hommes partirent.")
    changed = with_other_values(pair, random.Random(seed))
    time, n = changed.source.removeprefix("At ").removesuffix(" men left.").split(", ")
    assert len(n) == len(str(number)) and int(n) >= 2
    hours, minutes = time.split(":")
    assert changed.target == f"À {hours} h {minutes}, {n} hommes partirent."
    assert 2 <= int(hours) <= 23 and 10 <= int(minutes) <= 59


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("I have 1 cat.", "J'ai 1 chat."),
        ("The 16th man.", "Le 16e homme."),
        ("It costs 10,000 yen.", "Ça coûte 10.000 yens."),
        ("I have 3 cats.", "J'ai trois chats."),
        ("It is 2.5 or 2.7.", "C'est 2,5 ou 2,7."),
        ("5 and 5 is 10.", "Dix est 5 et 5."),
        ("A 9-year-old.", "Un enfant de 9 ans."),
        ("COVID19 and x2.", "COVID19 et x2."),
        ("At 6 p.m.", "À 18h."),
    ],
)
def test_values_that_are_not_the_same_in_both_stay(source, target):
    for seed in range(20):
        assert with_other_values(Pair(source, target), random.Random(seed)) == Pair(source, target)


def test_names_change_together():
    group_of = {name: group for group in NAMES for name in group}
    pair = Pair("Tom's friend Mary saw Tom.", "L'amie de Tom, Mary, a vu Tom.")
    seen = {with_other_names(pair, group_of, random.Random(i)) for i in range(60)}
    assert seen == {
        Pair(f"{a}'s friend Linda saw {a}.", f"L'amie de {a}, Linda, a vu {a}.")
        for a in ("John", "Peter")
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("Tom left.", "Il partit."),
        ("Tom, Tom!", "Tom !"),
        ("Ann left.", "Ann partit."),
        ("Tommy left.", "Tommy partit."),
        ("Tom, John and Peter.", "Tom, John et Peter."),
    ],
)
def test_names_that_cannot_be_replaced_stay(source, target):
    group_of = {name: group for group in NAMES for name in group}
    pair = Pair(source, target)
    assert with_other_names(pair, group_of, random.Random(0)) == pair


# Cuts

ENGLISH = ["red", "house", "tree", "big", "cat", "dog", "sees", "eats", "now", "here"]
WORDS = {word: word.upper() + "E" for word in ENGLISH}
SENTENCES = [" ".join(random.Random(i).sample(sorted(WORDS), 6)) for i in range(60)]
FORWARDS = [Pair(s + ".", " ".join(WORDS[w] for w in s.split()) + " .") for s in SENTENCES]
BACKWARDS = [Pair(p.source, " ".join(p.target.split()[-2::-1]) + " .") for p in FORWARDS]


def are_translations(first, second):
    """The law: each half's target is what its own source means."""
    return all(
        [WORDS[word] for word in half.source.rstrip(".").split()]
        == half.target.rstrip(" .").split()
        for half in (first, second)
    )


def test_halves_translate_each_other_and_make_the_whole():
    cutter = Cutter(FORWARDS)
    n_cuts = 0
    for pair in FORWARDS:
        for first, second in cutter.halves(pair):
            n_cuts += 1
            assert are_translations(first, second)
            assert f"{first.source} {second.source}" == pair.source
            assert f"{first.target} {second.target}" == pair.target
    assert n_cuts > len(FORWARDS)


def test_where_the_order_is_another_there_is_no_honest_cut():
    cutter = Cutter(BACKWARDS)
    assert not any(cutter.halves(pair) for pair in BACKWARDS)
    # The negative control: cut by count alone, they are not translations.
    halves = [(p.source.split(), p.target.split()) for p in BACKWARDS]
    first, second = (
        [Pair(" ".join(s[part]), " ".join(t[part])) for s, t in halves]
        for part in (slice(3), slice(3, None))
    )
    assert not any(map(are_translations, first, second))


def test_a_cut_turn_ends_early_or_begins_behind_its_first_half():
    cutter, draw = Cutter(FORWARDS), random.Random(0)
    whole, before = FORWARDS[0], FORWARDS[1]
    ends = Counter()
    for _ in range(60):
        history, pairs = [before], [whole]
        cutter.cut(history, pairs, draw)
        (cut,) = pairs
        if whole.source.startswith(cut.source):
            ends["early"] += 1
            assert history == [before] and whole.target.startswith(cut.target)
        else:
            ends["late"] += 1
            assert f"{history[-1].source} {cut.source}" == whole.source
            assert f"{history[-1].target} {cut.target}" == whole.target
    assert min(ends["early"], ends["late"]) > 15


def test_what_cannot_be_cut_stays_whole():
    cutter, draw = Cutter(FORWARDS), random.Random(0)
    for pair in (Pair("red.", "REDE ."), Pair("red " * 80 + ".", "REDE " * 80 + ".")):
        pairs = [pair]
        cutter.cut([], pairs, draw)
        assert pairs == [pair]


# Batches


def digest(batches):
    samples = [
        [(s.example.source, s.example.target, s.wait_k, s.target_start) for s in group]
        for epoch in (0, 1)
        for group in batches.epoch(epoch)
    ]
    return hashlib.sha256(repr(samples).encode()).hexdigest()


def test_without_augmentation_batches_are_those_of_before_there_was_any():
    """Recorded with the code that had none."""
    pairs = corpus([1, 5, 2, 8, 3, 3, 7, 1, 9, 4] * 4)
    before = "e22f80e895b09593c1ccd76d5e8ae2eb33cc2b135eafa4f3954fab67f0f3e23c"
    assert digest(batches_of(pairs, seed=3)) == before
    assert digest(batches_of(pairs, seed=4)) != before
    cut = AugmentOptions(history_rate=0.5)
    assert digest(batches_of(pairs, seed=3, augment=cut)) != before


# The corpus of these tests has numbers for words.
NUMBERS = AugmentOptions(disfluent_rate=0.5, fillers=("999", "888"), cut_rate=0.5, history_rate=0.5)


@pytest.mark.parametrize("n_done", [0, 1, 7])
def test_resuming_gives_the_samples_that_would_have_come(n_done):
    def batches():
        return batches_of(corpus([6, 3, 9, 5] * 9), augment=NUMBERS)

    whole = list(islice(batches().resume(Position()), n_done + 12))
    position = whole[n_done - 1][0] if n_done else Position()
    again = list(islice(batches().resume(position), 12))
    assert whole[n_done:] == again
    # The negative control: another position gives others.
    others = list(islice(batches().resume(Position(0, n_done + 1)), 12))
    assert [samples for _, samples in whole[:12]] != [samples for _, samples in others]


def test_augmentation_moves_neither_the_order_nor_what_samples_draw():
    def drawn(augment):
        batches = batches_of(corpus([4] * 20), pool_pairs=1, augment=augment)
        return [(s.example.target, s.wait_k, s.target_start) for g in batches.epoch(0) for s in g]

    looks = AugmentOptions(disfluent_rate=0.5, fillers=("999",), history_rate=0.5)
    assert drawn(looks) == drawn(AugmentOptions())


def test_earlier_turns_are_as_many_as_they_may_be_and_heard_alike():
    options = AugmentOptions(history_rate=0.5, history_pairs=2, caption_rate=0.5)
    augment, draw = Augmenter(options, PAIRS), random.Random(0)
    sizes = Counter()
    for _ in range(300):
        history, pairs = augment([PAIRS[0]], draw)
        sizes[len(history)] += 1
        assert all(pair.target in {p.target for p in PAIRS} for pair in history)
        assert len({pair.source.endswith(".") for pair in (*history, *pairs)}) == 1
    assert sizes.keys() == {0, 1, 2} and sizes[0] > 100 and min(sizes[1], sizes[2]) > 40
