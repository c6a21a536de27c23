"""Where a translation goes: what shows it, and the files that its turns are written to."""

from __future__ import annotations

import argparse
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, get_args

from mlx_simul.console.live import JsonView, Source, TextView, View, exit_code, run_session
from mlx_simul.console.outputs import ENDINGS, OutputFile
from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Event, TurnEnd
from mlx_simul.machine.files import expanded
from mlx_simul.options import SessionOptions
from mlx_simul.stream.subtitles import Side

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_simul.session import SimulSession


def add_output_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare what shows a translation and what it is written to; returns their group."""
    output = parser.add_argument_group("output")
    shown = output.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one event a line")
    shown.add_argument("--plain", action="store_true", help="print text only, on a terminal too")
    output.add_argument(
        "--output",
        type=expanded,
        action="append",
        default=[],
        metavar="FILE",
        help=f"write each sentence to a file as it ends, too: {', '.join(ENDINGS)}; repeatable",
    )
    output.add_argument(
        "--output-text",
        choices=get_args(Side),
        default="target",
        help="what .srt, .vtt and .txt files hold (default: target)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace existing output files")
    return output


def require_turns(args: argparse.Namespace, options: SessionOptions, *names: str) -> None:
    """Check that none of these arguments is given, or that the options allow turns.

    Raises:
        InvalidOptionError: for an argument that only a stream with turns has.
    """
    for name in names:
        if getattr(args, name) and options.turn.turns is None:
            raise _needs_turns(f"--{name}")


def open_outputs(
    args: argparse.Namespace, session: SimulSession, open_files: ExitStack
) -> Iterator[OutputFile]:
    """Open the output files; ``open_files`` closes them.

    Raises:
        SimulError: if the stream has no turns, or a file cannot be written.
    """
    if args.output and not session.has_turns:
        raise _needs_turns("--output")
    for path in args.output:
        output = OutputFile(path, args.output_text, overwrite=args.overwrite)
        yield open_files.enter_context(closing(output))


def show_session(
    args: argparse.Namespace,
    session: SimulSession,
    source: Source,
    outputs: Sequence[OutputFile],
    *,
    is_typed: bool = False,
    timed: Callable[[Event], Event] = lambda event: event,
) -> int:
    """Run a session on a source and show it as the command line says.

    Args:
        args: of :func:`add_output_arguments`.
        session: as in :func:`run_session`.
        source: likewise.
        outputs: files that each turn is added to.
        is_typed: the source is typed on this terminal.
        timed: as in :func:`run_session`.

    Returns:
        The exit code.
    """

    def on_turn(end: TurnEnd) -> None:
        for output in outputs:
            output.add(end)

    with _view(args, session.languages, is_typed) as view, _noting_warnings(view):
        return exit_code(run_session(session, source, view, on_turn, timed))


def is_terminal(console: Console) -> bool:
    """Whether standard output is a terminal that can be redrawn."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


@contextmanager
def _noting_warnings(view: View) -> Iterator[None]:
    """Show warnings in a view: those of other threads at the end, for a view belongs to one."""
    here, elsewhere = threading.current_thread(), SimpleQueue[str]()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        (view.note if threading.current_thread() is here else elsewhere.put)(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = note
        try:
            yield
        finally:
            while not elsewhere.empty():
                view.note(elsewhere.get())


def _view(args: argparse.Namespace, languages: tuple[str, str], is_typed: bool) -> View:
    from rich.console import Console

    console = Console(highlight=False)
    if args.json:
        return JsonView()
    if args.plain or not is_terminal(console):
        return TextView()
    from mlx_simul.console.display import Display, TypedDisplay

    return (TypedDisplay if is_typed else Display)(console, *languages)


def _needs_turns(name: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"{name} is written turn by turn, and this stream has no turns; give --turns sentence."
    )
