"""Files: their paths as users write them, replaced whole, and JSON that must be an object."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_simul.errors import SimulError


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with a leading ``~`` or ``~user`` replaced by that home folder.

    Shells do so only where the ``~`` begins a word: not in ``--model=~/m``, not between quotes, and
    not in a configuration file. A ``~`` that names no home stays as it is.
    """
    return Path(os.path.expanduser(path))


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it becomes ``path`` when the block succeeds.

    A reader finds the old file or the new one, and never half of one. When the block fails,
    ``path`` stays as it was. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays last, since some writers choose their format by it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8, whole or not at all."""
    with replacing_file(path) as partial:
        partial.write_text(text, "utf-8")


def read_object(
    path: Path, refused: type[SimulError], advice: str, *, max_bytes: int | None = None
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of a file that exists.
        refused: the error to raise.
        advice: what to do when the file is damaged; a sentence.
        max_bytes: refuse a longer file; None reads any.

    Raises:
        SimulError: of the type ``refused``, if the file is too long, unreadable, not JSON, or
            holds something other than an object.
    """
    try:
        if max_bytes is not None and (n_bytes := path.stat().st_size) > max_bytes:
            raise refused(f"{path} has {n_bytes} bytes, more than {max_bytes}. {advice}")
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refused(f"{path} is not readable JSON: {error}. {advice}") from error
    if not isinstance(value, dict):
        raise refused(
            f"{path} holds a JSON {type(value).__name__} where an object belongs. {advice}"
        )
    return value
