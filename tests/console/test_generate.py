"""``mlx-simul generate`` beside mlx_lm.generate: the same flags, and the same answers."""

import argparse
import contextlib
import io

import pytest
from mlx_lm import generate as mlx_lms
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.console.generate import REFUSED, add_arguments, generate_options
from mlx_simul.errors import InvalidOptionError

DIFFERENCES = {
    # mlx-lm quantises from a step on; here all keys and values are, so 5000 would say otherwise.
    "quantized_kv_start": (5000, 0),
}
"""Defaults that differ: mlx-lm's and ours."""

WORDS = (["7"], ["0.5"], ["text"], ["F"], [])


def ours():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


def disagreements(theirs, parser):
    """Flags of one parser that another has not, or reads in another way."""
    flags = parser._option_string_actions
    for action in theirs._actions:
        if action.dest == "help":
            continue
        if missing := [flag for flag in action.option_strings if flag not in flags]:
            yield f"{missing} missing"
            continue
        mine = flags[action.option_strings[0]]
        defaults = action.default, mine.default
        if mine.dest != action.dest or defaults != DIFFERENCES.get(
            action.dest, (action.default, action.default)
        ):
            yield f"{action.dest}: default {defaults}"
        for words in WORDS:
            line = [action.option_strings[0], *words]
            read = [value_of(each, line, action.dest) for each in (theirs, parser)]
            if read[0] != read[1]:
                yield f"{line} is {read}"


def value_of(parser, line, name):
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return getattr(parser.parse_args(line), name)
        except SystemExit:
            return "refused"


def test_each_flag_of_mlx_lm_is_here_and_reads_the_same():
    assert list(disagreements(mlx_lms.setup_arg_parser(), ours())) == []


def test_a_flag_that_mlx_lm_adds_or_changes_is_found():
    """Negative control."""
    theirs = mlx_lms.setup_arg_parser()
    theirs.add_argument("--brand-new")
    theirs.set_defaults(max_tokens=7)
    assert len(list(disagreements(theirs, ours()))) == 2


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name):
    parser = ours()
    flag = f"--{name.replace('_', '-')}"
    takes_none = parser._option_string_actions[flag].nargs == 0
    args = parser.parse_args([flag] if takes_none else [flag, "7"])
    with pytest.raises(InvalidOptionError, match=f"{flag} is refused"):
        generate_options(args)


def test_flags_become_the_options_of_the_session():
    line = "--temp 1 --top-k 5 --seed 3 -m 9 --system-prompt Hi --kv-bits 8 --wait-k 2"
    options = generate_options(ours().parse_args(line.split())).flat()
    wanted = {"temp": 1.0, "top_k": 5, "seed": 3, "max_tokens": 9, "instruction": "Hi"}
    assert {name: options[name] for name in wanted} == wanted
    assert (options["kv_bits"], options["policy"], options["top_p"]) == (8, "wait-k:2", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("generate") / "model")


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_an_answer_is_mlx_lms(capsys, folder, system):
    prompt, more = "Where is the station, please?", ["--system-prompt", system] if system else []
    given = ["--model", str(folder), "-p", prompt, "-m", "20", *more]
    assert cli.main(["generate", *given, "--verbose", "F", "--mode", "interleaved"]) == 0
    said = capsys.readouterr().out
    model, tokenizer = mlx_simul.load(folder)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert said == mlx_lms.generate(model, tokenizer, ids, max_tokens=20) + "\n"
    # Negative control: one that streams begins before the prompt has ended.
    cli.main(["generate", *given, "--verbose", "F", "--wait-k", "1"])
    assert capsys.readouterr().out != said


def test_verbose_has_mlx_lms_shape(capsys, folder):
    cli.main(["generate", "--model", str(folder), "-m", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-4] == "=========="
    assert [line.split(":")[0] for line in lines[-3:]] == ["Prompt", "Generation", "Peak memory"]
