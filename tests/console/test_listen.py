"""listen: a scripted recogniser and a tiny model; the words of speech are translated as text is."""

import json
import os
import pty
import re
import signal
import sys
import termios
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from speech_scripts import INTERRUPT, pcm, register, said
from test_cli import Process, read_until, run
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.errors import RecogniserError
from mlx_simul.events import TurnEnd
from mlx_simul.speech import microphone
from mlx_simul.speech.json_lines import hypothesis_as_plain
from mlx_simul.speech.window import WindowOptions

SCRIPT = [
    said("", 0.5, tail="One"),
    said("One two", 1.0, tail="three"),
    said("three four", 2.0, pause=True),
    said("", 2.5, tail="fife"),
    said("five. Six seven.", 3.0),
    said("Eight", 4.0, pause=True),
]
TURNS = ["One two three four", "five.", "Six seven.", "Eight"]
SHORT = {"max_tokens_per_word": 3, "max_tokens": 12}
SHORT_OPTIONS = ["--max-tokens-per-word", "3", "--max-tokens", "12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("listen") / "model")


@pytest.fixture(scope="module")
def as_text(folder):
    """The turns of a session that is given the same words as text, and the same pauses."""
    languages = {"source_language": "English", "target_language": "French"}
    session = mlx_simul.SimulSession(
        *mlx_simul.load(folder), policy="wait-k:2", **languages, **SHORT
    )
    events = []
    for hypothesis in SCRIPT:
        events += session.feed(" ".join(word.text.strip() for word in hypothesis.words) + " ")
        if hypothesis.pause:
            session.end_turn()
            events += session.events()
    events += session.finish()
    return [event for event in events if isinstance(event, TurnEnd)]


def arguments(folder, *more):
    languages = ["--from", "English", "--to", "French", "--wait-k", "2"]
    return ["listen", "--model", str(folder), *languages, *SHORT_OPTIONS, *more]


def lines(*hypotheses):
    return "".join(json.dumps(hypothesis_as_plain(h)) + "\n" for h in hypotheses).encode()


@pytest.fixture
def stdin(monkeypatch):
    """Makes bytes the standard input of a command in this process; open pipes stay open."""
    opened = []

    def give(data, *, stays_open=False):
        reader, writer = os.pipe()
        file = os.fdopen(reader, "rb")
        monkeypatch.setattr("sys.stdin", file)
        thread = threading.Thread(target=os.write, args=(writer, data))
        thread.start()
        opened.append((file, writer, thread))
        if not stays_open:
            thread.join()
            os.close(writer)
            opened[-1] = file, None, thread

    yield give
    for file, writer, thread in opened:
        file.close()
        thread.join()
        if writer is not None:
            os.close(writer)


def events_in(out, kind):
    return [event for event in map(json.loads, out.splitlines()) if event["type"] == kind]


def turns_in(out):
    ends = events_in(out, "turn_end")
    return [(end["source_text"], end["target_text"], tuple(end["token_ids"])) for end in ends]


def texts(turns):
    return [(end.source_text, end.target_text, end.token_ids) for end in turns]


# ---- Nothing is lost ----


@pytest.mark.parametrize("options", [[], ["--fast"]])
@pytest.mark.parametrize("kind", ["json-lines", "pcm"])
def test_words_that_are_heard_are_translated_as_the_same_words_in_a_text(
    capsys, monkeypatch, stdin, folder, as_text, kind, options
):
    assert [end.source_text for end in as_text] == TURNS
    if kind == "pcm":
        recogniser, name = register(monkeypatch, SCRIPT)
        stdin(pcm(1.9))  # as much as a pipe holds; the rest comes when the audio ends
        options = ["-", "--recogniser", name, *options]
    else:
        stdin(lines(*SCRIPT))
        options = ["--recogniser", kind, *options]
    code, out, _ = run(capsys, *arguments(folder, "--json", *options))
    assert code == cli.EXIT_INCOMPLETE  # a tiny model writes up to its limits
    assert turns_in(out) == texts(as_text)
    if kind == "pcm":
        assert recogniser.language == "English"
        assert sum(map(len, recogniser.heard)) == len(pcm(1.9)) // 2
        assert recogniser.thread is not threading.main_thread()


def test_without_its_pauses_it_would_have_other_turns(capsys, stdin, folder, as_text):
    """Negative control of the test above."""
    stdin(lines(*(said(" ".join(w.text for w in h.words), h.heard_s) for h in SCRIPT)))
    _, out, _ = run(capsys, *arguments(folder, "--json", "--recogniser", "json-lines"))
    assert turns_in(out) != texts(as_text)


def test_a_stream_without_turns_has_no_use_for_pauses(capsys, stdin, folder):
    stdin(lines(*SCRIPT))
    options = ["--json", "--recogniser", "json-lines", "--turns", "none"]
    _, out, _ = run(capsys, *arguments(folder, *options))
    assert turns_in(out) == []
    assert events_in(out, "finished")[0]["source_words"] > 4  # it went on behind a pause


def test_json_holds_the_words_with_their_times_and_can_be_read_again(capsys, stdin, folder):
    stdin(lines(*SCRIPT))
    options = ["--json", "--recogniser", "json-lines", "--fast"]
    _, out, _ = run(capsys, *arguments(folder, *options))
    assert [*map(json.dumps, events_in(out, "hypothesis"))] == [
        *lines(*SCRIPT).decode().splitlines()
    ]
    stdin("".join(line + "\n" for line in out.splitlines() if '"write"' not in line).encode())
    _, again, _ = run(capsys, *arguments(folder, *options))
    assert turns_in(again) == turns_in(out)


@pytest.mark.parametrize(
    ("options", "window"), [([], None), (["--pause-s", "2"], WindowOptions(pause_s=2.0))]
)
def test_a_recogniser_is_told_what_a_pause_is(capsys, monkeypatch, stdin, folder, options, window):
    recogniser, name = register(monkeypatch, [])
    stdin(b"")
    run(capsys, *arguments(folder, "-", "--recogniser", name, *options))
    assert recogniser.options == window


# ---- Times ----


@pytest.mark.parametrize("options", [[], ["--fast"]])
def test_times_are_those_of_the_audio(capsys, stdin, folder, options):
    """Audio comes in no time here, so that words can only be written too early."""
    stdin(lines(*SCRIPT))
    _, out, _ = run(capsys, *arguments(folder, "--json", "--recogniser", "json-lines", *options))
    ends_ms = [0.0, *(1000 * word.end_s for hypothesis in SCRIPT for word in hypothesis.words)]
    written = events_in(out, "write")
    said_ms = [ends_ms[event["source_words_read"]] for event in written]
    written_ms = [event["time_ms"] for event in written]
    assert len(said_ms) > 10
    assert all(a >= b for a, b in zip(written_ms, said_ms, strict=True))
    if options:
        assert written_ms == said_ms
    for end in events_in(out, "turn_end"):
        complete = [event for event in written if event["word_complete"]]
        first, behind = end["target_span_words"]
        assert end["word_times_ms"] == [event["time_ms"] for event in complete[first:behind]]


def test_subtitles_in_both_languages_appear_when_their_words_were_said(
    capsys, stdin, folder, tmp_path
):
    stdin(lines(*SCRIPT))
    output = tmp_path / "talk.srt"
    options = ["--recogniser", "json-lines", "--fast", "--output", str(output)]
    run(capsys, *arguments(folder, *options, "--output-text", "both"))
    cues = output.read_text("utf-8").strip().split("\n\n")
    assert cues[0].startswith("1\n00:00:01,000 -->")  # two words behind, and the second ended then
    assert all(any(turn in cue for cue in cues) for turn in TURNS)


# ---- What goes wrong ----


def test_a_recogniser_that_raises_is_said_behind_what_it_heard(
    capsys, monkeypatch, stdin, folder, as_text
):
    script = [*SCRIPT[:4], RecogniserError("the model is broken."), *SCRIPT[4:]]
    _, name = register(monkeypatch, script)
    stdin(pcm(2.0))
    code, out, err = run(capsys, *arguments(folder, "-", "--recogniser", name, "--json"))
    assert code == cli.EXIT_FAILED
    assert err.endswith("mlx-simul: the model is broken.\n")
    assert turns_in(out) == texts(as_text[:1])


def test_a_line_that_will_not_do_is_said_behind_those_before(capsys, stdin, folder, as_text):
    stdin(lines(*SCRIPT[:3]) + b'{"words": 1}\n')
    code, out, err = run(capsys, *arguments(folder, "--recogniser", "json-lines", "--json"))
    assert (code, "line 4 of the hypotheses: words must be an array" in err) == (1, True)
    assert turns_in(out) == texts(as_text[:1])


class PortAudio:
    """A microphone that gives two seconds, and then ends, or interrupts and goes on."""

    class PortAudioError(Exception):
        pass

    def __init__(self, *, interrupts):
        self.interrupts = interrupts

    def query_devices(self, *_):
        return {"index": 0, "name": "Desk", "default_samplerate": 16_000.0}

    def InputStream(self, *, callback, finished_callback, **_):
        def start():
            callback(np.zeros((32_000, 1), np.float32), 32_000, None, quiet)
            if not self.interrupts:
                finished_callback()

        quiet = SimpleNamespace(input_overflow=False)
        return SimpleNamespace(start=start, close=lambda: None)


@pytest.mark.parametrize("interrupts", [False, True])
def test_a_microphone_ends_with_ctrl_c_or_by_a_fault(
    capsys, monkeypatch, folder, as_text, interrupts
):
    script = [*SCRIPT[:3], *([INTERRUPT] if interrupts else []), *SCRIPT[3:]]
    _, name = register(monkeypatch, script)
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio(interrupts=interrupts))
    monkeypatch.setattr(microphone.Microphone.__init__, "__kwdefaults__", {"max_gap_s": 300.0})
    code, out, err = run(capsys, *arguments(folder, "--recogniser", name, "--json"))
    assert turns_in(out) == texts(as_text)
    if interrupts:
        assert code == cli.EXIT_INCOMPLETE  # the tiny model's, as without Ctrl-C
    else:
        assert code == cli.EXIT_FAILED
        assert err.endswith("the microphone Desk has stopped; is it still connected?\n")


def test_ctrl_c_stops_listening_and_what_was_said_is_translated(
    capsys, monkeypatch, stdin, folder, as_text
):
    _, name = register(monkeypatch, [*SCRIPT[:3], INTERRUPT, *SCRIPT[3:]])
    stdin(pcm(2.0), stays_open=True)  # only Ctrl-C ends it
    code, out, _ = run(capsys, *arguments(folder, "-", "--recogniser", name, "--json"))
    assert code == cli.EXIT_INTERRUPTED
    assert turns_in(out) == texts(as_text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["talk.wav", "--recogniser", "json-lines"], "the audio talk.wav would not be heard"),
        (["-", "--microphone", "Desk"], "--microphone Desk, and another source beside it"),
        (["-", "--pause-s", "99"], "pause_s must be"),
        (["--fast"], "--fast is for recorded audio"),
        (["-", "--recogniser", "none"], "there is no recogniser 'none'; known are faster-whisper"),
        (["-", "--output", "a.doc"], ".srt, .vtt, .txt, .jsonl files"),
        (["-", "--output", "a.srt", "--turns", "none"], "--output is written turn by turn"),
        (["a.srt", "--output", "a.srt"], "named twice"),
    ],
)
def test_what_will_not_do_is_refused_before_a_model_is_loaded(
    capsys, monkeypatch, stdin, tmp_path, options, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)
    stdin(b"")
    code, out, err = run(capsys, *arguments("any", *options))
    assert (code in (cli.EXIT_USAGE, cli.EXIT_FAILED), out) == (True, "")
    assert says in err
    assert [*tmp_path.iterdir()] == []


def test_a_terminal_is_no_source_of_audio(capsys, monkeypatch, folder):
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        code, _, err = run(capsys, *arguments(folder, "-"))
    os.close(controller)
    assert (code, "standard input is a terminal" in err) == (cli.EXIT_USAGE, True)


# ---- Audio files ----


@pytest.fixture
def recording(tmp_path):
    """Writes two seconds of a tone."""
    soundfile = pytest.importorskip("soundfile")

    def write(name="talk.wav", *, rate_hz=16_000, n_channels=1, seconds=2.0):
        samples = 0.5 * np.sin(np.arange(round(rate_hz * seconds)) / 9)
        path = tmp_path / name
        soundfile.write(path, np.tile(samples[:, None], n_channels), rate_hz)
        return path

    return write


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(16_000, 1), (8_000, 2), (44_100, 1)])
def test_a_file_of_any_rate_is_heard_whole(
    capsys, monkeypatch, folder, as_text, recording, rate_hz, n_channels
):
    recogniser, name = register(monkeypatch, SCRIPT)
    path = recording(rate_hz=rate_hz, n_channels=n_channels)
    options = [str(path), "--fast", "--json", "--recogniser", name]
    _, out, _ = run(capsys, *arguments(folder, *options))
    assert turns_in(out) == texts(as_text)
    assert sum(map(len, recogniser.heard)) == pytest.approx(32_000, abs=2)


def test_a_file_is_heard_at_its_own_pace(capsys, monkeypatch, folder, recording):
    """What was said at the end of it cannot be heard before, however fast the machine is."""
    _, name = register(monkeypatch, [said("One.", 0.3)])
    path = recording(seconds=0.3)
    began_s = time.perf_counter()
    _, out, _ = run(capsys, *arguments(folder, str(path), "--json", "--recogniser", name))
    assert time.perf_counter() - began_s > 0.3
    (read, *_) = events_in(out, "read")
    assert read["time_ms"] >= 300


@pytest.mark.filterwarnings("always:.*shorter than its header")
def test_a_file_that_was_cut_off_is_heard_to_there(capsys, monkeypatch, folder, as_text, recording):
    _, name = register(monkeypatch, SCRIPT)
    path = recording()
    path.write_bytes(path.read_bytes()[:-20_000])
    options = [str(path), "--fast", "--json", "--recogniser", name]
    _, out, err = run(capsys, *arguments(folder, *options))
    assert turns_in(out) == texts(as_text)
    assert "talk.wav is shorter than its header says" in err


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no audio at all" * 99])
def test_a_file_that_is_not_audio_is_refused_before_a_model_is_loaded(
    capsys, monkeypatch, recording, data
):
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)
    path = recording()
    path.write_bytes(data)
    code, out, err = run(capsys, *arguments("any", str(path)))
    assert (code, out) == (cli.EXIT_FAILED, "")
    assert "talk.wav cannot be read as audio" in err
    code, _, err = run(capsys, *arguments("any", str(path.with_name("none.wav"))))
    assert (code, "there is no audio file" in err) == (cli.EXIT_FAILED, True)


# ---- The live view ----


def test_the_tail_is_shown_and_replaced(folder):
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = Process(
        arguments(folder, "--recogniser", "json-lines"), stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    try:
        process.popen.stdin.write(lines(said("One two", 1.0, tail="fife")))
        dim_and_italic = re.compile(rb"\x1b\[2;3m ?(fife|six)")
        assert dim_and_italic.search(read_until(controller, lambda data: b"fife" in data))
        process.popen.stdin.write(lines(said("five", 2.0, tail="six")))
        assert dim_and_italic.search(read_until(controller, lambda data: b"six" in data))
        process.popen.send_signal(signal.SIGINT)  # the rest is translated
        shown = read_until(controller, lambda data: b"\x1b[?25h" in data)
        assert b"fife" not in shown
        assert process.popen.wait(300) == cli.EXIT_INTERRUPTED
    finally:
        process.popen.kill()
        process.popen.communicate()
        os.close(controller)
