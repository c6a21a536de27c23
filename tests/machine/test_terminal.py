"""What goes out: nothing steers a terminal, no locale loses text, JSON is always UTF-8 or ASCII."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mlx_simul.console import cli
from mlx_simul.console.arguments import utf8
from mlx_simul.console.tables import fitting_table
from mlx_simul.machine.terminal import (
    emit,
    emit_json,
    ending_tidily,
    escaped,
    harmless,
    losing_nothing,
    say,
)

# The controls, and the nine that embed, override or isolate a direction.
STEERING = {chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) == "Cc"} - {"\n", "\t"}
STEERING |= {
    chr(c)
    for c in range(0x110000)
    if unicodedata.bidirectional(chr(c)) in {"LRE", "RLE", "LRO", "RLO", "PDF"}
    or unicodedata.bidirectional(chr(c)) in {"LRI", "RLI", "FSI", "PDI"}
}
EVIL = "a\x1b]0;title\x07b\x9b31mc\u202ed\u2066e\rf\bg\ud800h"
ENCODINGS = [
    "utf-8",
    "ascii",
    "latin-1",
    "cp1252",
    "cp932",
    "utf-16",
    "utf-8-sig",
    "utf-7",
    "cp037",
]
any_text = st.text(st.characters() | st.sampled_from(sorted(STEERING)))


def unescaped(found):
    return found[0].encode().decode("unicode_escape")


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def stdout(monkeypatch):
    """Standard output in some encoding; returns what gives its bytes."""

    def make(encoding="utf-8", errors="strict", kind=io.TextIOWrapper):
        stream = kind(io.BytesIO(), encoding=encoding, errors=errors)
        monkeypatch.setattr("sys.stdout", stream)
        return stream.buffer.getvalue

    return make


# ---- Codes that steer ----


@given(any_text)
@example(EVIL)
def test_what_is_harmless_has_no_steering_left_and_nothing_else_changed(text):
    made = harmless(text)
    assert len(made) == len(text)
    assert not STEERING & set(made)
    for before, after in zip(text, made, strict=True):
        assert (
            after == before
            or before in STEERING
            or before in "\t\u2028\u2029"
            or (unicodedata.category(before) == "Cs")
        )
    assert harmless(made) == made


def test_direction_marks_and_joiners_stay():
    """Negative control: what Arabic, Persian, Hindi and emoji need is not taken from them."""
    text = "\u200fمی\u200cخواهم\u200e 👩\u200d👧 क\u200dष\u061c"
    assert harmless(text) == text


@given(any_text)
@example(EVIL)
def test_a_message_has_escapes_that_say_what_was_there(text):
    made = escaped(text)
    assert not STEERING & set(made)
    if "\\" not in text:
        assert re.sub(r"\\(r|x..|u....)", unescaped, made) == text


def test_text_is_made_visible_on_a_terminal_only(stdout):
    for kind, wanted in ((Terminal, "a\ufffdb"), (io.TextIOWrapper, "a\u202eb")):
        written = stdout(kind=kind)
        emit("a\u202eb")
        assert written().decode() == wanted


@pytest.mark.parametrize("command", ["translate", "demo", "inspect", "evaluate", "bench"])
def test_no_command_reads_names_as_markup_or_lets_them_steer(
    command, tmp_path, stdout, monkeypatch
):
    """On a terminal, where a spinner and a message show the name of the model."""
    name = str(tmp_path / "x[/b]\x1b[31m\u202e:smile:")
    corpus = tmp_path / "pairs.tsv"
    corpus.write_text("a\tb\n", "utf-8")
    arguments = {
        "translate": ["--model", name, "--to", "French[/b]", "text"],
        "demo": ["--model", name, "--to", "French[/b]", "text"],
        "inspect": ["--model", name, "text"],
        "evaluate": ["--model", name, "--corpus", str(corpus), "--folder", str(tmp_path / "out")],
        "bench": [name],
    }
    said = stdout(kind=Terminal)
    monkeypatch.setattr("sys.stderr", sys.stdout)
    assert cli.main([command, *arguments[command]]) == cli.EXIT_FAILED
    said = said().decode()
    assert "x[/b]" in said and ":smile:" in said
    assert "Traceback" not in said
    assert "\x1b[31m\u202e" not in said and "\u202e" not in said


def test_wrong_usage_cannot_steer_either(capsys):
    with pytest.raises(SystemExit):
        cli.main(["models", "\x1b[31mred\u202e"])
    assert "\\x1b[31mred\\u202e" in capsys.readouterr().err


def test_what_is_said_does_not_go_to_standard_output_instead(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    say("lost")
    assert capsys.readouterr().out == ""


# ---- Locales ----


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_json_in_every_encoding(stdout, encoding, indent):
    value = {"café": ["日本", EVIL, "\u2028", 1.5, None], "😀": True}
    written = stdout(encoding)
    emit_json(value, indent)
    assert json.loads(written().decode("utf-8")) == value
    assert written().isascii() == (encoding != "utf-8")
    assert not STEERING & set(written().decode("utf-8"))


@given(any_text)
def test_json_says_any_text_as_it_is(text):
    stream, before = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), sys.stdout
    sys.stdout = stream
    try:
        emit_json(text)
    finally:
        sys.stdout = before
    assert json.loads(stream.buffer.getvalue().decode("utf-8")) == text


def test_json_comes_behind_the_text_that_was_written_before(stdout):
    written = stdout("latin-1")
    sys.stdout.write("é")
    emit_json("é")
    assert written() == b'\xe9"\\u00e9"\n'


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp932"])
def test_text_that_an_encoding_lacks_is_escaped_and_told(stdout, capsys, encoding):
    written = stdout(encoding)
    with losing_nothing():
        emit("café 日本 😀\n")
    shown = written().decode(encoding)
    assert "?" not in shown
    assert re.sub(r"\\(x..|u....|U.{8})", unescaped, shown) == "café 日本 😀\n"
    err = capsys.readouterr().err
    assert err.count("written as escapes") == 1 and encoding in err
    assert sys.stdout.errors == "strict"


@pytest.mark.parametrize(
    "encoding, errors, wanted", [("utf-8", "strict", "é".encode()), ("ascii", "replace", b"?")]
)
def test_nothing_is_told_where_nothing_is_escaped(stdout, capsys, encoding, errors, wanted):
    """Negative control; and an error handler that the user chose is kept."""
    written = stdout(encoding, errors)
    with losing_nothing():
        emit("é")
    assert (written(), capsys.readouterr().err) == (wanted, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_command_writes_json_in_any_locale(encoding, tmp_path):
    """In a process of its own; --help has characters that are not ASCII, too."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    command = [sys.executable, "-m", "mlx_simul", "translate", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    text = done.stdout.decode(encoding)
    assert ("…" in text) == (encoding == "utf-8")
    assert ("\\u2026" in text) == (b"written as escapes" in done.stderr) == (encoding != "utf-8")


def test_an_argument_in_utf8_is_text_in_any_locale():
    assert utf8("Français") == "Français"
    # As Python gives it in a locale that knows ASCII only.
    assert utf8("Français".encode().decode("ascii", "surrogateescape")) == "Français"
    with pytest.raises(Exception, match="not UTF-8"):
        utf8("Fran\udce7ais")


def test_options_that_are_not_utf8_are_refused_before_anything_is_loaded(capsys):
    for options in (
        ["--to", "Fran\udce7ais"],
        ["--instruction", "\udcff"],
        ["--context", "\udcff"],
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["translate", *options, "text"])
        assert "not UTF-8" in capsys.readouterr().err


# ---- Signals ----


def test_sigterm_ends_a_command_through_its_finally_blocks():
    before, tidied = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit, match="143"), ending_tidily():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            tidied.append(True)
    assert tidied and signal.getsignal(signal.SIGTERM) == before


# ---- Tables ----

FIGURES = ["1234567.89", "100.0 ± 12.3", "0.001"]


def shown(table, columns):
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    console.print(table)
    return console.file.getvalue()


@given(
    st.integers(20, 160),
    st.lists(st.lists(st.sampled_from(FIGURES), min_size=9, max_size=9), max_size=3),
)
def test_no_figure_is_ever_cut_or_broken(columns, rows):
    heads = ["policy", "ms a read+write", "p95", "x mlx-lm, 3 tokens", *"abcdef"]
    named = [[f"wait-k:{i}", *row] for i, row in enumerate(rows)]
    console = Console(file=io.StringIO(), width=columns)
    text = shown(fitting_table(console, "a title", heads, named), columns)
    assert max(map(cell_len, text.splitlines()), default=0) <= columns
    assert "…" not in text
    for figure in FIGURES:
        assert text.count(figure) == sum(row.count(figure) for row in rows)


def test_a_plain_table_of_rich_would_cut_them():
    """Negative control."""
    from rich.table import Table

    table = Table(*"abcdefgh")
    table.add_row(*[FIGURES[0]] * 8)
    assert FIGURES[0] not in shown(table, 60)


def test_tables_take_text_as_text():
    console = Console(file=io.StringIO(), width=80)
    cells = [["x[/b]", ":smile:", "\x1b[31m"], ["[red]", Text("styled", style="red"), "日本"]]
    for columns in (80, 12):
        console.width = columns
        text = shown(fitting_table(console, "[b]m$_x^$[/b]", ["a", "b", "c"], cells), columns)
        flat = text.replace("\n", "")
        for wanted in ("x[/b]", ":smile:", "\ufffd[31m", "[red]", "styled", "日本"):
            assert wanted in flat
        assert "\x1b" not in text
