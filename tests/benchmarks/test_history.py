"""The benchmark of history: side by side, each stream writes what it writes by itself."""

from importlib import import_module

import pytest
from repository import ROOT
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.talks import talk_at_pace
from mlx_simul.events import TurnEnd
from mlx_simul.text.prompts import StreamingDataPreparator

LANGUAGES = {"source_language": "English", "target_language": "French"}
LIMITS = {"max_target_source_ratio": 1.0, "max_tokens_per_word": 3}
SAID = ["The dog sees a house.", "It runs.", "A man sleeps at sea now.", "He never runs."]


@pytest.fixture(scope="module")
def history():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("history")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return mlx_simul.load(write_chat_folder(tmp_path_factory.mktemp("history") / "model"))


@pytest.fixture(scope="module")
def lanes(history, loaded):
    talks = [
        talk_at_pace([Item(text, (text.upper(),)) for text in said], 400.0)
        for said in (SAID, SAID[::-1])
    ]
    made = [
        *(history.Lane(f"{n} pairs", talk, "wait-k:2", n) for n in (0, 2) for talk in talks),
        *(history.Lane("whole", talk, "whole", 0) for talk in talks),
        *(history.Lane("alone", talk, "wait-k:2", 0, is_alone=True) for talk in talks),
    ]
    history.translate(mlx_simul.Sessions(*loaded, **LANGUAGES, **LIMITS), made)
    return made


def by_itself(loaded, lane):
    options = {**LANGUAGES, **LIMITS, "policy": lane.policy, "history": lane.n_pairs}
    for source in lane.sources():
        for event in mlx_simul.stream_generate(*loaded, source, **options):
            if isinstance(event, TurnEnd):
                yield event.source_text, event.target_text, event.token_ids


def test_each_stream_writes_what_it_writes_by_itself(lanes, loaded):
    for lane in lanes:
        written = [(end.source_text, end.target_text, end.token_ids) for end in lane.ends]
        assert written == list(by_itself(loaded, lane))
        assert len(lane.translations()) == len(SAID)


def test_sentences_alone_are_what_a_talk_without_history_writes(lanes):
    without, _, pairs, _, whole, _, alone, _ = lanes
    targets = [end.target_text for end in without.ends]
    assert [end.target_text for end in alone.ends] == alone.texts == targets
    # The control: other ways write something else.
    assert [end.target_text for end in pairs.ends] != targets
    assert [end.target_text for end in whole.ends] != targets


def test_a_prefix_grows_with_the_pairs_in_it(history, lanes, loaded):
    prompt = StreamingDataPreparator(loaded[1], **LANGUAGES)
    without, _, pairs, *_ = lanes
    usual = len(prompt.prefix_ids)
    assert [*history.prefix_tokens(without, prompt)] == [usual] * len(without.ends)
    first, second, third, fourth = history.prefix_tokens(pairs, prompt)
    assert first == usual < second < third
    behind = [(end.source_text, end.target_text) for end in pairs.ends[1:3]]
    assert fourth == len(prompt.behind(behind).prefix_ids)


def test_turns_that_went_wrong_are_counted(history, lanes):
    assert history.has_loop(history.words("The cat, the cat. The cat, the cat and"))
    assert not history.has_loop(history.words("The cat, the cat. The dog, the dog and the cat"))
    assert not history.has_loop([])
    figures = history.quality(lanes)
    assert list(figures) == ["0 pairs", "2 pairs", "whole", "alone"]
    assert figures["0 pairs"]["bleu"]["p"] is None and figures["alone"]["chrf"]["p"] is not None
