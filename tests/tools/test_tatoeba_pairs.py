"""The helper that makes pairs of Tatoeba's exports: joined, once each, split by the source."""

import bz2
import sys

import pytest
from repository import tool_module

from mlx_simul.evaluation.pairs import read_pairs

N = 600


@pytest.fixture
def tool():
    return tool_module("tatoeba_pairs")


def write(path, rows):
    with bz2.open(path, "wt", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    """Exports as they are fetched: sentence i has two translations, but for some oddities."""
    long = "word " * 61
    english = [(f"{i}", "eng", f"Sentence {i}.") for i in range(N)]
    english += [("9000", "eng", "Sentence 0."), ("9001", "eng", long), ("9002", "eng", " ")]
    french = [(f"{1000 + i}", "fra", f"Phrase\u00a0{i % N} {i // N}\t!") for i in range(2 * N)]
    links = [(f"{i % N}", f"{1000 + i}") for i in range(2 * N)]
    links += [("9000", "1000"), ("9001", "1001"), ("9002", "1001"), ("1", "77"), ("1",)]
    write(tmp_path / "eng_sentences.tsv.bz2", english)
    write(tmp_path / "fra_sentences.tsv.bz2", french)
    write(tmp_path / "eng-fra_links.tsv.bz2", links)
    return tmp_path


def test_the_files_it_writes_are_read_by_train_and_split_by_source(
    tool, folder, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["tatoeba_pairs.py", str(folder)])
    assert tool.main() == 0
    train = list(read_pairs(folder / "train.tsv.gz"))
    valid = list(read_pairs(folder / "valid.tsv"))
    assert f"{len(train):,} pairs to train on, {len(valid):,} for" in capsys.readouterr().out
    assert len({*train, *valid}) == len(train) + len(valid) == 2 * N
    sources = [{pair.source for pair in side} for side in (train, valid)]
    assert not sources[0] & sources[1]
    assert sources[0] | sources[1] == {f"Sentence {i}." for i in range(N)}
    assert 0 < len(sources[1]) < 0.05 * N
    pair = next(pair for pair in (*train, *valid) if pair.source == "Sentence 3.")
    assert pair.target == "Phrase\u00a03 0 !"
    assert tool.main() == 0
    assert list(read_pairs(folder / "train.tsv.gz")) == train
    assert list(read_pairs(folder / "valid.tsv")) == valid


def test_what_is_missing_is_fetched_from_tatoeba_and_kept_whole(tool, folder, monkeypatch):
    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(tool.urllib.request, "urlopen", refuse)
    list(tool.pairs(folder, "eng", "fra"))
    assert not asked
    (folder / "eng-fra_links.tsv.bz2").unlink()
    with pytest.raises(OSError, match="no network"):
        list(tool.pairs(folder, "eng", "fra"))
    exports = "https://downloads.tatoeba.org/exports/per_language"
    assert asked == [f"{exports}/eng/eng-fra_links.tsv.bz2"]
    assert not (folder / "eng-fra_links.tsv.bz2").exists()
