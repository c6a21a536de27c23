"""One sentence as a staircase."""

from dataclasses import replace

import pytest
from made_turns import turn
from tiny_chat import write_chat_folder

from mlx_simul.console import cli
from mlx_simul.console.inspect import Staircase, as_text, draw, require_drawable, staircase
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.pictures import require_matplotlib
from mlx_simul.events import Finished, Read, Write

EVENTS = [
    Read(" the", 2, 1),
    Read(" cat", 1, 2),
    Write(1, " le", False, 2, 0),
    Write(2, "s", True, 2, 1),
    Read("", 1, 2, source_finished=True),
    Write(3, " chats", True, 2, 2),
    Finished("end_of_turn", (1, 2, 3), " les chats", (2, 2), 2),
]
ATTENTION = ((0.4, 0.1), (0.0, 0.3))
STAIRS = Staircase(("the", "cat"), ("les", "chats"), (2, 2), attention=ATTENTION)

TURNS = [
    Read("A", 1, 1),
    Read(" cat.", 1, 2),
    Write(1, "Un", True, 2, 1),
    Write(2, " ch", False, 2, 1),  # a limit cuts this word
    replace(turn(["Un"], ["A", "cat."]), delays=(2,)),
    Read(" It", 1, 3),
    Read(" sleeps.", 1, 4),
    Write(3, " Il", True, 3, 2),
    Write(4, " dort.", True, 4, 3),
    replace(turn(["Il", "dort."], ["It", "sleeps."]), source_span_words=(2, 4), delays=(3, 4)),
    Finished("max_tokens", (), "", (), 4, 3, 2),
]


def test_a_staircase_is_what_the_events_say():
    assert staircase(EVENTS, STAIRS.attention) == STAIRS
    assert staircase(EVENTS) == Staircase(STAIRS.source, STAIRS.target, STAIRS.delays)


def test_it_reads_on_a_terminal():
    plain = Staircase(("the", "big", "cat"), ("le", "\x1b[2Jchat"), (1, 3))
    assert as_text(plain).splitlines() == [
        "          the big cat  delay",
        "le        ███ ··· ···      1",
        "\ufffd[2Jchat  ███ ███ ███      3",
        "          on average 2.0 words read when one was written",
    ]
    head, les, chats, _ = as_text(STAIRS).splitlines()
    assert les.index("█") == head.index("the") + 1
    assert chats.index("█") == head.index("cat") + 1


def test_a_word_was_written_without_the_turns_before_its_own():
    attention = ((0.5, 0.5), (1.0,), (0.0, 1.0))
    stairs = staircase(TURNS, attention)
    assert stairs.target == ("Un", "Il", "dort.")
    assert (stairs.delays, stairs.firsts) == ((2, 3, 4), (0, 2, 2))
    assert as_text(staircase(TURNS)).splitlines() == [
        "       A cat. It sleeps.  delay",
        "Un     █ ████ ·· ·······      2",
        "Il            ██ ·······      3",
        "dort.         ██ ███████      4",
        "       on average 1.7 words of its sentence read when one was written",
    ]
    head, _, il, dort, _ = as_text(stairs).splitlines()
    assert head.index("It") <= il.index("█") <= head.index("It") + 1
    assert head.index("sleeps.") < dort.index("█") < head.index("  delay")
    assert not il[: head.index("It")].removeprefix("Il").strip()


def test_nothing_written_is_shown_too():
    assert as_text(Staircase(("a",), (), ())) == "  a  delay\n"


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.PNG"])
@pytest.mark.parametrize(
    "stairs",
    [
        STAIRS,
        Staircase(("a", "b"), ("c",), (1,)),
        staircase(TURNS),
        staircase(TURNS, ((0.5, 0.5), (1.0,), (0.0, 1.0))),
        Staircase((r"$\x$", "猫"), ("$_$", "日"), (1, 2)),  # no formula, and not in the font
    ],
)
def test_it_can_be_drawn(tmp_path, name, stairs):
    draw(stairs, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 2000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_pictures_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match=r"\.png or \.svg"):
        draw(STAIRS, tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["one", "--picture", "nofolder/a.png"], "nofolder"),
        (["one", "--picture", "a.gif"], ".png or .svg"),
        ([" "], "no words"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_the_model_is_loaded(
    options, says, capsys, monkeypatch
):
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)
    assert cli.main(["inspect", *options]) == cli.EXIT_USAGE
    assert says in capsys.readouterr().err


def test_attention_needs_heads_whatever_the_policy(tmp_path, capsys):
    folder = write_chat_folder(tmp_path / "model")
    args = ["inspect", "one two", "--model", str(folder), "--to", "French", "--attention"]
    assert cli.main(args) == cli.EXIT_USAGE
    said = capsys.readouterr().err
    assert "--attention" in said and "calibrate" in said and "this policy" not in said


def test_the_command(tmp_path, capsys):
    folder = write_chat_folder(tmp_path / "model")
    picture = tmp_path / "a.png"
    options = ["--max-tokens", "8", "--policy", "confidence:0.1", "--to", "French"]
    args = ["inspect", "one two three", "--model", str(folder), *options]
    assert cli.main([*args, "--picture", str(picture)]) == cli.EXIT_INCOMPLETE
    out, err = capsys.readouterr()
    assert "one two" in out
    assert "was cut off by a limit, max_tokens" in err
    assert picture.exists()
    assert cli.main([*args, "--policy", "align-att"]) == cli.EXIT_USAGE
    assert "calibrate" in capsys.readouterr().err


def test_matplotlib_without_a_folder_for_its_fonts_is_refused_with_what_to_set(monkeypatch):
    def no_folder(*_):
        raise OSError("Matplotlib requires access to a writable cache directory.")

    monkeypatch.setattr("mlx_simul.evaluation.pictures.require", no_folder)
    with pytest.raises(InvalidOptionError, match=r"Set MPLCONFIGDIR to a folder .* or leave it"):
        require_matplotlib("eval", "leave it out")


@pytest.mark.parametrize("name", ["folder.png", "none/picture.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InvalidOptionError, match=r"a folder|cannot be written"):
        require_drawable(tmp_path / name)
