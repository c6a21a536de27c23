"""The subcommand ``translate``: text in as it arrives, translation out as it is produced.

MLX is only imported once the options are known to be right.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_simul.console.arguments import require_writable
from mlx_simul.console.destination import (
    add_output_arguments,
    open_outputs,
    require_turns,
    show_session,
)
from mlx_simul.console.live import INCOMPLETE, LiveText, TextSource, WholeText, warn_of_bad_bytes
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.console.outputs import OutputFile, require_outputs
from mlx_simul.console.resuming import behind_journal
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import say
from mlx_simul.options import SessionOptions

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s [TEXT] [options]"
    parser.epilog = f"A blank line in the source ends a sentence and a paragraph. {INCOMPLETE}"
    parser.add_argument(
        "text",
        nargs="?",
        metavar="TEXT",
        help="the source; by default standard input, as it arrives",
    )
    parser.add_argument("--file", metavar="FILE", help="read the source from a file or named pipe")
    output = add_output_arguments(parser)
    output.add_argument(
        "--journal",
        type=expanded,
        metavar="FILE",
        help="record the progress in a file; with the same file, go on where it ends, outputs "
        "included",
    )
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Translate as the command line says; return the exit code.

    Raises:
        SimulError: for options, models or sources that will not do.
        KeyboardInterrupt: Ctrl-C; what was written is out, and the terminal as it was.
        BrokenPipeError: the reader of the output has gone.
    """
    options = session_options(args)
    _require_files(args, options)
    with ExitStack() as open_files:
        source = open_files.enter_context(_opened(args))
        if sys.stdout is None:
            raise SimulError("standard output is closed; there is nowhere to write to.")
        session = session_maker(args, options)(journal=args.journal)
        source = _resumed(args, session, source)
        outputs = [*open_outputs(args, session, open_files)]
        for output in outputs if session.resumed is not None else ():
            _add_held_turns(output, args.journal)
        is_typed = args.text is None and args.file is None and sys.stdin.isatty()
        return show_session(args, session, source, outputs, is_typed=is_typed)


def _require_files(args: argparse.Namespace, options: SessionOptions) -> None:
    """Check that all files can be written, as far as can be known before a model is loaded."""
    require_turns(args, options, "output", "journal")
    inputs: list[Path] = [] if args.file is None else [expanded(args.file)]
    if args.journal is not None:
        require_writable(args.journal)
        if args.journal.resolve() in [path.resolve() for path in inputs]:
            raise InvalidOptionError(f"--journal {args.journal} is the source too.")
        inputs.append(args.journal)
    has_journal = args.journal is not None and _has_content(args.journal)
    require_outputs(
        args.output,
        inputs,
        may_exist=args.overwrite or has_journal,
        otherwise="give --overwrite, or resume the --journal that it was written with",
    )


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _resumed(args: argparse.Namespace, session: SimulSession, source: TextSource) -> TextSource:
    """The source after what a journal holds; says how much that is."""
    resumed = session.resumed
    if resumed is None or not (resumed.source_chars or resumed.source_closed):
        return source
    say(
        f"resuming {args.journal}: {resumed.turns} turns and {resumed.source_chars} characters of "
        "source are there."
    )
    if args.text is not None or args.file is not None:
        return behind_journal(source, args.journal, resumed)
    if resumed.source_closed:
        say("warning: the source in the journal has ended, so standard input is not read.")
        return WholeText()
    return source


def _add_held_turns(output: OutputFile, journal: Path) -> None:
    """Write the turns that a journal holds, or find that they are there."""
    from mlx_simul.stream.journal import read_turns

    for end in read_turns(journal):
        output.add(end)
    output.require_end()


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[TextSource]:
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
