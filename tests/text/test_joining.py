"""The texts of turns in a row."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.text.joining import Joiner

TURNS = st.lists(st.text("ab \n.你", max_size=8), max_size=6)


def joined(turns, cut):
    """The stream's text, of turns that come in pieces of at most so many characters."""
    joiner, out = Joiner(), ""
    for turn in turns:
        for at in range(0, len(turn), cut):
            out += joiner.add(turn[at : at + cut])
        joiner.end_turn(paragraph=False)
    return out


@given(TURNS, st.integers(1, 9))
def test_white_space_around_a_turn_is_neither_doubled_nor_a_matter_of_pieces(turns, cut):
    wanted = ""
    for turn in filter(None, map(str.strip, turns)):
        is_tight = not wanted or wanted[-1] == "你" or turn[0] == "你"
        wanted += turn if is_tight else " " + turn
    assert joined(turns, cut) == wanted


def test_white_space_within_a_turn_stays():
    assert joined(["a  b\n\nc ", " d"], 1) == "a  b\n\nc d"


def test_a_paragraph_is_one_blank_line_whatever_ended_the_text():
    joiner = Joiner()
    out = joiner.add("a \n")
    joiner.end_turn(paragraph=True)
    assert out + joiner.add(" b") == "a\n\nb"
