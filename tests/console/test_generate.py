"""The command line of generate against that of mlx_lm.generate."""

import argparse
import contextlib
import io
import subprocess
import sys

import pytest
from mlx_lm.generate import generate, setup_arg_parser, str2bool, stream_generate
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.console.arguments import utf8
from mlx_simul.console.generate import (
    REFUSED,
    Answer,
    _is_true,
    add_arguments,
    generate_options,
)
from mlx_simul.engine import StreamingEngine
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.events import Finished
from mlx_simul.options import NOT_OPTIONS, SessionOptions


def _ours() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        flag: action
        for action in parser._actions
        for flag in action.option_strings
        if action.dest != "help"
    }


# Ours refuse what is not UTF-8, and read the same truth values.
SAME_KINDS = {None: str, utf8: str, _is_true: str2bool}


def _kind(action: argparse.Action) -> object:
    """What turns a word into its value, and the class of what takes it."""
    return type(action), SAME_KINDS.get(action.type, action.type)


def differences(theirs: argparse.ArgumentParser, ours: argparse.ArgumentParser) -> list[str]:
    mine = _flags(ours)
    found = []
    for flag, action in _flags(theirs).items():
        if flag not in mine:
            found.append(f"{flag} is missing")
        elif (mine[flag].dest, mine[flag].nargs) != (action.dest, action.nargs):
            found.append(f"{flag} takes something else")
        elif _kind(mine[flag]) != _kind(action):
            found.append(f"{flag} is of another type")
        elif mine[flag].default != action.default:
            found.append(f"{flag}: {mine[flag].default!r}, not {action.default!r}")
    return found


def test_each_flag_of_mlx_lm_is_ours_with_its_default():
    assert differences(setup_arg_parser(), _ours()) == []


def test_a_new_flag_of_mlx_lm_is_noticed():
    theirs = setup_arg_parser()
    theirs.add_argument("--entirely-new")
    assert differences(theirs, _ours()) == ["--entirely-new is missing"]


def test_another_type_or_default_is_noticed():
    theirs = setup_arg_parser()
    flags = _flags(theirs)
    flags["--max-tokens"].type, flags["--top-k"].default = float, 5
    flags["--verbose"].type = str
    assert differences(theirs, _ours()) == [
        "--max-tokens is of another type",
        "-m is of another type",
        "--top-k: 0, not 5",
        "--verbose is of another type",
    ]


def test_refused_flags_are_flags_of_mlx_lm():
    assert set(REFUSED) <= {action.dest for action in setup_arg_parser()._actions}


@pytest.mark.parametrize(
    "line",
    (
        ["--trust-remote-code"],
        ["--max-kv-size", "512"],
        ["--prompt-cache-file", "x.safetensors"],
        ["--prefill-response", "Well"],
        ["--ignore-chat-template"],
        ["-qa"],
    ),
)
def test_a_refused_flag_says_why(line):
    with pytest.raises(InvalidOptionError, match="is refused: "):
        generate_options(_ours().parse_args(line))


def test_flags_become_options_of_the_session():
    line = "--system-prompt Hi -m 7 --temp 0.5 --top-p 0.9 --seed 3 --kv-bits 8"
    options = generate_options(_ours().parse_args(line.split()))
    assert (options.prompt.instruction, options.limits.max_tokens) == ("Hi", 7)
    decoding = options.decoding
    assert (decoding.temp, decoding.top_p, decoding.min_p, decoding.seed) == (0.5, 0.9, None, 3)


def test_what_only_affects_sampling_is_named_and_left_out_where_mlx_lm_ignores_it(capsys):
    options = generate_options(_ours().parse_args(["--top-p", "0.9", "--min-p", "0.1"]))
    assert options.decoding == generate_options(_ours().parse_args([])).decoding
    said = capsys.readouterr().err
    assert "--top-p has no effect" in said and "--min-p has no effect" in said
    generate_options(_ours().parse_args(["--top-p", "0.9", "--temp", "0.5"]))
    assert not capsys.readouterr().err


def test_minus_one_token_is_no_limit():
    assert generate_options(_ours().parse_args(["-m", "-1"])).limits.max_tokens == sys.maxsize


@pytest.mark.parametrize("name", sorted(NOT_OPTIONS))
def test_arguments_of_mlx_lm_that_a_session_does_not_take_say_why(name):
    with pytest.raises(InvalidOptionError, match=f"^{name}, an argument of mlx-lm's: "):
        SessionOptions.of(**{name: 1})
    with pytest.raises(InvalidOptionError, match="unknown option"):
        SessionOptions.of(**{f"{name}_": 1})


def _value(parser, line, name):
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return getattr(parser.parse_args(line), name)
        except SystemExit:
            return "refused"


@pytest.mark.parametrize("words", [["7"], ["0.5"], ["text"], ["F"], []], ids=str)
def test_each_flag_reads_its_value_as_mlx_lm_does(words):
    theirs, ours = setup_arg_parser(), _ours()
    for flag, action in _flags(theirs).items():
        line = [flag, *words]
        assert _value(ours, line, action.dest) == _value(theirs, line, action.dest), line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("generate") / "model")


def mlx_lms_answer(folder, prompt, system=None, extra_eos=(), max_tokens=20):
    model, tokenizer = mlx_simul.load(folder)
    for token in extra_eos:
        tokenizer.add_eos_token(token)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    # Some of mlx-lm's detokenizers drop the first space of an answer.
    return generate(model, tokenizer, ids, max_tokens=max_tokens).lstrip() + "\n"


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_an_answer_is_mlx_lms(capsys, folder, system):
    prompt, more = "Where is the station, please?", ["--system-prompt", system] if system else []
    given = ["generate", "--model", str(folder), "-p", prompt, "-m", "20", "--verbose", "F", *more]
    wanted = mlx_lms_answer(folder, prompt, system)
    for mode in ("auto", "group", "reencode", "interleaved"):
        assert cli.main([*given, "--mode", mode]) == 0
        said = capsys.readouterr().out
        assert said.lstrip() == wanted, mode
    # Negative control: an answer that begins before the prompt has ended.
    cli.main([*given, "--wait-k", "1"])
    assert capsys.readouterr().out != said


def test_where_keys_cannot_be_moved_an_answer_is_mlx_lms_too(capsys, folder, monkeypatch):
    """As where positions are learned: behind a whole prompt nothing has to be moved."""
    monkeypatch.setattr(StreamingEngine, "_why_not_follow", lambda self: "its keys are fixed")
    given = ["generate", "--model", str(folder), "-p", "Where is it?", "--verbose", "F", "-m", "20"]
    assert cli.main(given) == 0
    assert capsys.readouterr().out.lstrip() == mlx_lms_answer(folder, "Where is it?")
    # Negative control; above, a warning would have been an error.
    with pytest.raises(SimulWarning, match="cannot be moved"):
        cli.main([*given, "--wait-k", "2"])


def test_verbose_has_mlx_lms_shape(capsys, folder):
    cli.main(["generate", "--model", str(folder), "-m", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-4] == "=========="
    assert [line.split(":")[0] for line in lines[-3:]] == ["Prompt", "Generation", "Peak memory"]


def test_a_prompt_from_a_pipe_is_answered_as_one_on_the_command_line(folder):
    """In pieces, one of which ends within a word, through the program itself."""
    line = ["generate", "--model", str(folder), "--prompt", "-", "-m", "20", "--verbose", "F"]
    with subprocess.Popen(
        [sys.executable, "-m", "mlx_simul", *line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdin is not None
        program.stdin.write(b"Where is the sta")
        program.stdin.flush()
        said, _ = program.communicate(b"tion, please?", timeout=300)
    assert program.returncode == 0
    assert said.decode().lstrip() == mlx_lms_answer(folder, "Where is the station, please?")


def test_a_draft_model_changes_no_answer(capsys, folder, monkeypatch):
    passes = []
    show = Answer.show

    def note(self, event):
        passes.extend([event.n_passes] if isinstance(event, Finished) else [])
        show(self, event)

    monkeypatch.setattr(Answer, "show", note)
    given = ["generate", "--model", str(folder), "-p", "Where is it?", "--verbose", "F", "-m", "20"]
    assert cli.main(given) == 0
    plain = capsys.readouterr().out
    for more in ([], ["--num-draft-tokens", "1"]):
        assert cli.main([*given, "--draft-model", str(folder), *more]) == 0
        assert capsys.readouterr().out == plain
    # The same model guesses right: more guesses in a pass, fewer passes.
    alone, by_three, by_one = passes
    assert by_three < by_one < alone


@pytest.mark.parametrize("by_id", [False, True])
def test_an_extra_eos_token_ends_the_answer(capsys, folder, by_id):
    prompt = "Where is the station, please?"
    model, tokenizer = mlx_simul.load(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True
    )
    tokens = [said.token for said in stream_generate(model, tokenizer, ids, max_tokens=20)]
    end = next(token for i, token in enumerate(tokens) if i > 1 and token not in tokens[:i])
    extra = str(end) if by_id else tokenizer.convert_ids_to_tokens(end)
    given = ["generate", "--model", str(folder), "-p", prompt, "--verbose", "F", "-m", "20"]
    assert cli.main([*given, "--extra-eos-token", "<|im_end|>", extra]) == 0
    said = capsys.readouterr().out.lstrip()
    assert said == mlx_lms_answer(folder, prompt, extra_eos=[end])
    # Negative control: without it the answer goes on.
    assert len(said) < len(mlx_lms_answer(folder, prompt))


def test_a_model_that_cannot_be_loaded_leaves_standard_output_empty(capsys, tmp_path):
    assert cli.main(["generate", "--model", str(tmp_path)]) != 0
    assert capsys.readouterr().out == ""
