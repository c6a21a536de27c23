"""Test sets: pairs grouped by source, aligned text files, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import DataError
from mlx_simul.evaluation.corpus import Item, corpus_digest, group_by_source, read_corpus
from mlx_simul.evaluation.pairs import Pair

pairs = st.lists(st.builds(Pair, st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1)


@given(pairs)
def test_every_translation_is_a_reference_of_its_source(given_pairs):
    items = group_by_source(given_pairs)
    assert len({item.source for item in items}) == len(items)
    assert [item.source for item in items] == list(dict.fromkeys(p.source for p in given_pairs))
    for item in items:
        assert item.references == tuple(p.target for p in given_pairs if p.source == item.source)


def write(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def test_the_same_set_from_any_kind_of_file(tmp_path):
    wanted = [Item("one", ("un", "une")), Item("two", ("deux", "2"))]
    tsv = write(tmp_path / "set.tsv", "one\tun", "two\tdeux", "one\tune", "two\t2")
    listed = [{"source": i.source, "target": list(i.references)} for i in wanted]
    jsonl = write(tmp_path / "set.jsonl", *map(json.dumps, listed))
    source = write(tmp_path / "source.en", "one", "two")
    references = [write(tmp_path / "a.fr", "un", "deux"), write(tmp_path / "b.fr", "une", "2")]
    read = [read_corpus(tsv), read_corpus(jsonl), read_corpus(source, references)]
    assert read == [wanted] * 3
    assert len({corpus_digest(items) for items in read}) == 1
    assert corpus_digest(wanted[:1]) != corpus_digest(wanted)
    assert read_corpus(tsv, n_sources=1) == wanted[:1]


def test_aligned_files_keep_equal_sources_apart(tmp_path):
    source = write(tmp_path / "source.en", "one", "one")
    reference = write(tmp_path / "a.fr", "un", "une")
    assert read_corpus(source, [reference]) == [Item("one", ("un",)), Item("one", ("une",))]


@pytest.mark.parametrize(
    ("source", "reference", "says"),
    [
        (["one", "two"], ["un"], "has 2 lines and .* 1"),
        (["one", "", "two"], ["un", "deux"], "line 2 is empty"),
        (["one", "\u200b", "two"], ["un", "deux", "trois"], "line 2 is empty"),
        (["one"], ["\ufeff \t"], "has 1 lines and .* 0"),
    ],
)
def test_files_that_are_not_aligned_are_refused(tmp_path, source, reference, says):
    with pytest.raises(DataError, match=says):
        read_corpus(write(tmp_path / "s.en", *source), [write(tmp_path / "r.fr", *reference)])


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no sentences"):
        read_corpus(write(tmp_path / "set.tsv"))


@pytest.mark.parametrize("target", [[], ["oui", 3], ["oui", " "]])
def test_a_list_of_targets_is_checked(tmp_path, target):
    path = write(tmp_path / "set.jsonl", json.dumps({"source": "yes", "target": target}))
    says = r"line 1: the (list of targets|target) is (empty|not a text)"
    with pytest.raises(DataError, match=says):
        read_corpus(path)
