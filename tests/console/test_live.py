"""Sources that arrive, and the loop between them and a session; no model."""

import codecs
import json
import os
import select
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_turns import turn

from mlx_simul.console import live
from mlx_simul.console.live import (
    MAX_AHEAD_CHARS,
    READ_BYTES,
    JsonView,
    LiveText,
    TextView,
    WholeText,
    run_session,
)
from mlx_simul.errors import SimulError, SimulWarning
from mlx_simul.events import Finished, Read, Write


def arriving(chunks):
    """What LiveText gives for chunks that come one by one through a pipe."""
    reader, writer = os.pipe()
    source, pieces = LiveText(reader), []
    for chunk in chunks:
        os.write(writer, chunk)
        pieces.append(source.read(wait=False))
    os.close(writer)
    while (text := source.read()) is not None:
        pieces.append(text)
    os.close(reader)
    return pieces


def cut(data, places):
    bounds = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


some_bytes = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace"))
)
places = st.lists(st.integers(0, 40), max_size=6)


@pytest.mark.filterwarnings("ignore:the source holds bytes that are not UTF-8")
@given(some_bytes, places)
def test_bytes_may_be_cut_anywhere(data, places):
    assert "".join(arriving(cut(data, places))) == data.decode("utf-8-sig", "replace")


def test_decoding_piece_by_piece_would_not_do():
    data = "né".encode()
    assert arriving([data[:2], data[2:]]) == ["n", "é"]
    assert "".join(part.decode("utf-8", "replace") for part in (data[:2], data[2:])) != "né"


def test_a_byte_order_mark_is_no_text():
    assert "".join(arriving([codecs.BOM_UTF8[:1], codecs.BOM_UTF8[1:], b"Good"])) == "Good"


def test_reading_without_waiting_tells_nothing_yet_from_the_end():
    reader, writer = os.pipe()
    source = LiveText(reader)
    assert source.read(wait=False) == ""
    os.write(writer, b"\xc3")
    assert source.read(wait=False) == ""
    os.close(writer)
    with pytest.warns(SimulWarning, match="not UTF-8"):
        assert source.read(wait=False) == "\ufffd"
    assert source.read(wait=False) is None
    assert source.read() is None
    os.close(reader)


def test_bytes_that_are_not_utf8_are_told_once():
    with pytest.warns(SimulWarning, match=r"not UTF-8, first b'\\xe9'") as told:
        assert (
            "".join(arriving([b"caf\xe9 au lait, ", b"\xe0 la"])) == "caf\ufffd au lait, \ufffd la"
        )
    assert len(told) == 1


def test_a_replacement_character_that_was_written_is_no_reason_to_warn():
    """Negative control: warnings are errors here."""
    assert "".join(arriving(["a \ufffd".encode()])) == "a \ufffd"


def test_a_descriptor_that_does_not_block_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"a")
    source = LiveText(reader)
    assert source.read() == "a"
    os.close(writer)
    assert source.read() is None
    os.close(reader)


@contextmanager
def raising(number):
    """A signal raises, and does not end the wait that it comes before: another thread takes it."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    may_end = threading.Event()
    other = threading.Thread(target=may_end.wait, daemon=True)
    other.start()
    timer = threading.Timer(0.3, signal.pthread_kill, [other.ident, number])
    try:
        timer.start()
        yield
    finally:
        signal.signal(number, before)
        timer.cancel()
        may_end.set()
        other.join()


def test_a_signal_that_comes_before_the_wait_ends_it(monkeypatch):
    monkeypatch.setattr(live, "LOOK_UP_S", 0.2)
    reader, writer = os.pipe()
    with pytest.raises(KeyboardInterrupt), raising(signal.SIGUSR1):
        LiveText(reader).read()
    # Negative control: one long wait goes on to its end.
    with pytest.raises(KeyboardInterrupt), raising(signal.SIGUSR1):
        since_s = time.monotonic()
        try:
            select.select([reader], [], [], 1.0)
        finally:
            assert time.monotonic() - since_s > 0.9
    os.close(reader)
    os.close(writer)


def test_what_cannot_be_read_is_said(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SimulError, match="cannot be read: Is a directory"):
        LiveText(folder).read()
    os.close(folder)


def test_a_whole_text_comes_once():
    source = WholeText("Good morning")
    assert [source.read(), source.read(wait=False), source.read()] == ["Good morning", None, None]


class Echo:
    """Stands for a session: reads word by word, and writes each word it has read."""

    def __init__(self):
        self.finished = False
        self.words, self.n_read, self.closed = [], 0, False
        self.ahead_chars = self.most_ahead_chars = 0

    def push(self, text):
        self.words += [f" {word}" for word in text.split()]
        self.ahead_chars += len(text)
        self.most_ahead_chars = max(self.most_ahead_chars, self.ahead_chars)

    def close(self):
        self.closed = True

    def events(self):
        while self.n_read < len(self.words):
            word = self.words[self.n_read]
            self.n_read += 1
            self.ahead_chars -= len(word)
            yield Read(word, 1, self.n_read)
            yield Write(0, word, True, self.n_read, self.n_read)
        if self.closed:
            self.finished = True
            yield Finished("end_of_turn", (), "", (), self.n_read)


class Recorder(TextView):
    """A view that remembers."""

    def __init__(self):
        self.texts, self.events = [], []

    def arrived(self, text):
        self.texts.append(text)

    def show(self, event):
        self.events.append(event)


class Chunks:
    """A source of chunks; an empty one is a moment without any."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)

    def read(self, *, wait=True):
        chunk = next(self._chunks, None)
        while wait and chunk == "":
            chunk = next(self._chunks, None)
        return chunk


@given(st.lists(st.sampled_from(["", "", "one ", "two three "]), max_size=8))
def test_a_view_hears_of_everything_in_order(chunks):
    session, view = Echo(), Recorder()
    run_session(session, Chunks(chunks), view)
    assert view.texts == [*filter(None, chunks), None]
    reads = [event for event in view.events if isinstance(event, Read)]
    assert "".join(event.source for event in reads).split() == "".join(chunks).split()
    assert isinstance(view.events[-1], Finished)


def test_a_session_that_has_finished_reads_no_further():
    class OneWord(Echo):
        def push(self, text):
            super().push(text)
            self.close()

    session, view = OneWord(), Recorder()
    chunks = Chunks(["one ", "", "", "two ", "three "])
    run_session(session, chunks, view)
    assert view.texts == ["one "]
    assert chunks.read() == "two "
    session.finished = False  # as one whose journal holds the end of its source
    run_session(session, chunks, view)
    assert view.texts == ["one "]
    assert chunks.read() == "three "


@pytest.mark.parametrize("reason", ["max_tokens", "max_target_source_ratio", "end_of_turn"])
def test_a_translation_that_a_limit_cut_off_is_noted(reason, capsys):
    class Ended(Echo):
        def events(self):
            self.finished = True
            yield Finished(reason, (), "", (), 0)

    with TextView() as view:
        run_session(Ended(), WholeText("one"), view)
    assert (reason in capsys.readouterr().err) == (reason != "end_of_turn")


def test_a_fast_producer_has_to_wait():
    line = "word " * (READ_BYTES // 5)
    session, view = Echo(), Recorder()
    run_session(session, Chunks([line] * 40), view)
    assert len(line) * 40 > 3 * MAX_AHEAD_CHARS
    assert session.most_ahead_chars < MAX_AHEAD_CHARS + READ_BYTES
    assert session.most_ahead_chars > MAX_AHEAD_CHARS  # it does read ahead, up to there


def test_white_space_does_not_end_reading_ahead():
    class Log(Recorder):
        def arrived(self, text):
            self.events.append(text)

    view = Log()
    run_session(Echo(), Chunks([" " * 2 * MAX_AHEAD_CHARS, "one ", "two "]), view)
    assert view.events[1:4] == ["one ", Read(" one", 1, 1), "two "]


def test_text_is_what_was_written_and_a_line_end(capsys):
    with TextView() as view:
        run_session(Echo(), WholeText("Good morning"), view)
    assert capsys.readouterr().out == "Good morning\n"


def test_a_line_ends_with_its_paragraph_and_not_with_the_next(capsys):
    end = replace(turn(["Un."]), ended_by="blank_line")
    with TextView() as view:
        view.show(end)  # a paragraph without a translation
        view.show(Write(0, "Un.", True, 1, 1))
        view.show(replace(end, ended_by="sentence"))
        assert capsys.readouterr().out == "Un."
        view.show(Write(0, " Deux.", True, 1, 1))
        view.show(end)
        assert capsys.readouterr().out == " Deux.\n"
        view.show(Write(0, "\n\nTrois.", True, 1, 1))
        assert capsys.readouterr().out == "\nTrois."
        view.show(end)
    assert capsys.readouterr().out == "\n"


@pytest.mark.parametrize(
    ("error", "ending"), [(KeyboardInterrupt, "\n"), (SimulError, "\n"), (BrokenPipeError, "")]
)
def test_an_end_by_force_leaves_what_was_written(capsys, error, ending):
    with pytest.raises(error), TextView() as view:
        view.show(Write(0, " Good", False, 1, 0))
        raise error
    assert capsys.readouterr().out == f"Good{ending}"


def test_json_has_one_event_a_line(capsys):
    with JsonView() as view:
        run_session(Echo(), WholeText("né"), view)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["read", "write", "finished"]
    assert '"source": " né"' in lines[0]
    assert '"text": " né"' in lines[1]


def test_remarks_go_to_standard_error(capsys):
    TextView().note("it is late")
    assert capsys.readouterr() == ("", "mlx-simul: warning: it is late\n")


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_remark_stands_on_a_line_of_its_own(tmp_path, monkeypatch, is_shared):
    """In a terminal, and in a file that takes both outputs; a text by itself stays as it is."""
    shown, other = tmp_path / "shown", tmp_path / "other"
    with shown.open("a", 1) as out, (shown if is_shared else other).open("a", 1) as err:
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        with TextView() as view:
            view.note("it is early")
            view.show(Write(0, " Good", False, 1, 0))
            view.note("it is late")
            view.show(Write(1, " day", False, 2, 1))
    early, late = (f"mlx-simul: warning: it is {when}\n" for when in ("early", "late"))
    assert shown.read_text() == (f"{early}Good\n{late} day\n" if is_shared else "Good day\n")


def test_control_codes_do_not_reach_a_terminal(capsys, monkeypatch):
    """A model, or whoever wrote the source, must not be able to move the cursor or set a title."""
    said = Write(0, "a\x1b]0;title\x07b\x9bc\n", False, 1, 0)
    for is_terminal, wanted in ((True, "a\ufffd]0;title\ufffdb\ufffdc\n"), (False, said.text)):
        monkeypatch.setattr("sys.stdout.isatty", lambda is_terminal=is_terminal: is_terminal)
        TextView().show(said)
        assert capsys.readouterr().out == wanted
