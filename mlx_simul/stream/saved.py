"""The file of a saved session: arrays in safetensors, and the rest as JSON in its metadata.

A file is replaced whole. What it holds is plain values, arrays, and objects of the kinds that the
reader names, so reading it runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_simul.engine import Engine
from mlx_simul.errors import SavedSessionError
from mlx_simul.loop.requests import Evidence, Insertion, Pass, Reply, Wanted
from mlx_simul.machine.files import expanded, replacing_file
from mlx_simul.options import SessionOptions
from mlx_simul.stream.identity import difference, identity_of
from mlx_simul.stream.journal import fingerprint
from mlx_simul.text.prompts import TokenizedSource
from mlx_simul.text.turn_splitter import TurnBreak

FORMAT = "1"
MAX_HEADER_BYTES = 64 * 2**20
MAX_FILE_BYTES = 64 * 2**30

_KINDS = (Pass, Reply, Insertion, Wanted, Evidence, TurnBreak)
Kinds: TypeAlias = Mapping[str, type]


FUNCTIONS = ("split", "splitter", "sampler", "logits_processors")
"""Options that no file holds; a saved session has to be given the same again."""


class SavedSession:
    """A file as it is read: whole, or refused.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        date: the day on which the stream began, as in 2026-07-30.

    Raises:
        SavedSessionError: if it cannot be read, is damaged or too large, or is something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = expanded(path)
        with _explained(self.path), self.path.open("rb") as file:
            n_bytes = _checked_sizes(self.path, file)
            loaded: Any = mx.load(file, format="safetensors", return_metadata=True)
            self._arrays, metadata = loaded
            if n_bytes != {name: array.nbytes for name, array in self._arrays.items()}:
                raise ValueError("its header contradicts itself")
            mx.eval(self._arrays)  # until now nothing of them was read
        if metadata.get("mlx_simul_session") != FORMAT:
            raise SavedSessionError(
                f"{self.path} is not a saved session of this version; name another file."
            )
        text = metadata.get("json", "")
        if metadata.get("sha256") != _digest(text, self._arrays):
            raise SavedSessionError(
                f"{self.path} is damaged: its digest does not fit what it holds. Restore an "
                "earlier file, or begin a new session."
            )
        with _explained(self.path):
            values = json.loads(text)
            self._identity, self._state = values["identity"], values["state"]
            self.date: str | None = values["date"]

    def require(self, identity: Mapping[str, Any]) -> None:
        """Check that the file belongs to this stream.

        Raises:
            SavedSessionError: if it belongs to another.
        """
        if (found := difference(self._identity, identity)) is not None:
            name, held, wanted = found
            raise SavedSessionError(
                f"{self.path} was saved from a stream with {name}={held!r}, and this one has "
                f"{name}={wanted!r}; give the same, or name another file."
            )

    def state(self, engine: Engine) -> dict[str, Any]:
        """What was saved, for a stream on this engine.

        Raises:
            SavedSessionError: if it holds something that such a stream does not.
        """
        with self.explained():
            return _decoded(self._state, self._arrays, _kinds(engine))

    def explained(self) -> AbstractContextManager[None]:
        """Say which file it was, if what it holds cannot be used."""
        return _explained(self.path)


def identity_of_saved(
    model: nn.Module, options: SessionOptions, source: TokenizedSource | None
) -> dict[str, Any]:
    """What a saved session belongs to, as plain values.

    Functions cannot be compared, but a file tells which there were.
    """
    return {
        "model": fingerprint(model),
        "options": identity_of(options),
        "functions": [name for name in FUNCTIONS if options.flat()[name]],
        "source": source and hashlib.sha256(repr(source).encode()).hexdigest(),
    }


def write_saved(
    path: str | os.PathLike[str],
    identity: Mapping[str, Any],
    date: str | None,
    state: Mapping[str, Any],
    engine: Engine,
) -> None:
    """Replace a file by a session, whole or not at all.

    Args:
        path: of the file.
        identity: what decides the stream, as plain values.
        date: the day on which it began.
        state: plain values, arrays, and objects of the kinds that sessions and engines hold.
        engine: of the stream.

    Raises:
        SavedSessionError: if it cannot be written, or holds more than could be read again.
    """
    path, arrays = expanded(path), {}
    values = {
        "identity": identity,
        "date": date,
        "state": _encoded(dict(state), arrays, _kinds(engine)),
    }
    text = json.dumps(values)
    n_bytes = sum(array.nbytes for array in arrays.values())
    # An array takes some hundred bytes of the header.
    if (
        len(text) + 1000 * len(arrays) > MAX_HEADER_BYTES
        or n_bytes > MAX_FILE_BYTES - MAX_HEADER_BYTES
    ):
        raise SavedSessionError(
            f"this session would take {len(text) + n_bytes} bytes in {path}, more than can be read "
            "again; save it earlier, or give the stream turns."
        )
    digest = _digest(text, arrays)
    with _explained(path), replacing_file(path) as partial, partial.open("wb") as file:
        mx.save_safetensors(
            file, arrays, {"mlx_simul_session": FORMAT, "json": text, "sha256": digest}
        )
        file.flush()
        os.fsync(file.fileno())


# Values


def plain_vars(thing: object) -> dict[str, Any]:
    """The attributes of an object, without the functions among them."""
    return {name: value for name, value in vars(thing).items() if not callable(value)}


def _kinds(engine: Engine) -> Kinds:
    """What may be in a file: a class that is not here is never made."""
    return {kind.__name__: kind for kind in (*_KINDS, *engine.state_kinds)}


def _encoded(value: Any, arrays: dict[str, mx.array], kinds: Kinds) -> Any:
    """A value as JSON; arrays are put aside under the names that stand for them."""

    def inner(values: Any) -> Any:
        return [_encoded(each, arrays, kinds) for each in values]

    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return inner(value)
    name = type(value).__name__
    if isinstance(value, tuple):
        return {"tuple": inner(value)}
    if isinstance(value, Fraction):
        return {"Fraction": str(value)}
    if isinstance(value, mx.array):
        arrays[key := str(len(arrays))] = value
        return {"array": key}
    if isinstance(value, dict) or kinds.get(name) is type(value):
        held = value if isinstance(value, dict) else vars(value)
        return {name: {key: _encoded(each, arrays, kinds) for key, each in held.items()}}
    raise SavedSessionError(f"a session that holds {value!r} cannot be saved.")


def _decoded(value: Any, arrays: Mapping[str, mx.array], kinds: Kinds) -> Any:
    if isinstance(value, list):
        return [_decoded(each, arrays, kinds) for each in value]
    if not isinstance(value, dict):
        return value
    ((name, held),) = value.items()
    if name == "tuple":
        return tuple(_decoded(held, arrays, kinds))
    if name == "Fraction":
        return Fraction(held)
    if name == "array":
        return arrays[held]
    made = {key: _decoded(each, arrays, kinds) for key, each in held.items()}
    if name == "dict":
        return made
    kind: Any = kinds[name]
    if hasattr(kind, "__dataclass_fields__"):
        return kind(**made)
    cache = kind.__new__(kind)
    vars(cache).update(made)
    return cache


# The file


def _digest(text: str, arrays: Mapping[str, mx.array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        data: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
        digest.update(memoryview(data))
    return digest.hexdigest()


def _checked_sizes(path: Path, file: BinaryIO) -> dict[str, int]:
    """Bytes of each array, if the file and its header are within bounds and of one size.

    Raises:
        SavedSessionError: if they are not.
    """
    n_file, n_header = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if n_file > MAX_FILE_BYTES or n_header > MAX_HEADER_BYTES:
        raise SavedSessionError(
            f"{path} is not a saved session, or too large: it has {n_file} bytes and a header of "
            f"{n_header}; at most {MAX_FILE_BYTES} and {MAX_HEADER_BYTES} are read."
        )
    header = json.loads(file.read(n_header))
    offsets = {name: each["data_offsets"] for name, each in header.items() if name[:2] != "__"}
    n_said = 8 + n_header + max((end for _, end in offsets.values()), default=0)
    if n_file != n_said or min((start for start, _ in offsets.values()), default=0) < 0:
        raise SavedSessionError(
            f"{path} is damaged: it has {n_file} bytes, but its header says {n_said}."
        )
    file.seek(0)
    return {name: end - start for name, (start, end) in offsets.items()}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say which file an error is about."""
    try:
        yield
    except SavedSessionError:
        raise
    except Exception as error:
        raise SavedSessionError(
            f"the saved session {path} cannot be used: {type(error).__name__}: {error}"
        ) from error
