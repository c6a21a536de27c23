"""The benchmark of speech: its figures are those of the script, and losing anything would show."""

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from repository import ROOT
from speech_scripts import Scripted, said, silence
from tiny_chat import write_chat_folder

import mlx_simul

SCRIPT = [
    said("One two", 1.0),
    said("three four", 2.5, pause=True),
    said("five. Six", 3.0),
]


@pytest.fixture(scope="module")
def speech():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("speech")


@pytest.fixture(scope="module")
def make_session(tmp_path_factory):
    model, tokenizer = mlx_simul.load(write_chat_folder(tmp_path_factory.mktemp("b") / "model"))
    options = {"source_language": "English", "target_language": "French", "turns": "sentence"}
    limits = {"max_tokens": 12, "max_tokens_per_word": 3}
    return lambda: mlx_simul.SimulSession(model, tokenizer, policy="wait-k:1", **options, **limits)


def listen(speech, make_session, script, seconds):
    with speech.by_the_cpu(Scripted(script), [silence(0.25)] * round(4 * seconds)) as heard:
        return speech.listen(make_session, *heard, "talk.wav")


@pytest.fixture(scope="module")
def figures(speech, make_session):
    return listen(speech, make_session, SCRIPT, 3.0)


def test_figures_are_those_of_what_was_heard(figures):
    assert (figures.name, figures.audio_s) == ("talk.wav", 3.0)
    assert (figures.source_words, figures.turns) == (6, 3)
    assert figures.target_words > 6 and figures.cpu_s > 0
    assert figures.error_rate is None


def test_at_best_a_word_is_written_when_enough_has_been_heard(speech, make_session, figures):
    """The words of a hypothesis are half a second long, so the first has ended half before."""
    # Most target words wait for the last word of their turn, some for the first of a hypothesis.
    assert figures.delay_at_best == speech.Spread(0.0, 0.5)
    slow = [said(" ".join(w.text for w in h.words), h.heard_s, pause=h.pause) for h in SCRIPT]
    slow = [type(h)(h.words, h.tail, h.pause, h.heard_s + 7) for h in slow]
    later = listen(speech, make_session, slow, 11.0)
    assert later.delay_at_best == speech.Spread(7.0, 7.5)


def test_in_real_time_the_same_is_heard_and_written(speech, make_session, figures):
    short = [type(h)(h.words, h.tail, h.pause, h.heard_s / 10) for h in SCRIPT]
    with speech.by_the_wall(Scripted(short), [silence(0.1)] * 3) as heard:
        live = speech.listen(make_session, *heard, "talk.wav")
    assert (live.source_words, live.target_words) == (figures.source_words, figures.target_words)
    assert live.nothing_lost


def test_a_speaker_is_waited_for_and_does_not_wait(speech):
    clock = speech.CpuClock()
    audio = speech.SpokenAudio([silence(1.0)] * 5, clock)
    assert (clock(), len(audio.take())) == (0.0, 16_000)
    assert 1.0 <= clock() < 1.5
    clock.wait_until(3.5)  # as if that long had been computed
    assert len(audio.take()) == 32_000
    assert len(audio.take()) == 16_000
    assert 4.0 <= clock() < 4.5


def test_a_word_that_was_lost_would_show(speech, make_session, figures, monkeypatch):
    assert figures.nothing_lost
    as_text = speech.as_text

    def with_one_more(session, hypotheses):
        return as_text(session, [*hypotheses, said("seven", 4.0)])

    monkeypatch.setattr(speech, "as_text", with_one_more)
    assert not listen(speech, make_session, SCRIPT, 3.0).nothing_lost


def test_words_are_compared_without_case_and_punctuation(speech, monkeypatch):
    asked = []
    jiwer = SimpleNamespace(wer=lambda *texts: asked.append(texts) or 0.25)
    monkeypatch.setitem(sys.modules, "jiwer", jiwer)
    assert speech.error_rate("It's one, Two!", "its ONE two.") == 0.25
    assert asked == [("it's one two", "its one two")]


def test_a_spread_is_in_order(speech):
    assert speech.Spread.of(range(11)) == speech.Spread(5.0, 9.0)
    assert str(speech.Spread.of([])) == "0.00 (0.00)"
