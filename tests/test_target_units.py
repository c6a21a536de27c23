"""Target text in units: the same whatever pieces it came in, as SimulEval would cut it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.evaluation.units import Units, reference_length, target_units

texts = st.text(st.sampled_from("ab.é猫 \n\u00a0"), max_size=20)


@st.composite
def in_pieces(draw):
    """A text in pieces, with a delay and a time that never fall."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    bounds = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in pairwise(bounds)]
    delays = sorted(draw(st.lists(st.integers(1, 9), min_size=len(parts), max_size=len(parts))))
    return text, [(part, delay, 10.0 * delay) for part, delay in zip(parts, delays, strict=True)]


def delay_of_char(pieces, at):
    for part, delay, _ in pieces:
        if at < len(part):
            return delay
        at -= len(part)
    raise AssertionError("no such character")


@given(in_pieces())
def test_words_are_what_stands_between_white_space(given_text):
    text, pieces = given_text
    units = target_units(pieces, "word")
    assert list(units.texts) == text.split()
    assert len(units.delays) == len(units.times_ms) == len(units.texts)


@given(in_pieces())
def test_characters_are_all_but_white_space(given_text):
    text, pieces = given_text
    units = target_units(pieces, "char")
    assert "".join(units.texts) == "".join(text.split())
    assert all(len(each) == 1 for each in units.texts)


@given(in_pieces())
def test_a_unit_is_as_late_as_its_last_character(given_text):
    text, pieces = given_text
    units = target_units(pieces, "word")
    at = 0
    for word, delay, time_ms in zip(units.texts, units.delays, units.times_ms, strict=True):
        at = text.index(word, at) + len(word)
        assert delay == delay_of_char(pieces, at - 1)
        assert time_ms == 10.0 * delay


def test_a_number_is_one_word_though_the_loop_writes_two():
    pieces = [("Il", 1, 1.0), (" a", 2, 2.0), (" 1.", 3, 3.0), ("5", 4, 4.0), (" kg.", 5, 5.0)]
    assert target_units(pieces, "word") == Units(
        ("Il", "a", "1.5", "kg."), (1, 2, 4, 5), (1.0, 2.0, 4.0, 5.0)
    )


def test_nothing_written_has_no_units():
    assert target_units([], "word") == target_units([(" ", 1, 1.0)], "char") == Units((), (), ())


def test_references_are_counted_as_simuleval_counts_them():
    # Only spaces divide a reference, although any white space divides what was written.
    assert reference_length("un\u00a0travail\u00a0?", "word") == 1
    assert reference_length("un travail ?", "word") == 3
    assert reference_length(" 猫が いる。", "char") == 6
