"""A GGUF file: its metadata and its tensors, read without trusting a single count in it.

Layout, little endian, versions 2 and 3 (ggml's ``docs/gguf.md``)::

    "GGUF" | version u32 | tensors u64 | entries u64
    entries:  key string | value type u32 | value
    tensors:  name string | dimensions u32 | sizes u64, innermost first | type u32 | offset u64
    padding to ``general.alignment``, then the tensors' bytes

The walk over the header is our own because ``gguf.GGUFReader`` believes the lengths it reads: an
array that claims 2**60 entries keeps it busy until memory runs out. What the block formats are,
and how they are turned back into numbers, stays with the ``gguf`` package.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)
from gguf.quants import dequantize

from mlx_simul.errors import ConversionError

VERSIONS = (2, 3)
MAX_ENTRIES = 1 << 16  # metadata entries, and tensors; Llama 3.1 405B has 1,138 of them
MAX_ARRAY_LENGTH = 1 << 22  # the largest vocabularies have 2**18 tokens and as many merges
MAX_STRING_BYTES = 1 << 22  # a chat template
MAX_DIMENSIONS = 4  # ggml's own limit

_SCALARS = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}

T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies in a file's bytes; ``shape`` is outermost first, as numpy has it."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    n_bytes: int
    data: mmap.mmap = field(repr=False, compare=False)


class GGUFFile:
    """The metadata and tensors of one GGUF file, mapped into memory.

    Args:
        path: A little-endian GGUF file, version 2 or 3, or one piece of it.

    Raises:
        ConversionError: if it is not such a file, ends early, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size == 0:
            raise ConversionError(f"{path} is empty: download it again.")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(path, data)
        n_tensors, n_entries = _read_preamble(cursor)
        self.metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = cursor.string()
            if key in self.metadata:
                raise cursor.error(f"the metadata key {key!r} appears twice")
            self.metadata[key] = _read_value(cursor, cursor.integer(4))
        self.tensors = _read_tensors(cursor, n_tensors, self._alignment())

    def _alignment(self) -> int:
        alignment = self.get("general.alignment", int, GGUF_DEFAULT_ALIGNMENT)
        if not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            raise ConversionError(
                f"{self.path}: general.alignment is {alignment}, which is not a power of two up to "
                "65536. The file is damaged: download it again."
            )
        return alignment

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return the metadata value of ``key``.

        Args:
            key: The full key, such as ``"llama.block_count"``.
            kind: The type it must have: str, int, float, bool, list (of strings), numpy.ndarray.
            default: What to return where the file has no such key.

        Raises:
            ConversionError: if the key is missing and has no default, or is of another type.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise ConversionError(
                f"{self.path} does not state {key!r}, which its conversion needs. Use a GGUF "
                "written by a current llama.cpp."
            )
        if type(value) is not kind:
            raise ConversionError(
                f"{self.path}: {key!r} should be of type {kind.__name__}, but is {brief(value)}."
            )
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, outermost first.

        Raises:
            ConversionError: if the file has no such tensor.
        """
        if name not in self.tensors:
            raise ConversionError(
                f"{self.path} has no tensor {name!r}: it is incomplete, or is not a whole model."
            )
        return self.tensors[name].shape

    def blocks(self, name: str) -> np.ndarray:
        """Return a tensor as it is stored: uint8, each row's blocks one after the other.

        Raises:
            ConversionError: if the file has no such tensor.
        """
        shape = self.shape(name)
        info = self.tensors[name]
        raw = np.frombuffer(info.data, np.uint8, info.n_bytes, info.offset)
        return raw.reshape(*shape[:-1], -1)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as float32, dequantised.

        Raises:
            ConversionError: if it is missing, of a type that cannot be dequantised, or not finite.
        """
        raw, kind = self.blocks(name), self.tensors[name].type
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below, by name
                values = dequantize(raw, kind)
        except NotImplementedError as error:
            raise ConversionError(
                f"{self.path}: tensor {name!r} is of type {kind.name}, which cannot be "
                "dequantised. Use an F32, F16, BF16, Q4_0 to Q8_0, K-quant or I-quant file."
            ) from error
        if not np.isfinite(values).all():
            raise ConversionError(
                f"{self.path}: tensor {name!r} holds NaN or infinite weights. The file is "
                "damaged, or its quantisation failed: use another one."
            )
        return values.reshape(self.shape(name))


class _Cursor:
    """Reads the header front to back, never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def error(self, what: str) -> ConversionError:
        return ConversionError(
            f"{self.path}: {what} (near byte {self.position}). The file is damaged: download it "
            "again."
        )

    def check(self, n_bytes: int) -> None:
        """Raise unless this many bytes are left."""
        if n_bytes > len(self.data) - self.position:
            raise self.error(f"the file ends early, at byte {len(self.data)}")

    def take(self, n_bytes: int) -> bytes:
        self.check(n_bytes)
        self.position += n_bytes
        return self.data[self.position - n_bytes : self.position]

    def integer(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes), "little")

    def count(self, what: str, limit: int, n_bytes: int = 8) -> int:
        """Read a count, and refuse it above ``limit``."""
        value = self.integer(n_bytes)
        if value > limit:
            raise self.error(f"its header claims {value} {what}, the limit is {limit}")
        return value

    def string(self) -> str:
        raw = self.take(self.count("bytes in one string", MAX_STRING_BYTES))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"a string is not UTF-8 ({error})") from error


def _read_preamble(cursor: _Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of metadata entries."""
    magic = cursor.data[:4]
    if magic != b"GGUF":
        raise ConversionError(
            f"{cursor.path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'."
        )
    cursor.position = 4
    version = cursor.integer(4)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise ConversionError(
            f"{cursor.path} is a big-endian GGUF file: run gguf-convert-endian on it first."
            if swapped
            else f"{cursor.path} is GGUF version {version}; versions 2 and 3 can be read."
        )
    return cursor.count("tensors", MAX_ENTRIES), cursor.count("metadata entries", MAX_ENTRIES)


def _read_value(cursor: _Cursor, kind: int) -> Any:
    """Read one metadata value: a scalar, a string, a list of strings or a numeric array."""
    if kind == GGUFValueType.STRING:
        return cursor.string()
    if kind == GGUFValueType.ARRAY:
        kind = cursor.integer(4)
        length = cursor.count("entries in one array", MAX_ARRAY_LENGTH)
        if kind == GGUFValueType.STRING:
            cursor.check(8 * length)  # before the loop: each string has a length of 8 bytes
            return [cursor.string() for _ in range(length)]
        dtype = _scalar_type(cursor, kind)
        return np.frombuffer(cursor.take(length * dtype.itemsize), dtype)
    dtype = _scalar_type(cursor, kind)
    value = np.frombuffer(cursor.take(dtype.itemsize), dtype)[0]
    if dtype == np.float32 and not value.item().is_integer():
        return float(str(value))  # 1e-05 is meant, not the 9.999999747378752e-06 it widens to
    return value.item()


def _scalar_type(cursor: _Cursor, kind: int) -> np.dtype:
    if kind not in _SCALARS:
        raise cursor.error(f"{kind} is not a metadata value type that can be read here")
    return _SCALARS[GGUFValueType(kind)]


def _read_tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> dict[str, TensorInfo]:
    """Read the table of tensors and check that each lies in the file, on its own bytes."""
    entries = []
    for _ in range(n_tensors):
        name = cursor.string()
        sizes = [cursor.integer(8) for _ in range(cursor.count("dimensions", MAX_DIMENSIONS, 4))]
        entries.append((name, tuple(reversed(sizes)), cursor.integer(4), cursor.integer(8)))
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in entries:
        if name in tensors:
            raise cursor.error(f"the tensor {name!r} appears twice")
        if kind not in GGML_QUANT_SIZES:
            raise ConversionError(
                f"{cursor.path}: tensor {name!r} is of the unknown type {kind}. Known: "
                f"{', '.join(t.name for t in GGML_QUANT_SIZES)}. A newer gguf package may know it."
            )
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise cursor.error(f"tensor {name!r} has the impossible shape {shape}")
        n_bytes = prod(shape) // block * block_bytes
        if start + offset + n_bytes > len(cursor.data):
            raise ConversionError(
                f"{cursor.path} is truncated: tensor {name!r} ends at byte "
                f"{start + offset + n_bytes}, the file at {len(cursor.data)}. Download it again."
            )
        tensors[name] = TensorInfo(
            name, shape, GGMLQuantizationType(kind), start + offset, n_bytes, cursor.data
        )
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.error(f"tensors {before.name!r} and {after.name!r} overlap")
    return tensors


def brief(value: Any) -> str:
    """Show a value in an error message, however long it is."""
    text = repr(value)
    return f"{text[:60]}..." if len(text) > 63 else text
