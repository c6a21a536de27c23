"""Pairs come out as they were written, or an error names file and line."""

import gzip
import json
import lzma
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.pairs import MAX_LINE_CHARS, Pair, PairKeys, read_pairs

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
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
        (".jsonl", "{", "no JSON"),
        (".jsonl", "[" * 100_000, "long|nested"),
        (".jsonl", '["a", "b"]', "no key 'source'"),
        (".jsonl", '{"source": "a"}', "no key 'target' here, only"),
        (".jsonl", '{"source": "a", "target": 3}', "the target is no text but int"),
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


@pytest.mark.parametrize("packed", [".gz", ".xz"])
def test_a_file_cut_short_is_told(folder, packed):
    path = write(folder, f"whole.tsv{packed}", "a\tb\n" * 5000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
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
    with pytest.raises(DataError, match="row 2: the target is no text"):
        next(stream)


def test_without_the_package_a_dataset_is_no_silent_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidOptionError, match=r"pip install mlx-simul\[train\]"):
        next(read_pairs("someone/pairs"))
