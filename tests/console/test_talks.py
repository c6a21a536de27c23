"""translate with several sentences: outputs, a journal, kills, and Enter pressed twice."""

import json
import os
import pty
import signal
import subprocess
import time

import pytest
from test_cli import LIMIT_S, Process, arguments, read_until, remarks, run
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.console.outputs import ENDINGS
from mlx_simul.events import TurnEnd

SENTENCES = ["One two three.", "Four five?", "Six seven eight nine.", "Ten!"]
TALK = " ".join(SENTENCES)
SHORT = ["--max-tokens", "12", "--max-tokens-per-word", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("talks") / "model")


@pytest.fixture(scope="module")
def turns(folder):
    """The turns of the library."""
    events = mlx_simul.stream_generate(
        *mlx_simul.load(folder),
        TALK,
        policy="wait-k:2",
        source_language="English",
        target_language="French",
        max_tokens=12,
        max_tokens_per_word=3,
    )
    return [event for event in events if isinstance(event, TurnEnd)]


def outputs(folder, endings=ENDINGS):
    return [part for ending in endings for part in ("--output", str(folder / f"talk{ending}"))]


def lines_of(path):
    return path.read_text("utf-8").split("\n")[:-1]


def untimed(path):
    """The turns in a .jsonl file, without what a clock says."""
    turns = [json.loads(line) for line in lines_of(path)]
    return [{k: v for k, v in turn.items() if not k.endswith("_ms")} for turn in turns]


def untimed_cues(path):
    """The cues of a .srt file, likewise."""
    cues = path.read_text("utf-8").strip().split("\n\n")
    return [[number, *lines] for number, _, *lines in (cue.split("\n") for cue in cues)]


def test_outputs_hold_the_turns_of_the_library(capsys, folder, turns, tmp_path):
    code, _, err = run(capsys, *arguments(folder, TALK, *SHORT, *outputs(tmp_path)))
    assert (code, err) == (cli.EXIT_INCOMPLETE, remarks(turns))
    assert [turn.source_text for turn in turns] == SENTENCES
    assert untimed(tmp_path / "talk.jsonl") == [
        {"type": "turn_end", "complete": False}
        | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(turn).items()
            if not name.endswith("_ms")
        }
        for turn in turns
    ]
    lines = lines_of(tmp_path / "talk.txt")
    assert lines == [" ".join(turn.target_text.split()) for turn in turns]
    cues = untimed_cues(tmp_path / "talk.srt")
    assert [number for number, *_ in cues] == [*map(str, range(1, len(cues) + 1))]
    shown = "".join(text for _, *texts in cues for text in texts)
    # A random model writes control characters, which are no part of a cue.
    assert [*filter(str.isalnum, shown)] == [*filter(str.isalnum, "".join(lines))]
    assert (tmp_path / "talk.vtt").read_text("utf-8").startswith("WEBVTT\n\n1\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "talk.doc"], ".srt, .vtt, .txt, .jsonl files"),
        (["--output", "none/talk.srt"], "cannot be written"),
        (["--output", "there.srt"], "there.srt exists; name another file, give --overwrite"),
        (["--output", "a.srt", "--output", "./a.srt"], "named twice"),
        (["--output", "a.srt", "--turns", "none"], "--output is written turn by turn"),
        (["--journal", "j", "--turns", "none"], "--journal is written turn by turn"),
        (["--journal", "none/j"], "cannot be written"),
        (["--journal", "a.txt", "--output", "a.txt"], "named twice"),
        (["--output", "there.srt", "--journal", "new"], "there.srt exists"),
    ],
)
def test_files_that_will_not_do_are_refused_before_the_model_is_loaded(
    capsys, monkeypatch, tmp_path, options, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.srt").write_text("mine")
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)
    code, out, err = run(capsys, *arguments("any", "text", *options))
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.srt"]
    assert (tmp_path / "there.srt").read_text() == "mine"


def test_what_has_no_turns_after_all_is_refused(capsys, folder, tmp_path):
    options = ["--instruction", "Repeat", *outputs(tmp_path, [".srt"])]
    code, _, err = run(capsys, "translate", "--model", str(folder), "text", *options)
    assert (code, "give --turns sentence" in err) == (cli.EXIT_USAGE, True)


def test_overwrite_replaces_what_a_file_held(capsys, folder, tmp_path):
    (tmp_path / "talk.txt").write_text("mine")
    options = [*SHORT, *outputs(tmp_path, [".txt"]), "--overwrite"]
    run(capsys, *arguments(folder, TALK, *options))
    assert len((tmp_path / "talk.txt").read_text("utf-8").splitlines()) == len(SENTENCES)


# ---- A journal ----


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A folder with the journal and the outputs of an undisturbed talk."""
    place = tmp_path_factory.mktemp("whole")
    options = [*SHORT, *outputs(place), "--journal", str(place / "journal")]
    assert cli.main(arguments(folder, TALK, *options)) == cli.EXIT_INCOMPLETE
    return place


def same_outputs(one, other):
    return (
        (one / "talk.txt").read_bytes() == (other / "talk.txt").read_bytes()
        and untimed(one / "talk.jsonl") == untimed(other / "talk.jsonl")
        and untimed_cues(one / "talk.srt") == untimed_cues(other / "talk.srt")
    )


@pytest.mark.parametrize("n_turns", range(len(SENTENCES) + 1))
def test_a_journal_goes_on_where_it_ends(capsys, folder, whole, tmp_path, n_turns):
    lines = (whole / "journal").read_bytes().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if line.startswith(b'{"turn"')]
    n_lines = ends[n_turns - 1] + 1 if n_turns else ends[0]
    (tmp_path / "journal").write_bytes(b"".join(lines[:n_lines]))
    # Outputs are behind the journal by a turn or more, and one ends within a turn.
    kept = (whole / "talk.txt").read_bytes().splitlines(keepends=True)[: max(n_turns - 1, 0)]
    (tmp_path / "talk.txt").write_bytes(b"".join(kept))
    jsonl = (whole / "talk.jsonl").read_bytes()
    (tmp_path / "talk.jsonl").write_bytes(jsonl[: 100 * (n_turns > 0)])
    options = [*SHORT, *outputs(tmp_path), "--journal", str(tmp_path / "journal"), "--json"]
    code, out, err = run(capsys, *arguments(folder, TALK, *options))
    assert code == cli.EXIT_INCOMPLETE
    chars = len(TALK)
    there = f"resuming {tmp_path / 'journal'}: {n_turns} turns and {chars} characters"
    assert there in err
    assert same_outputs(tmp_path, whole)
    said = [json.loads(line) for line in out.splitlines()]
    translated = [event["turn"] for event in said if event["type"] == "turn_end"]
    assert translated == [*range(n_turns, len(SENTENCES))]
    times_ms = [json.loads(line)["time_ms"] for line in lines_of(tmp_path / "talk.jsonl")]
    assert times_ms == sorted(times_ms)


def test_an_output_that_is_not_the_journals_is_left_alone(capsys, folder, whole, tmp_path):
    (tmp_path / "journal").write_bytes((whole / "journal").read_bytes())
    (tmp_path / "talk.txt").write_text("mine")
    options = [*SHORT, *outputs(tmp_path, [".txt"]), "--journal", str(tmp_path / "journal")]
    code, _, err = run(capsys, *arguments(folder, TALK, *options))
    assert (code, "not the output of this journal" in err) == (cli.EXIT_USAGE, True)
    assert (tmp_path / "talk.txt").read_text() == "mine"


@pytest.mark.parametrize("more", [[], ["--file"]])
def test_another_text_is_refused(capsys, folder, whole, tmp_path, more):
    (tmp_path / "journal").write_bytes((whole / "journal").read_bytes())
    other = TALK.replace("Six", "Sex")
    (tmp_path / "source.txt").write_text(other)
    source = ["--file", str(tmp_path / "source.txt")] if more else [other]
    options = [*SHORT, "--journal", str(tmp_path / "journal")]
    code, out, err = run(capsys, *arguments(folder, *source, *options))
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert "the journal holds 'ix seven eight nine. Ten!', and it has 'ex seven" in err


def test_standard_input_is_the_continuation(capsys, folder, whole, tmp_path, monkeypatch):
    lines = (whole / "journal").read_bytes().splitlines(keepends=True)
    # The first sentence and a half had arrived when it was killed.
    begun = {"text": TALK[: TALK.index("five") + 2]}
    (tmp_path / "journal").write_bytes(lines[0] + json.dumps(begun).encode() + b"\n")
    (tmp_path / "rest").write_text(TALK[len(begun["text"]) :])
    options = [*SHORT, *outputs(tmp_path), "--journal", str(tmp_path / "journal")]
    with open(tmp_path / "rest") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        _, _, err = run(capsys, *arguments(folder, *options))
        assert f"0 turns and {len(begun['text'])} characters" in err
    assert same_outputs(tmp_path, whole)
    with open(tmp_path / "rest") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, err = run(capsys, *arguments(folder, *options))
    assert (code, out) == (cli.EXIT_INCOMPLETE, "\n")
    assert "has ended, so standard input is not read" in err
    assert same_outputs(tmp_path, whole)


# ---- In processes of their own ----


def test_a_killed_command_goes_on(capsys, folder, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text(" ".join(SENTENCES * 20))
    places = {name: tmp_path / name for name in ("undisturbed", "killed")}

    def command(place):
        options = ["--file", str(source), "--journal", str(place / "journal")]
        return arguments(folder, *SHORT, *outputs(place), *options)

    for place in places.values():
        place.mkdir()
    run(capsys, *command(places["undisturbed"]))
    text, n_kills = places["killed"] / "talk.txt", 0
    for n_lines in (3, 20, 45):
        process = Process(command(places["killed"]), stdout=subprocess.DEVNULL).popen
        ends_s = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < ends_s:
            if text.exists() and text.read_bytes().count(b"\n") >= n_lines:
                break
        process.kill()
        process.communicate()
        n_kills += process.returncode == -signal.SIGKILL
        assert text.read_bytes().endswith(b"\n")
        assert not same_outputs(*places.values()), "it was killed too late"
    assert n_kills == 3
    run(capsys, *command(places["killed"]))
    assert same_outputs(*places.values())


def test_enter_twice_ends_a_sentence_at_once(folder):
    terminal, slave = pty.openpty()
    process = Process(arguments(folder, *SHORT, "--json"), stdin=slave)
    os.close(slave)
    out = process.popen.stdout.fileno()
    try:
        os.write(terminal, b"One two\n")
        before = read_until(out, lambda data: b'"source": " two"' in data)
        os.write(terminal, b"\n")
        after = read_until(out, lambda data: b'"turn_end"' in data and data.endswith(b"\n"))
        end = json.loads(after.splitlines()[-1])
        assert b'"turn_end"' not in before
        assert (end["source_text"], end["ended_by"]) == ("One two", "blank_line")
        process.popen.send_signal(signal.SIGINT)
        assert process.end()[0] == cli.EXIT_INTERRUPTED
    finally:
        process.popen.kill()
        process.popen.wait()
        os.close(terminal)
