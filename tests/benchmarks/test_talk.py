"""The talk of a day, in small: a stream's age changes neither what it writes nor what it holds."""

import random
from functools import partial
from importlib import import_module

import pytest
from repository import ROOT
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.events import TurnEnd

OPTIONS = {
    "policy": "wait-k:3",
    "source_language": "English",
    "target_language": "French",
    "max_target_source_ratio": 1.0,
    "max_tokens_per_word": 3,
}
WORDS_AN_HOUR = 60
N_HOURS = 3
MOST_CACHE_ROWS = 600  # two blocks of 256 tokens, and the prefix
SLACK_ITEMS = 100  # other parts of Python keep some things; a stream that kept its words adds more


@pytest.fixture(scope="module")
def talk():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("talk")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return mlx_simul.load(write_chat_folder(tmp_path_factory.mktemp("talk") / "model"))


def sources():
    """Sentences of three to nine words."""
    rng = random.Random(0)
    words = ["the", "a", "dog", "house", "sea", "man", "runs", "sleeps", "sees", "big", "never"]
    return [
        " ".join(rng.choice(words) for _ in range(rng.randint(3, 9))).capitalize() + "."
        for _ in range(50)
    ]


def hours(talk, make_streams, n_streams):
    texts = [talk.words_of(sources(), seed) for seed in range(n_streams)]
    return list(talk.run(make_streams, texts, N_HOURS, WORDS_AN_HOUR, n_paired_words=20))


@pytest.mark.parametrize("n_streams", [1, 3])
def test_age_changes_nothing(talk, loaded, n_streams):
    found = hours(talk, partial(talk.Streams, *loaded, n_streams, **OPTIONS), n_streams)
    assert [hour.words for hour in found] == [60, 120, 180]
    second, last = found[1], found[-1]
    assert all(hour.equals_fresh for hour in found)
    assert last.lost_words == 0
    assert all(hour.turns > 5 * n_streams for hour in found)
    n_rows = 1 if n_streams == 1 else 4  # a batch's rows are doubled as sessions join
    assert all(hour.cache_rows <= n_rows * MOST_CACHE_ROWS for hour in found)
    assert max(hour.largest_position for hour in found) < 200
    assert last.mlx_mb == pytest.approx(second.mlx_mb, abs=0.3)
    assert last.python_items < second.python_items + SLACK_ITEMS
    # The same work, but for what differs between sentences.
    assert last.passes_per_word == pytest.approx(second.passes_per_word, rel=0.2)


def test_a_stream_in_one_turn_grows(talk, loaded):
    """The control: what it holds grows, and so does what it has to look at."""
    endless = OPTIONS | {"turns": None, "max_tokens": 10**6}
    found = hours(talk, partial(talk.Streams, *loaded, 1, **endless), 1)
    assert found[-1].cache_rows > max(MOST_CACHE_ROWS, found[0].cache_rows)
    assert found[-1].turns == 0


def test_what_is_kept_is_noticed(talk, loaded):
    """The control: streams that keep the events of hours long gone."""

    kept = []

    class Keeping(talk.Streams):
        def feed(self, words):
            for stream, event in super().feed(words):
                kept.append(event)
                yield stream, event

    found = hours(talk, partial(Keeping, *loaded, 1, **OPTIONS), 1)
    assert found[-1].python_items > found[1].python_items + SLACK_ITEMS


def test_a_word_that_no_turn_has_is_counted(talk):
    tally = talk.Tally(1)
    tally.pending[0].extend(["a", "b", "c", "d", "e"])

    def end(source, first, behind):
        return TurnEnd(0, source, "x", (first, behind), (0, 1), (1,), (1,), "sentence", "drought")

    tally.see(0, end("a b", 0, 2))
    assert tally.n_lost_words == 0
    tally.see(0, end("d e", 3, 5))
    assert tally.n_lost_words == 1
    assert tally.ends == {"drought": 2}
