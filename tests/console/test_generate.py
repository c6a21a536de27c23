"""The command line of generate against that of mlx_lm.generate."""

import argparse
import contextlib
import io

import pytest
from mlx_lm.generate import generate, setup_arg_parser
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.console.generate import REFUSED, add_arguments, generate_options
from mlx_simul.errors import InvalidOptionError
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


def differences(theirs: argparse.ArgumentParser, ours: argparse.ArgumentParser) -> list[str]:
    mine = _flags(ours)
    found = []
    for flag, action in _flags(theirs).items():
        if flag not in mine:
            found.append(f"{flag} is missing")
        elif (mine[flag].dest, mine[flag].nargs) != (action.dest, action.nargs):
            found.append(f"{flag} takes something else")
        elif mine[flag].default != action.default:
            found.append(f"{flag}: {mine[flag].default!r}, not {action.default!r}")
    return found


def test_each_flag_of_mlx_lm_is_ours_with_its_default():
    assert differences(setup_arg_parser(), _ours()) == []


def test_a_new_flag_of_mlx_lm_is_noticed():
    theirs = setup_arg_parser()
    theirs.add_argument("--entirely-new")
    assert differences(theirs, _ours()) == ["--entirely-new is missing"]


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


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_an_answer_is_mlx_lms(capsys, folder, system):
    prompt, more = "Where is the station, please?", ["--system-prompt", system] if system else []
    given = ["generate", "--model", str(folder), "-p", prompt, "-m", "20", "--verbose", "F", *more]
    assert cli.main([*given, "--mode", "interleaved"]) == 0
    said = capsys.readouterr().out
    model, tokenizer = mlx_simul.load(folder)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    # Some of mlx-lm's detokenizers drop the first space of an answer.
    wanted = generate(model, tokenizer, ids, max_tokens=20)
    assert said.lstrip() == wanted.lstrip() + "\n"
    # Negative control: an answer that begins before the prompt has ended.
    cli.main([*given, "--wait-k", "1"])
    assert capsys.readouterr().out != said


def test_verbose_has_mlx_lms_shape(capsys, folder):
    cli.main(["generate", "--model", str(folder), "-m", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-4] == "=========="
    assert [line.split(":")[0] for line in lines[-3:]] == ["Prompt", "Generation", "Peak memory"]
