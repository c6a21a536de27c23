"""Target text in units: the same whatever pieces it came in, as SimulEval would cut it."""

from itertools import pairwise

import pytest
from article_one import ARTICLE
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import DataError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.figures import policy_figures
from mlx_simul.evaluation.logs import omnisteval_line, simuleval_line
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.units import (
    Units,
    bleu_tokenizer_of,
    reference_length,
    said_by,
    target_units,
    unit_of,
)
from mlx_simul.text.segmenter import SourceSegmenter

texts = st.text(st.sampled_from("ab.é猫 \n\u00a0"), max_size=20)


@st.composite
def in_pieces(draw):
    """A text in pieces, with a delay and a time that never fall."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    bounds = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in pairwise(bounds)]
    delays = sorted(draw(st.lists(st.integers(1, 9), min_size=len(parts), max_size=len(parts))))
    return text, [(part, delay, 10.0 * delay) for part, delay in zip(parts, delays, strict=True)]


def delay_of_char(pieces, at):
    for part, delay, _ in pieces:
        if at < len(part):
            return delay
        at -= len(part)
    raise AssertionError("no such character")


@given(in_pieces())
def test_words_are_what_stands_between_white_space(given_text):
    text, pieces = given_text
    units = target_units(pieces, "word")
    assert list(units.texts) == text.split()
    assert len(units.delays) == len(units.times_ms) == len(units.texts)


@given(in_pieces())
def test_characters_are_all_but_white_space(given_text):
    text, pieces = given_text
    units = target_units(pieces, "char")
    assert "".join(units.texts) == "".join(text.split())
    assert all(len(each) == 1 for each in units.texts)


@given(in_pieces())
def test_a_unit_is_as_late_as_its_last_character(given_text):
    text, pieces = given_text
    units = target_units(pieces, "word")
    at = 0
    for word, delay, time_ms in zip(units.texts, units.delays, units.times_ms, strict=True):
        at = text.index(word, at) + len(word)
        assert delay == delay_of_char(pieces, at - 1)
        assert time_ms == 10.0 * delay


def test_a_number_is_one_word_though_the_loop_writes_two():
    pieces = [("Il", 1, 1.0), (" a", 2, 2.0), (" 1.", 3, 3.0), ("5", 4, 4.0), (" kg.", 5, 5.0)]
    assert target_units(pieces, "word") == Units(
        ("Il", "a", "1.5", "kg."), (1, 2, 4, 5), (1.0, 2.0, 4.0, 5.0)
    )


def test_nothing_written_has_no_units():
    assert target_units([], "word") == target_units([(" ", 1, 1.0)], "char") == Units((), (), ())


def test_references_are_counted_as_simuleval_counts_them():
    # Only spaces divide a reference, although any white space divides what was written.
    assert reference_length("un\u00a0travail\u00a0?", "word") == 1
    assert reference_length("un travail ?", "word") == 3
    assert reference_length(" 猫が いる。", "char") == 6


def test_a_word_that_shows_nothing_is_no_unit():
    pieces = [("un", 1, 1.0), (" \u200b ", 2, 2.0), (" deux", 3, 3.0)]
    assert target_units(pieces, "word").texts == ("un", "deux")


@pytest.mark.parametrize(
    ("language", "unit", "tokenizer"),
    [
        *[(each, "word", "13a") for each in ("English", "Russian", "Arabic", "Hindi", "Korean")],
        ("Chinese", "char", "zh"),
        *[(each, "char", "char") for each in ("Japanese", "Thai", "Lao", "Khmer", "Burmese")],
        *[(each, "char", "char") for each in ("Tibetan", "Javanese")],
    ],
)
def test_the_unit_and_the_tokenizer_follow_the_script(language, unit, tokenizer):
    references = [ARTICLE[language], "OK"]
    assert (unit_of(references), bleu_tokenizer_of(references)) == (unit, tokenizer)
    options = EvaluationOptions("corpus.tsv", "folder").suited_to(references)
    assert (options.known_unit, options.bleu_tokenizer) == (unit, tokenizer)
    told = EvaluationOptions("corpus.tsv", "folder", unit="word", bleu_tokenizer="13a")
    assert told.suited_to(references) == told


def test_a_unit_that_is_not_chosen_yet_is_refused():
    with pytest.raises(ValueError, match="suited_to"):
        _ = EvaluationOptions("corpus.tsv", "folder").known_unit


def steady(language):
    """A record of a source at the pace of its words, of which a target unit comes with each."""
    source = ARTICLE[language]
    n_words = len(said_by(source)) - 1
    segmenter = SourceSegmenter()
    words = [*segmenter.feed(source), *segmenter.finish()]
    pieces = [(word, i + 1, 10.0 * i + 5) for i, word in enumerate(words)]
    units = target_units(pieces, unit_of([source]))
    fed = tuple(10.0 * i for i in range(n_words))
    times = units.delays, units.times_ms, fed, 10.0 * n_words
    return Item(source, (source,)), Record(0, source, n_words, *times, n_words, n_words, "max")


# Tibetan and Javanese sources are read in phrases: what stands between spaces.
@pytest.mark.parametrize(
    "language", [each for each in ARTICLE if each not in ("Tibetan", "Javanese")]
)
def test_what_keeps_pace_lags_by_as_much_in_any_script(language):
    """Behind by a word or two of speech, whatever the script and however many units it has."""
    item, record = steady(language)
    figures = policy_figures([item], [record], unit_of([item.source]), 400.0)
    assert 0 < figures["latency"]["laal"] < 3
    said = said_by(item.source)
    assert simuleval_line(item, record, 400.0)["source_length"] == said[-1]
    assert omnisteval_line(item, record, 400.0)["delays"][-1] == said[-1] * 400.0
    # The whole text at a speaker's pace takes as long as that much English.
    assert 0.6 * 30 * 400 < omnisteval_line(item, record, 400.0)["elapsed"][-1] < 1.7 * 30 * 400
    assert figures["ends"] == {"max": 1}


def test_where_there_are_spaces_a_word_is_a_word():
    assert said_by("Good morning, how are you?") == (0, 1, 2, 3, 4, 5)
    assert said_by("") == (0,)


def test_a_record_of_other_words_is_refused():
    item, record = steady("English")
    with pytest.raises(DataError, match="translated as 30 words and has 2 here"):
        policy_figures([Item("two words", item.references)], [record], "word", 400.0)
