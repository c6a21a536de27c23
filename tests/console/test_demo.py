"""The demo: words at their time, the staircase, and what it says of the delays."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import write_chat_folder

from mlx_simul.checkpoints import loading
from mlx_simul.console import cli
from mlx_simul.console.demo import PASSAGE, Recorder, Speech, Staircase, lag, with_delays
from mlx_simul.console.live import TextView
from mlx_simul.events import Finished, Read, Write
from mlx_simul.text.segmenter import SourceSegmenter

texts = st.lists(st.text("abcé日", min_size=1, max_size=5), max_size=12).map(" ".join)


def words_read(text):
    segmenter = SourceSegmenter()
    return [*segmenter.feed(text), *segmenter.finish()]


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, now_s=100.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        assert seconds >= 0
        self.now_s += seconds


@given(texts, st.sampled_from([0, 60, 150, 1000]), st.lists(st.floats(0, 3), max_size=30))
def test_a_speech_gives_each_word_at_its_time_and_none_before(text, pace, work_s):
    clock = Clock()
    speech = Speech(text, pace, clock, clock.sleep)
    said, n_words, work = "", 0, iter(work_s)
    while True:
        ahead = speech.read(wait=False)
        piece = ahead if ahead else speech.read()
        if piece is None:
            break
        said += piece
        n_words += 1
        # A listener who is slow finds the words waiting, and they are no later for that.
        assert clock.now_s >= 100 + speech.said[n_words] * (60 / pace if pace else 0) - 1e-9
        clock.sleep(next(work, 0.0))
    assert said.split() == text.split()
    assert n_words == len(words_read(text))
    steps = [100 + each * 60 / pace for each in speech.said[1:]] if pace else []
    assert not pace or speech.word_times_s == pytest.approx(steps)
    assert speech.read() is None


def test_the_next_word_is_not_there_before_its_time():
    clock = Clock()
    speech = Speech("one two", 60, clock, clock.sleep)
    assert speech.read(wait=False) == ""
    clock.sleep(0.9)
    assert speech.read(wait=False) == ""
    clock.sleep(0.1)
    assert speech.read(wait=False) == "one "
    assert speech.read(wait=False) == ""
    assert (speech.read(), clock.now_s) == ("two", 102.0)


EVENTS = [
    Read("Good", 1, 1),
    Read(" day", 1, 2),
    Write(0, "Bon", False, 2, 0),
    Write(1, "jour", True, 2, 1),
    Read("", 1, 2, True),
    Write(2, " \x1b!", True, 2, 2),
    Finished("end_of_turn", (0, 1, 2), "Bonjour !", (2, 2), 2),
]


def show(view, events=EVENTS, clock=None):
    with view:
        for event in events:
            view.show(event)
            if clock:
                clock.sleep(0.5)


def test_the_staircase_has_a_line_for_each_word_read(capsys):
    show(Staircase(4))
    assert capsys.readouterr().out.splitlines() == [
        "Good",
        "day           Bonjour",
        "              \ufffd!",
    ]


def test_what_is_written_again_after_an_interrupt_is_on_a_line_of_its_own(capsys):
    with pytest.raises(KeyboardInterrupt), Staircase(4) as view:
        view.show(EVENTS[0])
        view.show(EVENTS[2])
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "Good          Bon\n"


def test_the_lag_is_counted_in_words_and_in_time(capsys):
    clock = Clock()
    speech = Speech("Good day", 60, clock, clock.sleep)
    while speech.read():
        pass
    recorder = Recorder(TextView(), clock)
    assert lag(recorder, speech) == "Nothing was written."
    # The first word is complete 1.5 s after the last one it waited for, the second 2.5 s.
    show(recorder, clock=clock)
    assert recorder.words == ["Bonjour", "\x1b!"]
    assert with_delays(recorder.words, (2, 12)) == "Bonjour² \x1b!¹²"
    # LAAL: one word, since the first already waits for all of the source.
    assert lag(recorder, speech).startswith("2 words read, 2 written, on average 2.0 behind")
    assert "2000 ms" in lag(recorder, speech)
    assert "ms" not in lag(recorder, Speech("Good day", 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("demo") / "model")


def run(capsys, *args):
    try:
        code = cli.main(["demo", *args])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_where_there_is_no_terminal_it_prints_lines(capsys, folder, monkeypatch):
    monkeypatch.setattr(loading, "DEFAULT_MODEL", folder)
    code, out, err = run(
        capsys, "--to", "French", "--pace", "0", "--wait-k", "2", "one two three four"
    )
    *stairs, last = out.splitlines()
    # Random weights end nothing by themselves.
    limit = "turn 1, source words 1 to 4: the output was cut off by a limit, "
    limit += "max_target_source_ratio."
    assert (code, err) == (cli.EXIT_INCOMPLETE, f"mlx-simul: warning: {limit}\n")
    firsts = [line.split()[0] for line in stairs]
    assert firsts[:4] == ["one", "two", "three", "four"]
    assert stairs[0] == "one"
    assert len(stairs[1].split()) > 1
    assert last.startswith("4 words read, ") and "(LAAL)" in last


def test_a_text_without_spaces_is_spoken_character_by_character(capsys, folder):
    options = ["--model", str(folder), "--to", "French", "--pace", "60000", "--wait-k", "2"]
    code, out, _ = run(capsys, *options, "Hello 日本.")
    assert code == cli.EXIT_INCOMPLETE
    words = [word.strip() for word in words_read("Hello 日本.")]
    assert [line.split()[0] for line in out.splitlines()[: len(words)]] == words
    assert words[:3] == ["Hello", "日", "本"]


def test_a_terminal_gets_the_panels_and_each_words_delay(capsys, folder, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    options = ["--model", str(folder), "--to", "French", "--pace", "0"]
    code, out, _ = run(capsys, *options, "one two three four")
    assert code == cli.EXIT_INCOMPLETE
    assert " French " in out
    assert "written, last after " in out
    assert "³" in out
    plain = run(capsys, *options, "--plain", "one two three four")[1]
    assert "last after" not in plain


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wait-k", "0"], "k of at least 1"),
        (["--pace", "-1"], "expected one argument|--pace must be"),
        (["--pace", "nan"], "--pace must be a number from 0 on, got nan"),
    ],
)
def test_wrong_usage_is_refused_before_the_model_is_loaded(capsys, monkeypatch, options, says):
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)
    code, out, err = run(capsys, *options)
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert any(part in err for part in says.split("|")), err


def test_the_passage_is_sentences_of_a_demos_length():
    assert 20 <= len(PASSAGE.split()) <= 60
