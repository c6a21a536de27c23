"""Pairs come out as they were written, or an error names file and line."""

import bz2
import gzip
import json
import lzma
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.pairs import MAX_LINE_CHARS, Pair, PairKeys, read_pairs

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
PAIRS = st.lists(st.builds(Pair, TEXTS, TEXTS), max_size=6)


def as_line(pair: Pair, kind: str) -> str:
    if kind == ".tsv":
        return f"{pair.source}\t{pair.target}"
    return json.dumps({"source": pair.source, "target": pair.target})


def write(folder, name: str, text: str):
    path = folder / name
    with OPENERS.get(path.suffix, open)(path, mode="wt", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.mark.parametrize("kind", [".jsonl", ".tsv"])
@pytest.mark.parametrize("packed", OPENERS)
@settings(max_examples=25)
@given(pairs=PAIRS, ending=st.sampled_from(["\n", "\r\n", "\n\n"]), cut=st.booleans())
def test_what_was_written_is_read(folder, kind, packed, pairs, ending, cut):
    text = "".join(as_line(pair, kind) + ending for pair in pairs)
    path = write(folder, f"data{kind}{packed}", text.rstrip() if cut else text)
    assert list(read_pairs(path)) == pairs


@pytest.mark.parametrize(
    ("kind", "bad", "says"),
    [
        (".tsv", "one column", "1 columns"),
        (".tsv", "a\tb\tc", "3 columns"),
        (".tsv", "a\t \t"[:3], "the target is empty"),
        (".jsonl", "{", "not JSON"),
        (".jsonl", "[" * 100_000, "long|nested"),
        (".jsonl", '["a", "b"]', "no key 'source'"),
        (".jsonl", '{"source": "a"}', "no key 'target' here, only"),
        (".jsonl", '{"source": "a", "target": 3}', "the target is not a text but int"),
        (".jsonl", '{"source": "", "target": "b"}', "the source is empty"),
        (".jsonl", '{"source": "\u200b", "target": "b"}', "the source is empty"),
        (".tsv", "a\t\ufe0f\u00ad", "the target is empty"),
        (".jsonl", '{"source": "\\ud800", "target": "b"}', "half a character"),
    ],
)
@given(n_before=st.integers(0, 4))
@settings(max_examples=5)
def test_a_bad_line_is_named(folder, kind, bad, says, n_before):
    good = as_line(Pair("a", "b"), kind)
    path = write(folder, f"bad{kind}", "\n".join([good] * n_before + [bad, good]))
    with pytest.raises(DataError, match=f"line {n_before + 1}: .*({says})"):
        list(read_pairs(path))


def test_a_line_is_read_only_as_far_as_is_allowed(folder):
    path = write(folder, "long.tsv.gz", "a\tb\n" + "x" * (MAX_LINE_CHARS * 50))
    with pytest.raises(DataError, match="line 2: longer than"):
        list(read_pairs(path))
    fits = "x" * (MAX_LINE_CHARS - 2)
    path = write(folder, "fits.tsv", f"a\t{fits}")
    assert list(read_pairs(path)) == [Pair("a", fits)]


@pytest.mark.parametrize("packed", [".gz", ".xz", ".bz2"])
@given(data=st.data())
@settings(max_examples=30)
def test_a_damaged_file_is_told(folder, packed, data):
    """Cut short, or with a byte that is another one: the error is ours, wherever it is."""
    rows = [f"source {i}\ttarget {i * i}" for i in range(300)]
    path = write(folder, f"whole.tsv{packed}", "\n".join(rows))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    is_cut = data.draw(st.booleans())
    other = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(whole[:at] if is_cut else whole[:at] + other + whole[at + 1 :])
    try:
        read = list(read_pairs(path))
    except DataError as error:
        assert str(path) in str(error)
    else:
        # Nothing at all is an empty file to all three, and some bytes say when and by whom.
        assert not read or len(read) == len(rows)


@pytest.mark.parametrize("packed", ["", ".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("kind", [".tsv", ".jsonl"])
def test_a_folder_or_other_bytes_under_such_a_name_are_told(folder, kind, packed):
    path = folder / f"folder{kind}{packed}"
    path.mkdir()
    with pytest.raises(DataError, match="directory"):
        list(read_pairs(path))
    path = folder / f"other{kind}{packed}"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match=r"cannot be read|not UTF-8"):
        list(read_pairs(path))


@pytest.mark.parametrize("number", [1, 2, 150, 3000])
def test_the_line_with_a_bad_byte_is_named(folder, number):
    rows = [b"source\ttarget"] * 4000
    for bad, says in ((b"caf\xe9\tbad", r"not UTF-8: .* b'\\xe9'"), (b"a\0b\tc", "zero byte")):
        rows[number - 1] = bad
        for packed, pack in (("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)):
            path = folder / f"bad.tsv{packed}"
            path.write_bytes(pack(b"\n".join(rows)))
            with pytest.raises(DataError, match=f"line {number}: .*{says}"):
                list(read_pairs(path))


def test_utf16_is_told(folder):
    path = folder / "wide.tsv"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_bytes("yes\toui\n".encode(encoding))
        with pytest.raises(DataError, match=r"line 1: .*UTF-8"):
            list(read_pairs(path))


def test_a_line_is_counted_in_characters(folder):
    fits = "字" * (MAX_LINE_CHARS - 3)  # with a line break behind it
    path = write(folder, "fits.tsv", f"a\t{fits}\nb\tc")
    assert list(read_pairs(path)) == [Pair("a", fits), Pair("b", "c")]
    for beyond in ("字字", "字" * MAX_LINE_CHARS * 3, "x" * MAX_LINE_CHARS * 5):
        path = write(folder, "beyond.tsv", f"a\tb\na\t{fits}{beyond}")
        with pytest.raises(DataError, match="line 2: longer than"):
            list(read_pairs(path))


def test_other_text_encodings_are_told(folder):
    path = folder / "latin.tsv"
    path.write_bytes("un\tété\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        list(read_pairs(path))


def test_keys_may_be_nested(folder):
    record = json.dumps({"translation": {"en": "yes", "fr": "oui"}})
    path = write(folder, "nested.jsonl", record)
    keys = PairKeys("translation.en", "translation.fr")
    assert list(read_pairs(path, keys)) == [Pair("yes", "oui")]


def test_a_file_of_another_kind_is_refused(folder):
    path = write(folder, "data.csv", "a,b")
    with pytest.raises(DataError, match=r"neither JSON lines .* nor TSV"):
        list(read_pairs(path))


def test_a_missing_file_is_told_as_such(folder):
    with pytest.raises(InvalidOptionError, match=r"^there is no file .*missing\.tsv;"):
        list(read_pairs(folder / "missing.tsv"))


def test_what_is_no_file_is_taken_for_a_dataset(monkeypatch):
    class Datasets:
        @staticmethod
        def load_dataset(name, split):
            assert (name, split) == ("someone/pairs", "test")
            return [{"source": "yes", "target": "oui"}, {"source": "no", "target": None}]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    stream = read_pairs("someone/pairs", split="test")
    assert next(stream) == Pair("yes", "oui")
    with pytest.raises(DataError, match="row 2: the target is not a text"):
        next(stream)


def test_without_the_package_a_dataset_is_no_silent_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidOptionError, match=r"pip install mlx-simul\[train\]"):
        next(read_pairs("someone/pairs"))
