"""The command line: in this process where that will do, in its own for pipes and signals."""

import contextlib
import errno
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from repository import ROOT
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul import archs
from mlx_simul.console import cli
from mlx_simul.errors import SimulError
from mlx_simul.events import Finished, Read, TurnEnd, Write
from mlx_simul.loop.remarks import remark
from mlx_simul.options import SessionOptions
from mlx_simul.policies import LocalAgreement, as_policy

SOURCE = "Łódź is a town, où est l'hôtel ? 日本 and a 👩‍👧 to end"
SHORT = {"max_target_source_ratio": 3.0, "max_tokens_per_word": 3, "max_tokens": 40}
SHORT_OPTIONS = ["--max-tokens-per-word", "3", "--max-tokens", "40"]
EVENTS = {"read": Read, "write": Write, "turn_end": TurnEnd, "finished": Finished}
LIMIT_S = 300  # only a failure waits so long; a busy machine takes a minute to start a process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="module")
def loaded(folder):
    return mlx_simul.load(folder)


def library_events(loaded, source=SOURCE, k=2, **options):
    return list(
        mlx_simul.stream_generate(
            *loaded,
            source,
            policy=mlx_simul.WaitK(k),
            source_language="English",
            target_language="French",
            **(SHORT | options),
        )
    )


def arguments(folder, *more, k=2):
    languages = ["--from", "English", "--to", "French"]
    return ["translate", "--model", str(folder), *languages, "--wait-k", str(k), *more]


# Threads of several processes at once only get into each other's way, and an unbuffered standard
# output would hide a missing flush.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT |= {"MKL_NUM_THREADS": "1", "TERM": "xterm", "PYTHONUTF8": "1"}


class Process:
    """The command in a process of its own, with pipes at its ends unless others are given."""

    def __init__(self, args, **streams):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "mlx_simul", *args],
            env=ENVIRONMENT,
            cwd=ROOT,
            bufsize=0,
            **(pipes | streams),
        )

    def end(self):
        """Its exit code, and what it still said."""
        try:
            out, err = self.popen.communicate(timeout=LIMIT_S)
        finally:
            self.popen.kill()
        return self.popen.returncode, out, err


def read_until(fd, is_enough):
    """What comes from a descriptor, up to where it is enough."""
    data, ends_s = b"", time.monotonic() + LIMIT_S
    while not is_enough(data):
        assert select.select([fd], [], [], max(ends_s - time.monotonic(), 0))[0], data
        piece = os.read(fd, 4096)
        assert piece, data
        data += piece
    return data


@pytest.fixture(scope="module", autouse=True)
def processes(folder):
    """All of them, begun at once and before all tests: most of their time is their start."""
    # Where the suite runs in the background they would inherit a Ctrl-C that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80)) if sys.version_info >= (3, 11) else None
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    long = ["--max-tokens", "4000", "--max-tokens-per-word", "3"]
    all_of_them = {
        "live": Process(arguments(folder, *SHORT_OPTIONS)),
        "typed": Process(arguments(folder, *long), **streams),
        "closed": Process(arguments(folder, *long)),
    }
    os.close(slave)
    yield all_of_them | {"terminal": terminal}
    for process in all_of_them.values():
        process.popen.kill()
        process.popen.communicate()
    os.close(terminal)


# ---- In this process ----


def run(capsys, *args):
    """Exit code, standard output, standard error."""
    try:
        code = cli.main(args)
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def remarks(events):
    """What the command says on standard error of events that the library gives."""
    return "".join(f"mlx-simul: warning: {said}\n" for said in filter(None, map(remark, events)))


def text_of(events):
    return "".join(event.text for event in events).lstrip() + "\n"


def parsed(line):
    fields = json.loads(line)
    fields.pop("complete", None)
    kind = EVENTS[fields.pop("type")]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def test_json_is_the_events_of_the_library(capsys, folder, loaded, tmp_path):
    file = tmp_path / "source.txt"
    file.write_text(SOURCE, "utf-8")
    options = [*SHORT_OPTIONS, "--json", "--file", str(file)]
    code, out, err = run(capsys, *arguments(folder, *options))
    events = [parsed(line) for line in out.splitlines()]
    assert code == cli.EXIT_INCOMPLETE
    assert err == remarks(library_events(loaded)) != ""
    assert json.loads(out.splitlines()[-1])["complete"] is False
    assert events == library_events(loaded)
    assert TurnEnd in map(type, events)
    assert events != library_events(loaded, k=3)


def test_text_is_the_translation_and_nothing_else(capsys, folder, loaded):
    code, out, err = run(capsys, *arguments(folder, SOURCE, *SHORT_OPTIONS))
    events = library_events(loaded)
    assert (code, out, err) == (cli.EXIT_INCOMPLETE, text_of(events), remarks(events))


def test_an_empty_source_gives_an_empty_line(capsys, folder):
    code, out, err = run(capsys, *arguments(folder, "--file", os.devnull))
    assert (code, out) == (0, "\n")
    assert "the source is empty" in err
    _, out, _ = run(capsys, *arguments(folder, "--file", os.devnull, "--json"))
    assert parsed(out).reason == "empty_source"


@pytest.mark.parametrize("text", ["\u200b", "\ufeff \u00ad", "\u200e\u202e", "\ufe0f", "\x07"])
def test_a_source_that_shows_nothing_is_empty(capsys, folder, text):
    nothing = run(capsys, *arguments(folder, "--file", os.devnull))
    assert run(capsys, *arguments(folder, text)) == nothing
    assert (
        run(capsys, "demo", "--model", str(folder), "--to", "French", "--pace", "0", text)[0] == 0
    )
    assert run(capsys, "inspect", "--model", str(folder), text)[0] == cli.EXIT_USAGE


def test_limits_reach_the_session(capsys, folder):
    options = ["--max-words", "2", "--json", *SHORT_OPTIONS]
    _, out, _ = run(capsys, *arguments(folder, SOURCE, *options))
    finished = parsed(out.splitlines()[-1])
    assert (finished.reason, finished.target_words) == ("max_words", 2)
    assert not finished.source_finished


def test_a_seed_makes_samples_reproducible(capsys, folder):
    def sample(seed):
        options = ["--temp", "1.5", "--min-p", "0.01", "--repetition-penalty", "1.1"]
        options += ["--seed", seed, "--max-tokens", "12"]
        return run(capsys, *arguments(folder, "One two three four", *options))

    assert sample("7") == sample("7") != sample("8")


@pytest.fixture
def given_options(monkeypatch):
    """The options that a session would get; no model is loaded."""
    seen = {}

    def session(model, tokenizer, options, journal=None):
        seen.update(options.flat())
        raise SimulError("seen")

    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", lambda *_, **__: (None, None))
    monkeypatch.setattr("mlx_simul.session.SimulSession", session)
    return seen


def test_options_reach_the_session(capsys, given_options, tmp_path):
    context, terms = tmp_path / "context.txt", tmp_path / "terms.tsv"
    context.write_text("A visit\n", "utf-8")
    terms.write_text("beta blocker\tbêtabloquant\n\nscan \t scanner\n", "utf-8")
    options = ["--context", f"@{context}", "--glossary", str(terms), "--target-start", "16"]
    options += ["--max-ratio", "1.5", "--early-eos", "stop", "--gpe-compat", "--frame", "few-shot"]
    options += ["--draft", "ngram", "--num-draft-tokens", "2"]
    code, _, err = run(capsys, *arguments("any", "text", *options, "--instruction", "Do it"))
    assert (code, err) == (cli.EXIT_FAILED, "mlx-simul: seen\n")
    expected = SessionOptions.of(
        policy="wait-k:2",
        source_language="English",
        target_language="French",
        instruction="Do it",
        context="A visit\n",
        glossary={"beta blocker": "bêtabloquant", "scan": "scanner"},
        target_start=16,
        max_target_source_ratio=1.5,
        early_eos="stop",
        gpe_compat=True,
        frame="few-shot",
        draft="ngram",
        num_draft_tokens=2,
    )
    assert given_options == expected.flat()
    assert given_options != SessionOptions().flat()


def test_beams_reach_the_session(capsys, given_options):
    options = ["--num-beams", "4", "--length-penalty", "0.6"]
    run(capsys, *arguments("any", "text", *options))
    told = {name: given_options[name] for name in ("num_beams", "length_penalty")}
    assert told == {"num_beams": 4, "length_penalty": 0.6}
    code, _, err = run(capsys, *arguments("any", "text", *options, "--temp", "1"))
    assert (code, "does not go with temp" in err) == (cli.EXIT_USAGE, True)


def test_a_draft_model_is_loaded_with_its_tokenizer(capsys, given_options, monkeypatch):
    monkeypatch.setattr(
        "mlx_simul.checkpoints.loading.load", lambda path, **_: (path, f"that of {path}")
    )
    run(capsys, *arguments("big", "text", "--draft", "small"))
    assert given_options["draft"] == ("small", "that of small")


def test_a_policy_may_be_named(capsys, given_options):
    args = ["translate", "text", "--model", "any", "--to", "French", "--policy"]
    run(capsys, *args, "local-agreement:3")
    assert as_policy(given_options["policy"]) == LocalAgreement(3)
    code, _, err = run(capsys, *args, "local-agreement:1")
    assert (code, "at least 2" in err) == (cli.EXIT_USAGE, True)
    assert run(capsys, *args, "wait-k:3", "--wait-k", "2")[0] == cli.EXIT_USAGE


def test_a_glossary_may_be_json(capsys, given_options, tmp_path):
    terms = tmp_path / "terms.json"
    terms.write_text('{"scan": "scanner"}', "utf-8")
    run(capsys, *arguments("any", "text", "--glossary", str(terms), "--context", "plain"))
    assert given_options["glossary"] == {"scan": "scanner"}
    assert given_options["context"] == "plain"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("terms.tsv", b"scan\tscanner\nscan scanner\n", "line 2: 'scan scanner' is not a source"),
        ("terms.tsv", b"a\tb\tc\n", "line 1"),
        ("terms.tsv", b"\xff\n", "utf-8"),
        ("terms.tsv", b"a" * 1_100_000, "more than 1048576 bytes"),
        ("terms.json", b"[1]", "one object of strings"),
        ("terms.json", b'{"a": 1}', "one object of strings"),
        ("terms.json", b"{", "is not JSON"),
        ("terms.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_glossary_is_refused_before_the_model_is_loaded(
    capsys, given_options, tmp_path, name, content, says
):
    (tmp_path / name).write_bytes(content)
    code, _, err = run(capsys, *arguments("any", "text", "--glossary", str(tmp_path / name)))
    assert code == cli.EXIT_USAGE
    assert says in err
    assert not given_options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wait-k", "0"], "k of at least 1, got 0"),
        (["--wait-k", "three"], "'three' is neither a number of words nor 'whole'"),
        (["--max-words", "0"], "max_words must be a whole number of at least 1, got 0"),
        (["--max-tokens", "-1"], "max_tokens must be"),
        (["--max-ratio", "nan"], "max_target_source_ratio must be"),
        (
            ["--target-start", "-3"],
            "expected one argument|must be a whole number of at least 0, got -3",
        ),
        (
            ["--target-start", "later"],
            'target_start must be "auto", "follow" or a position, got \'later\'',
        ),
        (["--temp", "-1"], "expected one argument|temp must be a number from 0 to 100, got -1.0"),
        (["--top-p", "0.9"], "set temp above 0"),
        (["--temp", "1", "--min-p", "2"], "min_p must be a number from 0 to 1, got 2.0"),
        (["--seed", "x"], "is not a whole number"),
        (["--json", "--plain"], "not allowed with"),
        (["--file", "source.txt"], "give one of them"),
        (["--context", "@/no/such/file"], "No such file"),
        (["--glossary", "no\0such"], "null"),
    ],
)
def test_wrong_usage_is_refused_before_the_model_is_loaded(capsys, given_options, options, says):
    code, out, err = run(capsys, *arguments("any", "text", *options))
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert any(part in err for part in says.split("|")), err
    assert not given_options


def test_a_file_that_is_not_there_is_refused(capsys, given_options):
    code, _, err = run(capsys, *arguments("any", "--file", "/no/such/file"))
    assert code == cli.EXIT_USAGE
    assert "No such file" in err


def test_a_model_that_is_not_there_is_one_message(capsys, tmp_path):
    code, out, err = run(capsys, *arguments(tmp_path / "none", "text"))
    assert (code, out) == (cli.EXIT_FAILED, "")
    assert err.startswith("mlx-simul: ")
    assert "none" in err


@pytest.mark.filterwarnings("default")
def test_a_command_line_that_is_no_text_is_taken(capsys, folder, loaded):
    code, out, err = run(capsys, *arguments(folder, "caf\udce9 au lait", *SHORT_OPTIONS))
    assert code == cli.EXIT_INCOMPLETE
    assert out == text_of(library_events(loaded, "caf\ufffd au lait"))
    assert "not UTF-8, first b'\\xe9'" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_no_event_loses_text_in_any_locale(capsys, folder, loaded, monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    code = cli.main(arguments(folder, SOURCE, *SHORT_OPTIONS, "--json"))
    assert code == cli.EXIT_INCOMPLETE
    lines = stream.buffer.getvalue().decode("ascii").splitlines()
    assert [*map(parsed, lines)] == library_events(loaded)
    assert "written as escapes" not in capsys.readouterr().err


def test_an_error_of_the_operating_system_is_one_line(capsys, monkeypatch):
    def full(args):
        raise OSError(errno.ENOSPC, "No space left on device", "records.jsonl")

    monkeypatch.setattr(cli, "_run", full)
    code, _, err = run(capsys, "models")
    assert code == cli.EXIT_FAILED
    assert err.startswith("mlx-simul: ") and "No space left on device: 'records.jsonl'" in err


@pytest.mark.filterwarnings("default")
def test_nothing_to_do_is_worth_a_warning(capsys, tmp_path):
    folder = write_chat_folder(tmp_path / "model")
    said = "mlx-simul: warning: neither --to nor --instruction"
    plain = ["translate", "--model", str(folder), "--max-tokens", "2", "text"]
    assert said in run(capsys, *plain)[2]
    assert said not in run(capsys, *arguments(folder, "text", "--max-tokens", "2"))[2]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mlx_simul": {"target_start": 64}}))
    assert said not in run(capsys, *plain)[2]


def test_ctrl_c_while_loading_shows_no_traceback(capsys, monkeypatch):
    def load(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", load)
    assert run(capsys, *arguments("any", "text")) == (cli.EXIT_INTERRUPTED, "", "")


def test_models_lists_the_registry(capsys):
    code, out, _ = run(capsys, "models", "--json")
    assert code == 0
    models = {model["model_type"]: model for model in json.loads(out)}
    assert sorted(models) == archs.registered_types()
    for alias, model_type in archs.remapped_types().items():
        assert alias in models[model_type]["also"]
    table = run(capsys, "models")[1]
    assert all(name in table for name in [*models, *archs.remapped_types()])


def test_version_names_what_it_runs_on(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith(f"mlx-simul {mlx_simul.__version__}\nmlx ")
    assert "BLAS: " in out


@pytest.mark.parametrize(("command", "arity"), [("convert", 2), ("validate", 1), ("bench", 1)])
def test_tools_are_mounted(capsys, tmp_path, command, arity):
    code, out, err = run(capsys, command, *[str(tmp_path / "none")] * arity)
    assert code == cli.EXIT_FAILED
    assert "none" in out + err
    assert run(capsys, command, "--help")[0] == 0


def test_without_a_command_it_says_what_there_is(capsys):
    code, _, err = run(capsys)
    assert code == cli.EXIT_USAGE
    assert "translate" in err


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("translate", "inspect", "serve-simuleval")),
    ],
)
def test_help_loads_no_mlx(args):
    code = (
        "import sys; from mlx_simul.console.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'mlx', 'mlx_lm', 'transformers', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_one_message():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mlx_simul", "--version"],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    message = b"mlx-simul: the output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (cli.EXIT_FAILED, message)


# ---- In processes of their own ----


def test_a_closed_pipe_ends_it_quietly(processes):
    process = processes["closed"]
    process.popen.stdin.write(b"word " * 20)
    read_until(process.popen.stdout.fileno(), lambda data: len(data) >= 20)
    process.popen.stdout.close()
    process.popen.stdout = None
    with contextlib.suppress(BrokenPipeError):  # it may have ended already
        process.popen.stdin.write(b"word " * 100)
    code, _, err = process.end()
    assert (code, err) == (cli.EXIT_CLOSED_PIPE, b"")


def test_a_slow_pipe_is_translated_while_it_is_open(processes, loaded):
    process = processes["live"]
    for byte in SOURCE.encode():
        process.popen.stdin.write(bytes([byte]))
    session = mlx_simul.SimulSession(
        *loaded,
        policy=mlx_simul.WaitK(2),
        source_language="English",
        target_language="French",
        **SHORT,
    )
    events = session.feed(SOURCE)
    so_far = "".join(event.text for event in events if isinstance(event, Write))
    so_far = so_far.lstrip().encode()
    assert len(so_far) > 20
    # The last word may go on, so the command has written this much and waits for more.
    out = read_until(process.popen.stdout.fileno(), lambda data: len(data) >= len(so_far))
    assert out == so_far

    process.popen.send_signal(signal.SIGINT)
    code, rest, err = process.end()
    assert (code, rest, err) == (cli.EXIT_INTERRUPTED, b"\n", remarks(events).encode())


def test_ctrl_c_while_writing_gives_the_terminal_back(processes):
    terminal, process = processes["terminal"], processes["typed"]
    modes = termios.tcgetattr(terminal)
    read_until(terminal, lambda data: b"> " in data)
    os.write(terminal, ("word " * 200 + "\n").encode())
    drawn = read_until(terminal, lambda data: b" written, last after " in data)
    assert b"waiting" in drawn
    process.popen.send_signal(signal.SIGINT)
    after = read_until(terminal, lambda data: b"interrupted" in data)
    assert process.popen.wait(LIMIT_S) == cli.EXIT_INTERRUPTED
    _, left, state = after.partition(b"\x1b[?1049l")
    assert left
    assert b"word word" in state
    assert b"Traceback" not in after
    assert termios.tcgetattr(terminal) == modes
