"""GGUF files that come in pieces: ``NAME-00001-of-00003.gguf``, as llama-gguf-split writes them.

The first piece has all of the metadata; each has its own tensors, and says which of how many it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.errors import ConversionError

MAX_PIECES = 4096

_PIECE = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def piece_names(name: str) -> list[str]:
    """Return the names of all pieces that belong to a file, in order; of a whole file, its own."""
    match = _PIECE.fullmatch(name)
    if match is None:
        return [name]
    stem, _, count = match.groups()
    n_pieces = min(int(count), MAX_PIECES)
    return [f"{stem}-{number:05d}-of-{count}.gguf" for number in range(1, n_pieces + 1)]


def open_gguf(path: Path) -> GGUFFile:
    """Open a GGUF file, with all of its pieces if it comes in pieces.

    Args:
        path: The file; of several pieces, any one.

    Raises:
        ConversionError: if a piece is missing, or belongs to another file.
    """
    paths = [path.with_name(name) for name in piece_names(path.name)]
    missing = [piece.name for piece in paths if not piece.is_file()]
    if missing and path.is_file():
        raise ConversionError(
            f"{path} is one piece of {len(paths)}, and {path.parent} lacks {', '.join(missing)}. "
            "Download them into the same folder."
        )
    first, *others = [GGUFFile(piece) for piece in paths]
    n_pieces = first.get("split.count", int, 1)
    if max(n_pieces, 1) != len(paths):
        raise ConversionError(
            f"{first.path} is one piece of {n_pieces}, but its name says {len(paths)}. Name the "
            "pieces NAME-00001-of-00002.gguf and so on, as they were when they were made."
        )
    for number, piece in enumerate(others, start=1):
        stated = piece.get("split.no", int, -1), piece.get("split.count", int, 1)
        if stated != (number, n_pieces):
            raise ConversionError(
                f"{piece.path} says that it is piece {stated[0] + 1} of {stated[1]}, and its name "
                f"that it is piece {number + 1} of {n_pieces}. Download the pieces again."
            )
        twice = sorted(first.tensors.keys() & piece.tensors.keys())
        if twice:
            raise ConversionError(
                f"{piece.path} holds the tensor {twice[0]!r}, which an earlier piece holds too. "
                "The pieces come from different files: download them together."
            )
        first.tensors.update(piece.tensors)
    wanted = first.get("split.tensors.count", int, len(first.tensors))
    if wanted != len(first.tensors):
        raise ConversionError(
            f"{first.path} and its other pieces hold {len(first.tensors)} tensors, but should hold "
            f"{wanted}. The pieces come from different files: download them together."
        )
    return first
