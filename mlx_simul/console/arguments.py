"""Arguments that several commands take, and what is known of them before a model is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.terminal import harmless

if TYPE_CHECKING:
    from rich.status import Status

    from mlx_simul.checkpoints.folder import Progress


def add_languages(parser: argparse._ActionsContainer) -> None:
    """Declare from which language to which."""
    for flag, name, example in (("--from", "source", "English"), ("--to", "target", "French")):
        parser.add_argument(
            flag,
            dest=f"{name}_language",
            type=utf8,
            metavar="LANGUAGE",
            help=f"such as {example}",
        )


def add_instruction(parser: argparse._ActionsContainer) -> None:
    """Declare an instruction in place of the default one."""
    parser.add_argument(
        "--instruction", type=utf8, help="instead of 'Translate the following … paragraph …'"
    )


def utf8(text: str) -> str:
    """An argument that is text, for a model to read."""
    try:
        # Bytes that the locale does not know come as half characters, and may be UTF-8.
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8; write it in UTF-8") from error


def require_writable(path: Path) -> None:
    """Check that a file can be written there, as far as can be known before there is one.

    Raises:
        InvalidOptionError: if not.
    """
    if path.is_dir():
        raise InvalidOptionError(f"{path} is a folder; name a file to write.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidOptionError(
            f"{path} cannot be written; give a file in a folder that exists and can be written."
        )


def loading(model: str | None) -> Status:
    """A spinner on a terminal while a model is loaded; elsewhere nothing."""
    from rich.console import Console
    from rich.text import Text

    said = harmless(f"loading {model or 'the packaged model'}")
    return Console(stderr=True).status(Text(said))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a wrapper for steps that draws a bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield lambda items, description, total: bar.track(items, total, description=description)
