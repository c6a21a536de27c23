"""GGUF files: what was written comes back, and what lies is refused."""

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import write_gguf

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.errors import ConversionError

SHARED_FOLDER = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALAR = (
    st.booleans()
    | st.integers(0, 2**32 - 1)
    | st.floats(width=32, allow_nan=False)
    | st.text(min_size=1, max_size=20)  # the writer leaves empty strings out
    | st.lists(st.text(max_size=5), min_size=1, max_size=5)
)


@SHARED_FOLDER
@given(metadata=st.dictionaries(st.from_regex(r"x\.[a-z]{1,8}", fullmatch=True), SCALAR))
def test_metadata_comes_back(tmp_path: Path, metadata: dict) -> None:
    file = GGUFFile(write_gguf(tmp_path / "m.gguf", metadata))
    assert file.metadata.pop("general.architecture") == "llama"
    assert file.metadata.keys() == metadata.keys()
    for key, value in metadata.items():
        read = file.get(key, type(value))
        assert np.float32(read) == np.float32(value) if type(value) is float else read == value


def step(values: np.ndarray, levels: int) -> np.ndarray:
    """The distance between two levels in each block of 32."""
    blocks = values.reshape(-1, 32)
    return np.repeat(np.ptp(blocks, axis=1) / levels, 32).reshape(values.shape)


def largest(values: np.ndarray) -> np.ndarray:
    """The largest magnitude in each block of 32."""
    return np.repeat(abs(values.reshape(-1, 32)).max(1), 32).reshape(values.shape)


# Half a step, and a little for the scale being a float16 itself; Q4_0 has no level for the far end.
ERROR_BOUNDS = {
    "F32": lambda x: np.zeros_like(x),
    "F16": lambda x: abs(x) * 2**-11 + 2**-25,
    "BF16": lambda x: abs(x) * 2**-8,
    "Q8_0": lambda x: largest(x) * (0.5 / 127 + 2**-10),
    "Q5_1": lambda x: step(x, 31) * 0.5 + largest(x) * 2**-9,
    "Q5_0": lambda x: largest(x) * (1 / 16 + 2**-9),
    "Q4_1": lambda x: step(x, 15) * 0.5 + largest(x) * 2**-9,
    "Q4_0": lambda x: largest(x) * (1 / 8 + 2**-9),
}


@pytest.mark.parametrize("kind", ERROR_BOUNDS)
def test_a_tensor_comes_back_within_the_error_of_its_type(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(24, 96)).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", {}, {"t": values}, GGMLQuantizationType[kind])
    error = abs(GGUFFile(path).read("t") - values)
    assert (error <= ERROR_BOUNDS[kind](values)).all()
    if kind != "F32":  # the bound is tight enough to tell a type from the next better one
        better = {"F16": "F32", "BF16": "F16", "Q8_0": "BF16", "Q5_1": "Q8_0", "Q5_0": "Q8_0"}
        assert (error > ERROR_BOUNDS[better.get(kind, "Q5_1")](values)).any()


def can_dequantise(kind: GGMLQuantizationType) -> bool:
    """Say whether the gguf package turns blocks of a type back into numbers."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


BLOCK_TYPES = [kind for kind, (size, _) in GGML_QUANT_SIZES.items() if size > 1]
DEQUANTISED = [kind for kind in BLOCK_TYPES if can_dequantise(kind)]


def random_blocks(kind: GGMLQuantizationType, n_rows: int, n_columns: int) -> np.ndarray:
    """Rows of random blocks of a type, those left out whose numbers are not finite, or large."""
    size, n_bytes = GGML_QUANT_SIZES[kind]
    random, wanted = np.random.default_rng(int(kind)), n_rows * n_columns // size
    found = np.empty((0, n_bytes), np.uint8)
    while len(found) < wanted:
        blocks = random.integers(0, 256, (4 * wanted, n_bytes), np.uint8)
        with np.errstate(all="ignore"):
            values = dequantize(blocks, kind)
            found = np.concatenate([found, blocks[(abs(values) < 100).all(axis=1)]])
    return found[:wanted].reshape(n_rows, -1)


def write_blocks(path: Path, blocks: np.ndarray, kind: GGMLQuantizationType) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
def test_blocks_of_every_type_come_back(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    blocks = random_blocks(kind, 6, 512)
    file = GGUFFile(write_blocks(tmp_path / "m.gguf", blocks, kind))
    assert file.shape("t") == (6, 512)
    assert np.array_equal(file.blocks("t"), blocks)
    values = file.read("t")
    assert np.array_equal(values, dequantize(blocks, kind).reshape(6, 512))
    assert len(np.unique(values)) > 10


@pytest.mark.parametrize(
    "kind", sorted(set(BLOCK_TYPES) - set(DEQUANTISED)), ids=lambda kind: kind.name
)
def test_other_blocks_are_refused(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    blocks = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
    with pytest.raises(ConversionError, match=f"type {kind.name}, which cannot be dequantised"):
        GGUFFile(write_blocks(tmp_path / "m.gguf", blocks, kind)).read("t")


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


# One block of each that the package cannot write, spelt as ggml-common.h has it, and the numbers
# that the comments there give: d is 0.5, minimum and scales are told apart.
KNOWN = {
    "Q2_K": (bytes([0x21] * 16) + bytes([0b11100100] * 64) + half(0.5) + half(0.25), {0: 0 - 0.5}),
    "Q3_K": (bytes([0xFF] * 32) + bytes([0b00000001] * 64) + bytes(12) + half(0.5), {0: -16.0}),
    "Q4_K": (
        half(0.5) + half(0.25) + bytes([3] * 4 + [2] * 4 + [0] * 4) + bytes([0x5A] * 128),
        {
            0: 0.5 * 3 * 0xA - 0.25 * 2,
            32: 0.5 * 3 * 0x5 - 0.25 * 2,
        },
    ),
    "Q5_K": (
        half(0.5)
        + half(0.25)
        + bytes([3] * 4 + [2] * 4 + [0] * 4)
        + bytes([1] * 32)
        + bytes([0x5A] * 128),
        {0: 0.5 * 3 * (0xA + 16) - 0.25 * 2, 32: 0.5 * 3 * 0x5 - 0.25 * 2},
    ),
    "Q6_K": (
        bytes([0x5A] * 128) + bytes([0b11] * 64) + bytes([2] * 16) + half(0.5),
        {
            0: 0.5 * 2 * (0xA + 48 - 32),
            64: 0.5 * 2 * (0x5 - 32),
        },
    ),
    "IQ4_NL": (half(0.5) + bytes([0x0F] * 16), {0: 0.5 * 113, 16: 0.5 * -127}),
    "IQ4_XS": (
        half(0.5) + bytes(2) + bytes(4) + bytes([0x0F] * 128),
        {
            0: 0.5 * -32 * 113,
            16: 0.5 * -32 * -127,
        },
    ),
    "TQ2_0": (bytes([0b00100100] * 64) + half(0.5), {0: -0.5, 32: 0.0, 64: 0.5, 96: -0.5}),
    "MXFP4": (bytes([128]) + bytes([0x1F] * 16), {0: -12.0, 16: 1.0}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_block_is_read(tmp_path: Path, name: str) -> None:
    block, expected = KNOWN[name]
    kind = GGMLQuantizationType[name]
    path = write_blocks(tmp_path / "m.gguf", np.frombuffer(block, np.uint8)[None], kind)
    values = GGUFFile(path).read("t")[0]
    assert {at: values[at] for at in expected} == pytest.approx(expected)


def with_type(path: Path, kind: int) -> Path:
    """Give the tensor named ``t`` of a file another type."""
    data = path.read_bytes()
    at = data.index(struct.pack("<Q", 1) + b"t") + 8 + 1 + 4 + 2 * 8
    path.write_bytes(data[:at] + struct.pack("<I", kind) + data[at + 4 :])
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file with a few entries and one tensor."""
    metadata = {"x.text": "hé", "x.list": ["a", "bc"], "x.numbers": [1, 2, 3], "x.real": 0.1}
    return write_gguf(tmp_path / "small.gguf", metadata, {"t": np.ones((2, 4), np.float32)})


def test_a_type_that_cannot_be_read_is_named(small: Path) -> None:
    with pytest.raises(ConversionError, match="type I32, which cannot be dequantised"):
        GGUFFile(with_type(small, GGMLQuantizationType.I32)).read("t")
    with pytest.raises(ConversionError, match="unknown type 9999"):
        GGUFFile(with_type(small, 9999))
    assert GGUFFile(with_type(small, GGMLQuantizationType.F32)).read("t").shape == (2, 4)


def test_a_file_cut_anywhere_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    last = GGUFFile(small).tensors["t"]
    end = last.offset + last.n_bytes
    for length in range(end):
        small.write_bytes(whole[:length])
        with pytest.raises(ConversionError):
            GGUFFile(small)
    small.write_bytes(whole[:end])
    assert GGUFFile(small).read("t").sum() == 8


HUGE = struct.pack("<Q", 2**60)


def header(n_tensors: bytes, n_entries: bytes, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<I", version) + n_tensors + n_entries + rest


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


NONE, ONE = struct.pack("<Q", 0), struct.pack("<Q", 1)
LIES = {
    "tensors": header(HUGE, NONE),
    "entries": header(NONE, HUGE),
    "a key": header(NONE, ONE, HUGE + b"x" * 64),
    "a string": header(NONE, ONE, string(b"k") + struct.pack("<I", 8) + HUGE + b"x" * 64),
    "an array": header(NONE, ONE, string(b"k") + struct.pack("<II", 9, 0) + HUGE + b"x" * 64),
    "an array of strings": header(NONE, ONE, string(b"k") + struct.pack("<IIQ", 9, 8, 1 << 22)),
    "a long string": header(NONE, ONE, struct.pack("<Q", (1 << 22) + 1)),
    "an array of arrays": header(NONE, ONE, string(b"k") + struct.pack("<IIQ", 9, 9, 1)),
    "a value type": header(NONE, ONE, string(b"k") + struct.pack("<I", 77) + b"x" * 64),
    "dimensions": header(ONE, NONE, string(b"t") + struct.pack("<I", 2**31) + b"x" * 64),
    "a tensor": header(
        ONE, NONE, string(b"t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0) + b"x" * 64
    ),
    "an empty tensor": header(
        ONE, NONE, string(b"t") + struct.pack("<IQQIQ", 2, 0, 4, 0, 0) + b"x" * 64
    ),
    "an offset": header(ONE, NONE, string(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**63) + b"x" * 64),
    "text that is not UTF-8": header(NONE, ONE, string(b"\xff\xfe") + b"x" * 64),
    "the version": header(NONE, NONE, version=1),
    "the byte order": header(NONE, NONE, version=3 << 24),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_without_work(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[lie])
    os.truncate(path, 1 << 24)  # with room for those lies that are merely large
    tracemalloc.start()
    try:
        with pytest.raises(ConversionError, match=str(path)):
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_honest_header_of_the_same_make_is_read(tmp_path: Path) -> None:
    path = tmp_path / "honest.gguf"
    path.write_bytes(header(NONE, ONE, string(b"k") + struct.pack("<IIQ", 9, 0, 2) + b"\1\2"))
    assert GGUFFile(path).get("k", np.ndarray).tolist() == [1, 2]


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + b"x" * 40, b"GG"])
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"is empty|is not a GGUF file"):
        GGUFFile(path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (string(b"x.numbers"), string(b"x.numberx"), None),
        (string(b"x.list"), string(b"x.text"), "'x.text' appears twice"),
    ],
)
def test_a_key_twice_is_refused(small: Path, old: bytes, new: bytes, complaint: str | None) -> None:
    small.write_bytes(small.read_bytes().replace(old, new))
    if complaint is None:
        assert "x.numberx" in GGUFFile(small).metadata
    else:
        with pytest.raises(ConversionError, match=complaint):
            GGUFFile(small)


@pytest.mark.parametrize("name", [b"t", b"u"])
def test_tensors_that_share_a_name_or_bytes_are_refused(tmp_path: Path, name: bytes) -> None:
    entry = struct.pack("<IQIQ", 1, 4, 0, 0)
    table = string(b"t") + entry + string(name) + entry
    path = tmp_path / "overlap.gguf"
    path.write_bytes(header(struct.pack("<Q", 2), NONE, table + b"\0" * 64))
    with pytest.raises(ConversionError, match="appears twice" if name == b"t" else "overlap"):
        GGUFFile(path)
