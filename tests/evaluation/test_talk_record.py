"""The record of a talk: its line, what was on display, and what of that changed later."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import DataError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.latency import normalised_erasure
from mlx_simul.evaluation.talk_record import Display, Shown, TalkRecord
from mlx_simul.evaluation.talks import talk_at_pace
from mlx_simul.events import Finished, Read, TurnEnd, Write

TALK = talk_at_pace([Item("a b c", ("x y", "z")), Item("d e", ("v w",))], 100)
FED_MS = (0.0, 5.0, 10.0, 15.0, 20.0)


def record(*shown):
    return TalkRecord(3, TALK, tuple(shown), FED_MS)


@st.composite
def displays(draw):
    """Any changes of a display, and what it showed after each."""
    shown, outputs, display, words, time_ms = [], [], "", 0, 0.0
    for _ in range(draw(st.integers(0, 12))):
        words = draw(st.integers(words, len(FED_MS)))
        time_ms += draw(st.integers(0, 9))
        n_erased = draw(st.integers(0, len(display))) if draw(st.booleans()) else 0
        text = draw(st.text("ab ", max_size=4))
        shown.append(Shown(text, words, time_ms, n_erased))
        display = display[: len(display) - n_erased] + text
        outputs.append(display)
    return record(*shown), outputs


@given(displays())
def test_a_record_is_its_line(made):
    held, _ = made
    line = held.to_json()
    assert "\n" not in line
    assert TalkRecord.from_json(line) == held


@given(displays())
def test_what_is_shown_at_the_end_is_the_target(made):
    held, outputs = made
    for unit, cut in (("word", str.split), ("char", lambda text: list(text.replace(" ", "")))):
        assert list(held.units(unit).texts) == cut(outputs[-1] if outputs else "")


@given(displays())
def test_erasure_is_what_the_outputs_differ_by(made):
    """Counted in characters it is the field's normalised erasure of the outputs."""
    held, outputs = made
    without = [text.replace(" ", "") for text in outputs]
    if without and without[-1]:
        share = normalised_erasure([list(text) for text in without])
        # Of text without spaces: a space that is taken back is not a unit.
        if not any(" " in text for text in outputs):
            assert held.n_erased("char") == pytest.approx(share * len(without[-1]))
    if all(after.startswith(before) for before, after in pairwise(outputs)):
        assert held.n_erased("word") == held.n_erased("char") == 0


def test_words_that_change_are_counted():
    steps = [Shown("le chat", 1, 1), Shown(" dort", 2, 6)]
    assert record(*steps).n_erased("word") == 0
    # "chat" grows and is not erased; "dort ici" is two words, of which one is cut.
    assert record(Shown("le ch", 1, 1), Shown("at", 2, 6)).n_erased("word") == 0
    steps += [Shown(" ici", 3, 11), Shown("me là", 4, 16, len("t ici"))]
    assert record(*steps).n_erased("word") == 2
    assert record(*steps).units("word").texts == ("le", "chat", "dorme", "là")
    assert record(*steps).units("word").delays == (1, 1, 4, 4)


def test_what_is_shown_again_at_once_has_not_changed():
    steps = record(Shown("le chat", 1, 1), Shown("chat dort", 2, 6, 4))
    assert steps.n_erased("word") == 0
    assert steps.units("word").delays == (1, 1, 2)
    assert steps.units("word").times_ms == (1, 1, 6)


def test_times_are_those_of_the_talk_heard_live():
    held = record(Shown("x ", 1, 2), Shown("y ", 2, 9), Shown("z", 5, 31))
    units = held.units("word")
    assert held.delays_ms(units.delays) == [100, 200, 500]
    assert held.delays_ms([0]) == [0]
    # 2, 4 and 11 ms after word 1, 2 and 5, each of which is fed when it has been said.
    assert held.elapsed_ms(units.times_ms) == [102, 204, 511]
    slow = replace(held, fed_ms=(0.0, 150.0, 300.0, 450.0, 600.0), shown=(Shown("x", 5, 610),))
    assert slow.elapsed_ms([610]) == [710]


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ([Shown("a", 2, 1), Shown("b", 1, 2)], "decrease"),
        ([Shown("a", 1, 2), Shown("b", 1, 1)], "decrease"),
        ([Shown("a", 1, -1)], "decrease"),
        ([Shown("a", 6, 1)], "has 5 words, and 6 are said to have been read"),
        ([Shown("ab", 1, 1), Shown("", 1, 1, 3)], "3 characters taken back of 2 shown"),
        ([Shown("a", 1, 1, -1)], "-1 characters taken back"),
    ],
)
def test_what_cannot_have_been_is_refused(shown, says):
    with pytest.raises(DataError, match=says):
        record(*shown)


def test_words_that_are_not_the_talks_are_refused():
    with pytest.raises(DataError, match="has 5 words, and 4 were fed"):
        TalkRecord(0, TALK, (), FED_MS[1:])


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        '{"index": 0, "sentences": [], "shown": [], "fed_ms": []}',
        {"index": "x"},
        {"sentences": 5},
        {"sentences": [{"source": "a"}]},
        {"shown": [["a", 1, 2]]},
        {"shown": [[1, 1, 2, 0]]},
        {"fed_ms": None},
        {"fed_ms": ["x"] * 5},
    ],
    ids=str,
)
def test_a_line_that_is_not_a_record_is_refused(broken):
    if isinstance(broken, dict):
        broken = json.dumps(json.loads(record().to_json()) | broken)
    with pytest.raises(DataError):
        TalkRecord.from_json(broken)


# What a session's events show


def write(text, words):
    return Write(1, text, False, words, 0)


def turn(text, span):
    return TurnEnd(0, "", text, span, (0, 1), (), (), "sentence", "end_of_turn")


def shown_of(*events):
    display = Display()
    for time_ms, event in enumerate(events, 1):
        display.see(event, float(time_ms))
    return record(*display.shown)


def test_events_that_only_add_erase_nothing():
    done = Finished("end_of_turn", (), "", (), 5, turns=2)
    read = Read("a", 1, 1)
    one, two = [write("x", 1), write(" y", 3)], [write(" v", 4), write("", 4), write(" w", 5)]
    held = shown_of(read, *one, turn("x y", (0, 3)), *two, turn("v w", (3, 5)), done)
    assert held.units("word").texts == ("x", "y", "v", "w")
    assert held.units("word").times_ms == (2, 3, 5, 7)
    assert held.n_erased("word") == 0


def test_a_turn_that_ends_as_another_text_has_changed():
    held = shown_of(write("x y", 1), turn("x z z", (0, 3)), write(" v", 4), turn("v", (3, 5)))
    assert held.units("word").texts == ("x", "z", "z", "v")
    assert held.units("word").delays == (1, 3, 3, 4)
    assert held.n_erased("word") == 1
    # Text that belongs to no turn, and so to no translation.
    done = Finished("end_of_turn", (), "", (), 5, turns=1)
    lost = shown_of(write("x y", 1), turn("x y", (0, 3)), write(" v w", 4), done)
    assert lost.n_erased("word") == 2
    assert lost.units("word").texts == ("x", "y")


def test_a_stream_without_turns_ends_as_its_target():
    for text, n_erased in (("x y", 0), ("x y z", 0), ("x", 1), ("", 2)):
        done = Finished("end_of_turn", (), text, (), 5)
        held = shown_of(write(" x", 1), write(" y ", 3), done)
        assert held.n_erased("word") == n_erased
        assert " ".join(held.units("word").texts) == text
