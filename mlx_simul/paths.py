"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with a leading ``~`` or ``~user`` replaced by that home folder.

    Shells do so only where the ``~`` begins a word: not in ``--model=~/m``, not between quotes, and
    not in a configuration file. A ``~`` that names no home stays as it is.
    """
    return Path(os.path.expanduser(path))
