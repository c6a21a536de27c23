"""What a terminal shows: whole texts, within its width and height, and nothing that steers it."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_turns import turn
from rich.cells import cell_len
from rich.console import Console

from mlx_simul.console.display import Display, TypedDisplay
from mlx_simul.console.panels import KEPT_CHARS, MIN_SIDE_BY_SIDE_COLUMNS, Progress, render
from mlx_simul.events import Finished, Read, Tail, Write
from mlx_simul.text.segmenter import SourceSegmenter

words = st.lists(
    st.one_of(st.text("abcdé日本", min_size=1, max_size=9), st.just("Übermäßigkeitsverordnung")),
    max_size=30,
)
widths = st.integers(24, 120)


def terminal(width=80, height=24):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )


def shown(progress, console, **options):
    """The lines of a rendering."""
    console.print(render(progress, console, **options))
    return console.file.getvalue().splitlines()


def sides(lines):
    """The text in the panels, source and target, without white space."""
    texts, i_stacked = ["", ""], -1
    for line in lines:
        cells = line.split("│")[1::2]
        if line.startswith("╭"):
            i_stacked += 1
        for i, cell in enumerate(cells):
            texts[i if len(cells) == 2 else i_stacked] += "".join(cell.split())
    return texts


def progress_of(source, target, n_read=None):
    """A session that has written ``target`` and has read ``n_read`` words of ``source``."""
    progress = Progress()
    progress.arrive(" ".join(source))
    progress.arrive(None)
    segmenter = SourceSegmenter()
    segments = [*segmenter.feed(" ".join(source)), *segmenter.finish()]
    for i, segment in enumerate(segments[:n_read]):
        progress.update(Read(segment, 1, i + 1))
    for i, word in enumerate(target):
        progress.update(Write(0, f" {word}", True, len(segments[:n_read]), i + 1))
    return progress


@given(words, words, widths, st.integers(0, 30))
def test_both_texts_are_shown_whole(source, target, width, n_read):
    lines = shown(progress_of(source, target, n_read), terminal(width))
    assert sides(lines) == ["".join(source), "".join(target)]


@given(words, words, widths, st.integers(8, 30))
def test_what_is_shown_fits(source, target, width, max_rows):
    lines = shown(progress_of(source, target, 5), terminal(width), max_rows=max_rows)
    assert all(cell_len(line) <= width - 2 for line in lines)
    assert len(lines) <= max_rows


def test_a_long_text_needs_more_rows_than_a_small_terminal_has():
    progress = progress_of(["word"] * 300, ["mot"] * 300)
    whole = shown(progress, terminal(40))
    cut = shown(progress, terminal(40), max_rows=10)
    assert len(whole) > 10 >= len(cut)
    assert sides(cut) != sides(whole)
    assert max(map(cell_len, whole)) > 34 - 2  # it would not fit a narrower one


@given(words, words)
def test_a_small_terminal_shows_what_was_written_last(source, target):
    text = sides(shown(progress_of(source, target), terminal(100), max_rows=8))
    assert "".join(source).endswith(text[0])
    assert "".join(target).endswith(text[1])


def test_what_waits_leaves_room_for_what_is_read():
    source = ["read", *["waiting"] * 500]
    text = sides(shown(progress_of(source, [], n_read=1), terminal(), max_rows=10))
    assert text[0].startswith("readwaiting")
    assert text[0].endswith("…")


@pytest.mark.parametrize("width", [MIN_SIDE_BY_SIDE_COLUMNS + 1, MIN_SIDE_BY_SIDE_COLUMNS + 2])
def test_a_narrow_terminal_has_the_target_below_the_source(width):
    lines = shown(progress_of(["one"], ["un"]), terminal(width))
    is_stacked = width < MIN_SIDE_BY_SIDE_COLUMNS + 2
    assert len([line for line in lines if line.startswith("╭")]) == (2 if is_stacked else 1)


@pytest.mark.parametrize("width", range(1, 12))
def test_the_narrowest_terminals_do_no_harm(width):
    assert shown(progress_of(["日本", "Übermäßig"], ["mot"], 1), terminal(width), max_rows=5)


@pytest.mark.parametrize("code", ["\x1b[2J", "\x9b2J", "\x07", "\x7f", "\r", "\x00"])
def test_text_does_not_steer_the_terminal(code):
    progress = Progress()
    progress.arrive(f"half{code}")
    progress.update(Write(0, f"a{code}b", True, 1, 1))
    progress.notes.append(f"note{code}")
    out = "".join(shown(progress, terminal(), labels=(f"English{code}", "French")))
    assert code[0] not in out
    assert "a\ufffd" in out


def test_counts_say_how_far_each_has_got():
    progress = progress_of(["one", "two", "three"], ["un"], n_read=2)
    out = "\n".join(shown(progress, terminal()))
    assert "2 read, 1 waiting" in out
    assert "1 written, last after 2" in out
    progress.update(Finished("max_words", (), "un", (2,), 2))
    assert "max_words" in "\n".join(shown(progress, terminal()))


@given(st.integers(0, 99_999), st.integers(8, 60))
def test_no_count_is_cut(n_words, width):
    progress = progress_of(["one"] * 3, ["un"])
    progress.words_read = progress.words_written = progress.last_delay_words = n_words
    progress.words_waiting = n_words
    numbers = re.findall(r"\d+", "\n".join(shown(progress, terminal(width))))
    assert set(numbers) <= {str(n_words)}


@given(words, st.lists(st.integers(0, 200), max_size=5))
def test_a_source_may_arrive_in_any_pieces(source, places):
    text = "  ".join(source)
    bounds = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    progress, segmenter = Progress(), SourceSegmenter()
    n_read = 0
    for start, end in pairwise(bounds):
        progress.arrive(text[start:end])
        for segment in segmenter.feed(text[start:end]):
            n_read += 1
            progress.update(Read(segment, 1, n_read))
        assert progress.words_waiting == 0
    progress.arrive(None)
    left = segmenter.finish()
    assert progress.words_waiting == len(left)
    assert "".join(progress.unread_text.split()) == "".join(left).strip()
    assert "".join(progress.read_text.split()) + "".join(left).strip() == "".join(source)


def visible(console):
    """What was sent to the terminal, without its control sequences."""
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[78])", "", console.file.getvalue())


def play(display):
    display.arrived("Good morning, how ")
    display.show(Read("Good", 3, 1))
    display.show(Write(0, " Bonjour", True, 1, 1))


def test_the_last_state_stays_on_the_screen():
    console = terminal()
    with Display(console, "English", "French") as display:
        play(display)
    last = visible(console)[-1000:].split("╭─")
    assert "Good morning, how" in last[-2] + last[-1]
    assert "Bonjour" in last[-1]
    assert "interrupted" not in last[-1]
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


def test_ctrl_c_leaves_the_last_state_and_says_so():
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Display(console) as display:
        play(display)
        raise KeyboardInterrupt
    assert visible(console).rstrip().endswith("interrupted")
    assert "Bonjour" in visible(console)


def test_a_remark_stays_below_the_texts():
    console = terminal()
    with Display(console) as display:
        display.note("it is late")
        play(display)
    assert visible(console).rstrip().endswith("it is late")


def test_typing_happens_on_the_alternate_screen():
    console = terminal()
    with TypedDisplay(console) as display:
        play(display)
        typed = visible(console)
        assert "Enter sends a line" in typed
        assert not console.file.getvalue().count("\x1b[?1049l")
    screen, _, after = console.file.getvalue().partition("\x1b[?1049l")
    assert screen.startswith("\x1b[?1049h")
    assert "Bonjour" in after
    assert "Enter sends a line" not in after


def test_the_line_being_typed_is_not_redrawn():
    console = terminal(height=10)
    with TypedDisplay(console) as display:
        display.arrived("Good morning ")
        start = len(console.file.getvalue())
        display.show(Read("Good", 3, 1))
        drawn = console.file.getvalue()[start:]
    assert drawn.startswith("\x1b7\x1b[H")
    assert drawn.endswith("\x1b8")
    # The line being typed is the last but one of the ten, and the cursor stays above it.
    assert drawn.count("\n") == 8
    assert "\x1b[J" not in drawn


def test_a_tail_that_may_change_is_shown_beside_the_source():
    progress = progress_of(["one", "two"], [], n_read=1)
    for unstable in ("three fo", "three four\x1b[2J"):
        progress.update(Tail(unstable))
    out = "\n".join(shown(progress, terminal()))
    assert "one two three four\ufffd[2J" in out
    assert "2 read" not in out  # it is no part of the source
    styled = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    styled.print(render(progress, styled))
    assert re.search(r"\x1b\[2;3m *three four", styled.file.getvalue())
    progress.update(Tail(""))
    assert "three" not in "\n".join(shown(progress, terminal()))


def test_each_turn_has_a_line_to_itself():
    progress = Progress()
    for text in ("One.", " Two.", " Three."):
        progress.update(Read(text, 1, 1))
        progress.update(Write(0, "\n\nTrois." if text == " Three." else text, True, 1, 1))
        progress.update(turn(["x"]))
        progress.update(turn([]))  # one without a target
    assert progress.read_text == "One.\nTwo.\nThree.\n"
    assert progress.target_text == "One.\nTwo.\n\nTrois.\n"
    lines = shown(progress, terminal())
    assert [line.split("│")[1].strip() for line in lines[1:-1]] == ["One.", "Two.", "Three.", ""]
    progress.arrive(" Fo")
    progress.update(Tail("ur"))
    assert "│ Fo ur " in "\n".join(shown(progress, terminal()))


def test_a_long_talk_holds_no_more_than_its_end():
    def length(progress):
        notes = sum(map(len, progress.notes))
        return len(progress.read_text + progress.unread_text + progress.target_text) + notes

    progress, lengths = Progress(), []
    for n in range(1, 12_001):
        progress.arrive(f"word{n} ")
        progress.update(Read(f" word{n}", 1, n))
        progress.update(Write(0, f" mot{n}", True, n, n))
        progress.notes.append(f"note {n}")
        lengths.append(length(progress))
    assert KEPT_CHARS < max(lengths) <= 2 * (KEPT_CHARS + 20) + 100
    texts = sides(shown(progress, terminal()))
    # What is left out is marked, and what is kept is the end, in order.
    for text, word in zip(texts, ("word", "mot"), strict=True):
        assert text.startswith("…")
        numbers = [*map(int, text[1:].split(word)[1:])]
        assert numbers == [*range(numbers[0], 12_001)]
    assert len(shown(progress, terminal(), max_rows=20)) >= 20


def test_words_from_a_journal_are_read_though_they_never_arrived():
    progress = Progress()
    progress.arrive("ning, how are")
    for n, word in enumerate(["Good", " morning,", " how"]):
        progress.update(Read(word, 1, n + 1))
        assert progress.words_waiting >= 0
    assert progress.read_text == "Good morning, how"
    assert progress.unread_text.strip() == "are"
