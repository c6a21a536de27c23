"""The subcommand ``translate``: text in as it arrives, translation out as it is produced.

MLX is only imported once the options are known to be right.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_simul.console.live import (
    JsonView,
    LiveText,
    Source,
    TextView,
    View,
    WholeText,
    exit_code,
    run_session,
    warn_of_bad_bytes,
)
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.files import expanded

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("text", nargs="?", help="the source; default: standard input, as it comes")
    parser.add_argument("--file", metavar="F", help="read the source from a file or named pipe")
    add_session_arguments(parser)
    output = parser.add_argument_group("output").add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one event a line")
    output.add_argument("--plain", action="store_true", help="text only, on a terminal too")


def run(args: argparse.Namespace) -> int:
    """Translate as the command line says; return the exit code.

    Raises:
        SimulError: for options, models or sources that will not do.
        KeyboardInterrupt: Ctrl-C; what was written is out, and the terminal as it was.
        BrokenPipeError: whoever read the output has gone.
    """
    options = session_options(args)
    with _opened(args) as source:
        if sys.stdout is None:
            raise SimulError("standard output is closed; there is nowhere to write to.")
        session = session_maker(args, options)()
        with _view(args, session.languages) as view, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: view.note(str(message))
            return exit_code(run_session(session, source, view))


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Source]:
    if args.text is not None and args.file is not None:
        raise InvalidOptionError("a TEXT and a --file: give one of them.")
    if args.text is not None:
        yield WholeText(_decoded(args.text))
    elif args.file is None:
        if sys.stdin is None:
            raise InvalidOptionError("standard input is closed; give a TEXT or a --file.")
        yield LiveText(sys.stdin.fileno())
    else:
        try:
            fd = os.open(expanded(args.file), os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise InvalidOptionError(f"--file {args.file}: {error}.") from error
        try:
            yield LiveText(fd)
        finally:
            os.close(fd)


def _decoded(argument: str) -> str:
    """An argument as text; bytes that are not UTF-8 become U+FFFD, as in a file."""
    data = argument.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        warn_of_bad_bytes(data[error.start : error.end])
        return data.decode("utf-8", "replace")


@contextmanager
def _view(args: argparse.Namespace, languages: tuple[str, str]) -> Iterator[View]:
    from rich.console import Console

    console = Console(highlight=False)
    view: View
    if args.json:
        view = JsonView()
    elif args.plain or not is_terminal(console):
        view = TextView()
    else:
        from mlx_simul.console.display import Display, TypedDisplay

        is_typed = args.text is None and args.file is None and sys.stdin.isatty()
        kind = TypedDisplay if is_typed else Display
        view = kind(console, *languages)
    with view:
        yield view


def is_terminal(console: Console) -> bool:
    """Whether standard output is a terminal that can be redrawn."""
    return sys.stdout.isatty() and not console.is_dumb_terminal
