"""The command ``mlx-simul``. Each subcommand imports what it needs when it is called."""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.console.ranks import run_as_rank
from mlx_simul.errors import InvalidOptionError, SimulError, SimulWarning
from mlx_simul.machine.terminal import (
    drop_stdout,
    emit,
    ending_tidily,
    escaped,
    losing_nothing,
    say,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_CLOSED_PIPE = 141  # 128 + SIGPIPE

_EXIT_CODES = f"""\
exit codes:
  0    done
  {EXIT_FAILED}    something failed
  {EXIT_USAGE}    wrong usage
  {EXIT_INCOMPLETE}    translate, listen, demo, inspect: the translation is incomplete; a limit
       cut a sentence off, the model ended it long before the source did, or
       source was left unread
  {EXIT_INTERRUPTED}  Ctrl-C
  {EXIT_CLOSED_PIPE}  the reader of the output has gone
"""

# Each is a module beside this one, with add_arguments(parser) and run(args), imported when called.
_COMMANDS = {
    "translate": "translate text while it is still arriving",
    "generate": "answer a prompt with the flags of mlx_lm.generate, while it still arrives",
    "listen": "translate speech while it is spoken: a microphone, a file, raw PCM",
    "demo": "watch somebody speak and the translation follow",
    "inspect": "draw how a text is read and written, and where attention falls",
    "train": "train a model for streaming, from a checkpoint or from nothing",
    "evaluate": "measure quality and latency on a test set, over a grid of policies",
    "models": "list the types of models that stream",
    "convert": "make an MLX folder from a Hugging Face folder or a GGUF file",
    "validate": "prove that a folder holds a model that streams",
    "calibrate": "find the attention heads that follow the source, for policies such as align-att",
    "bench": "measure what streaming costs, compared with offline generation",
    "serve": "serve live translation to many, over WebSocket and HTTP, with a page",
    "serve-simuleval": "let SimulEval's client evaluate a model over HTTP",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, 1 for what failed, 2 for wrong usage, 3 for a translation that is not
        complete, 130 after Ctrl-C, 141 if the reader of the output has gone.

    Raises:
        SystemExit: from argparse, for ``--help``, ``--version`` and wrong usage.
    """
    with losing_nothing(), ending_tidily(), warnings.catch_warnings():
        warnings.showwarning = _warning_shower(warnings.showwarning)
        given = sys.argv[1:] if argv is None else argv
        return _exit_code_of(lambda: run_as_rank(given, _run, _exit_code_of))


def _exit_code_of(run: Callable[[], int]) -> int:
    try:
        try:
            return run()
        finally:
            emit("")
    except BrokenPipeError:
        drop_stdout()
        return EXIT_CLOSED_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SimulError as error:
        say(str(error))
        return EXIT_USAGE if isinstance(error, InvalidOptionError) else EXIT_FAILED
    except OSError as error:  # a disk that is full, a folder that may not be written
        say(f"the operating system refused: {error}")
        return EXIT_FAILED


def _run(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="mlx-simul",
        description="Simultaneous translation with large language models on MLX.",
        epilog=_EXIT_CODES,
        formatter_class=_RawHelp,
    )
    parser.add_argument(
        "--version", action=_Version, help="show versions and the BLAS in use, and exit"
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=_sentence(summary), formatter_class=_Help
        )
        if name in argv:
            home = import_module(f"mlx_simul.console.{name.replace('-', '_')}")
            home.add_arguments(command)
            command.set_defaults(run=home.run)
    args = parser.parse_args(argv)
    return args.run(args)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in characters that cannot steer a terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


class _Help(argparse.HelpFormatter):
    """Breaks no line within a name such as ``align-att``."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _RawHelp(argparse.RawDescriptionHelpFormatter, _Help):
    """Likewise, and leaves the table of exit codes as it is."""


class _Version(argparse.Action):
    """``--version``; what it tells is looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from mlx_simul.machine.blas import describe

        emit(f"mlx-simul {version('mlx-simul')}\n")
        emit(f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, BLAS: {describe()}\n")
        parser.exit()


def _warning_shower(usual: Callable[..., None]) -> Callable[..., None]:
    """Our own warnings as one line, without the place in the code; others as usual."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SimulWarning):
            say(f"warning: {message}")
        else:
            usual(message, category, *place, **more)

    return show


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
