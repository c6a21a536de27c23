"""The command line of generate against that of mlx_lm.generate."""

import argparse

import pytest
from mlx_lm.generate import setup_arg_parser

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
