"""Talks: read from any kind of file, cut from a test set, and when each word is said."""

import json
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.talks import Sentence, Talk, read_talks, talk_at_pace
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.speech import speech

ITEMS = [Item("one two", ("un deux",)), Item("three", ("trois",)), Item("four five", ("4 5",))]
TALKS = [ITEMS[:2], ITEMS[2:]]

parts = st.sampled_from(
    ["word", "1.5", "l'hôtel", "\u0301a", "猫は家で。", "手機", "ไทย", "「", "?"]
)
sources = st.lists(parts, min_size=1, max_size=5).map(" ".join)


def write(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def items_of(talks):
    return [[Item(s.source, s.references) for s in talk.sentences] for talk in talks]


def words_of(source):
    segmenter = SourceSegmenter()
    return [word.strip() for word in (*segmenter.feed(source), *segmenter.finish())]


# Reading


def test_blank_lines_end_talks_in_any_kind_of_file(tmp_path):
    rows = [f"{item.source}\t{item.references[0]}" for item in ITEMS]
    tsv = write(tmp_path / "a.tsv", "", *rows[:2], "", " ", rows[2], "")
    records = [json.dumps({"source": i.source, "target": list(i.references)}) for i in ITEMS]
    jsonl = write(tmp_path / "a.jsonl", *records[:2], "", *records[2:])
    source = write(tmp_path / "a.txt", "one two", "three", "", "four five")
    reference = write(tmp_path / "b.txt", "un deux", "trois", "", "4 5")
    for talks in (read_talks(tsv), read_talks(jsonl), read_talks(source, [reference])):
        assert items_of(talks) == TALKS
        assert talks == [talk_at_pace(items, 400) for items in TALKS]


def test_several_references(tmp_path):
    record = {"source": "one", "target": ["un", "une"]}
    jsonl = write(tmp_path / "a.jsonl", json.dumps(record))
    source = write(tmp_path / "a.txt", "one")
    references = [write(tmp_path / "b.txt", "un"), write(tmp_path / "c.txt", "une")]
    for talks in (read_talks(jsonl), read_talks(source, references)):
        assert items_of(talks) == [[Item("one", ("un", "une"))]]


def test_equal_sentences_of_a_talk_stay_apart(tmp_path):
    tsv = write(tmp_path / "a.tsv", "yes\toui", "no\tnon", "yes\tsi")
    assert [s.source for s in read_talks(tsv)[0].sentences] == ["yes", "no", "yes"]
    # In an ordinary test set they are references of one source.
    (talk,) = read_talks(tsv, sentences_per_talk=9)
    assert talk.sentences[0].references == ("oui", "si")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_a_test_set_is_cut_into_talks(tmp_path, n):
    rows = [f"source {i}\tcible {i}" for i in range(7)]
    talks = read_talks(write(tmp_path / "a.tsv", *rows), sentences_per_talk=n)
    assert [s.source for talk in talks for s in talk.sentences] == [f"source {i}" for i in range(7)]
    sizes = [len(talk.sentences) for talk in talks]
    assert set(sizes[:-1]) <= {n} and 1 <= sizes[-1] <= n


def test_times_are_taken_from_the_file(tmp_path):
    rows = [
        {"source": "one two", "target": "un deux", "said_ms": [300, 700.5]},
        {"source": "three", "target": "trois", "start_ms": 1500, "said_ms": [1900]},
    ]
    (talk,) = read_talks(write(tmp_path / "a.jsonl", *map(json.dumps, rows)))
    assert talk.said_ms == (300, 700.5, 1900)
    assert [s.start_ms for s in talk.sentences] == [0, 1500]
    assert [s.duration_ms for s in talk.sentences] == [700.5, 400]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"said_ms": [1]}], "sentence 1 .* has 2 words and times for 1"),
        ([{"said_ms": [2, 1]}], "times that decrease"),
        ([{"said_ms": [1, -1]}], "line 1 has"),
        ([{"said_ms": [1, True]}], "line 1 has"),
        ([{"said_ms": "1 2"}], "line 1 has"),
        ([{"said_ms": [1, float("inf")]}], "line 1 has"),
        ([{"said_ms": [5, 6], "start_ms": 6}], "times that decrease"),
        ([{"said_ms": [6, 6], "start_ms": 6}], "takes no time"),
        ([{"said_ms": [1, 2]}, {}], "line 2 has start_ms .* or give none"),
        ([{"said_ms": [1, 2]}, {"said_ms": [3, 4], "start_ms": 1}], "times that decrease"),
    ],
)
def test_times_that_do_not_fit_are_refused(tmp_path, rows, says):
    lines = [json.dumps({"source": "one two", "target": "un deux"} | row) for row in rows]
    with pytest.raises(DataError, match=f"a.jsonl, lines 1 to .*{says}"):
        read_talks(write(tmp_path / "a.jsonl", *lines))


def test_files_with_other_blank_lines_are_refused(tmp_path):
    source = write(tmp_path / "a.txt", "one", "", "two")
    with pytest.raises(DataError, match=r"line 2 is blank in only one"):
        read_talks(source, [write(tmp_path / "b.txt", "un", "x", "deux")])
    with pytest.raises(DataError, match=r"line 3 is blank in only one"):
        read_talks(source, [write(tmp_path / "b.txt", "un")])


def test_what_is_not_a_talk_is_refused(tmp_path):
    empty = write(tmp_path / "a.tsv", "", "")
    with pytest.raises(DataError, match="holds no sentences"):
        read_talks(empty)
    with pytest.raises(InvalidOptionError, match=r"there is no file .*sentences_per_talk"):
        read_talks(tmp_path / "b.tsv")
    with pytest.raises(InvalidOptionError, match="sentences_per_talk must be at least 1, got 0"):
        read_talks(empty, sentences_per_talk=0)
    with pytest.raises(InvalidOptionError, match="word_ms must be a number above 0, got nan"):
        talk_at_pace(ITEMS, float("nan"))
    with pytest.raises(DataError, match="without sentences"):
        Talk(())
    with pytest.raises(DataError, match="has no references"):
        Talk((Sentence("one", (), 0, (1,)),))


# Times


@given(st.lists(sources, min_size=1, max_size=4))
def test_a_talk_has_the_words_that_a_session_reads(given_sources):
    talk = talk_at_pace([Item(source, ("x",)) for source in given_sources])
    words = words_of(talk.source)
    assert words == [word for source in given_sources for word in words_of(source)]
    assert len(talk.said_ms) == len(words)
    assert len(talk.said) == len(words) + 1


@given(st.lists(sources, min_size=1, max_size=4), st.floats(1, 1000))
def test_at_a_pace_each_word_takes_its_time(given_sources, word_ms):
    talk = talk_at_pace([Item(source, ("x",)) for source in given_sources], word_ms)
    takes = [later - earlier for earlier, later in pairwise((0.0, *talk.said_ms))]
    for word, took in zip(words_of(talk.source), takes, strict=True):
        assert took == pytest.approx(float(speech(word) * Fraction(word_ms)), abs=1e-6)
    assert talk.said_ms[-1] == pytest.approx(float(speech(talk.source)) * word_ms)
    for before, after in pairwise(talk.sentences):
        assert after.start_ms == before.said_ms[-1]
