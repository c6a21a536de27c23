"""Figures of talks: by hand, and what holds for any talk; their logs and pictures.

That they equal OmniSTEval's is for tests/field to say.
"""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talk_runs import exact_run, random_run

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.latency import yet_another_average_lagging
from mlx_simul.evaluation.plot import draw_lagging
from mlx_simul.evaluation.talk_figures import drift, talk_figures, talk_quality
from mlx_simul.evaluation.talk_logs import write_talk_logs
from mlx_simul.evaluation.talk_record import Shown, TalkRecord
from mlx_simul.evaluation.talk_sentences import lags, realigned_talk
from mlx_simul.evaluation.talks import Talk, talk_at_pace

TALK = talk_at_pace([Item("a b c", ("le chat dort",)), Item("d e", ("un chien",))], 100)
LONG = talk_at_pace([Item("a b c d", (f"w{i} x{i} y{i} z{i}",)) for i in range(20)], 100)
runs = st.builds(random_run, st.integers(0, 10**6), st.just(0), st.sampled_from(["word", "char"]))


def shown(text, *delays):
    words = text.split()
    fed_ms = tuple(10.0 * i for i in range(5))
    steps = (Shown(f"{w} ", d, 10.0 * d - 5) for w, d in zip(words, delays, strict=True))
    return TalkRecord(0, TALK, tuple(steps), fed_ms)


def later(record, words):
    """The same run in which everything is read so many words later, and written as much later."""
    n_words, step_ms = len(record.fed_ms), record.fed_ms[1] - record.fed_ms[0]
    moved = []
    for each in record.shown:
        n_read = min(n_words, each.source_words + words)
        time_ms = each.time_ms + (n_read - each.source_words) * step_ms
        moved.append(replace(each, source_words=n_read, time_ms=time_ms))
    return replace(record, shown=tuple(moved))


# By hand


def test_figures_by_hand():
    talk = realigned_talk(shown("le chat dort un chien", 2, 3, 4, 5, 5), "word")
    first, second = talk.sentences
    assert (first.prediction, second.prediction) == ("le chat dort", "un chien")
    assert first.delays_ms == (200, 300, 400) and first.delays_words == (2, 3, 4)
    assert second.delays_ms == (200, 200) and second.delays_words == (2, 2)
    assert first.elapsed_ms == (205, 305, 405)
    figures = talk_figures([talk])
    # LongYAAL: (200 + 300 - 100 + 400 - 200) / 3; the second sentence came after the talk.
    assert figures["latency"]["yaal"] == pytest.approx(200)
    # StreamLAAL: the first unit at a sentence's end counts last: the second here, then the first.
    assert figures["latency"]["laal"] == pytest.approx(((200 + 200) / 2 + 200) / 2)
    assert figures["latency"]["ap"] == pytest.approx((900 / 900 + 400 / 400) / 2)
    assert figures["latency_ca"]["yaal"] == pytest.approx(205)
    assert figures["erasure"] == {"n_units": 0, "share": 0}
    assert (figures["n_talks"], figures["n_sentences"], figures["n_units"]) == (1, 2, 5)
    assert (figures["n_empty"], figures["n_unplaced"]) == (0, 0)
    assert talk_quality([talk]).chrf == pytest.approx(100)


def test_a_sentence_without_translation_counts_for_quality_and_not_for_latency():
    whole = realigned_talk(shown("le chat dort un chien", 2, 3, 4, 4, 4), "word")
    half = realigned_talk(shown("le chat dort", 2, 3, 4), "word")
    assert half.sentences[1].prediction == ""
    figures = talk_figures([half])
    assert figures["n_empty"] == 1
    assert figures["latency"]["yaal"] == pytest.approx(200)
    assert talk_quality([half]).chrf < talk_quality([whole]).chrf


def test_nothing_written_has_no_latency():
    talk = realigned_talk(shown(""), "word")
    figures = talk_figures([talk])
    assert figures["latency"] is figures["latency_ca"] is figures["drift"] is None
    assert figures["n_empty"] == 2
    assert talk_quality([talk]).bleu == 0


def test_what_comes_after_the_talk_has_no_long_yaal():
    figures = talk_figures([realigned_talk(shown("le chat dort un chien", 5, 5, 5, 5, 5), "word")])
    assert figures["latency"]["yaal"] is None
    assert figures["latency"]["laal"] == pytest.approx((500 + 200) / 2)


def test_units_without_a_sentence_are_counted():
    assert talk_figures([realigned_talk(shown(", le chat", 1, 2, 3), "word")])["n_unplaced"] == 1


@pytest.mark.parametrize(("end", "wanted"), [(None, (2 + 2) / 2), (5, (2 + 2 + 3) / 3), (2, None)])
def test_yaal_stops_at_the_end(end, wanted):
    # |X| = 4, |Y| = 4: lags 2, 3 - 1, 5 - 2 ...; the first delay of 4 or more is the last before 5.
    delays = [2, 3, 5 - 1e-9, 6]
    assert yet_another_average_lagging(delays, 4, 3, end) == pytest.approx(wanted)


def test_yaal_takes_the_longer_of_both_lengths():
    assert yet_another_average_lagging([1, 1], 4, 4) == pytest.approx((1 + 0) / 2)
    assert yet_another_average_lagging([1, 1], 4, 1) == pytest.approx((1 - 1) / 2)
    with pytest.raises(InvalidOptionError, match="no delays"):
        yet_another_average_lagging([], 4)


# Laws


def the_talk_begins_when_it_likes(how, record):
    """The same talk and work with a silence before: no figure changes."""
    pause_ms = 1234.5
    moved = [
        replace(
            sentence,
            start_ms=sentence.start_ms + pause_ms,
            said_ms=tuple(ms + pause_ms for ms in sentence.said_ms),
        )
        for sentence in record.talk.sentences
    ]
    before = how(record)
    after = how(replace(record, talk=Talk(tuple(moved))))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-6)


def later_is_later(how, lag_words):
    """So many words later is as many words more, in milliseconds of the pace."""
    punctual = exact_run(LONG)
    # The last words, which would come after the end, are left out.
    cut = replace(punctual, shown=punctual.shown[: -1 - lag_words])
    gain = how(later(cut, lag_words))["yaal"] - how(cut)["yaal"]
    assert gain == pytest.approx(100 * lag_words)


def latencies(record, unit="word"):
    return talk_figures([realigned_talk(record, unit)])["latency"] or {}


def not_from_the_sentence(record):
    """A score that counts from the beginning of the talk."""
    talk = realigned_talk(record, "word")
    delays = [s.start_ms + ms for s in talk.sentences for ms in s.delays_ms]
    return {"yaal": sum(delays) / len(delays)} if delays else {}


@given(runs)
def test_the_talk_begins_when_it_likes(record):
    the_talk_begins_when_it_likes(latencies, record)


@pytest.mark.parametrize("lag_words", [1, 2, 5])
def test_later_is_later(lag_words):
    later_is_later(latencies, lag_words)


def test_the_laws_reject_what_is_broken():
    with pytest.raises(AssertionError):
        the_talk_begins_when_it_likes(not_from_the_sentence, exact_run(TALK))
    with pytest.raises(AssertionError):
        later_is_later(lambda record: {"yaal": latencies(record)["ap"]}, 2)


@given(st.data())
def test_shuffled_delays_are_noticed(data):
    """In another order they are no run at all; given to other units, another latency."""
    record = exact_run(LONG, lag_words=2)
    order = data.draw(st.permutations(range(len(record.shown))))
    given_away = tuple(
        replace(each, source_words=record.shown[i].source_words, time_ms=record.shown[i].time_ms)
        for each, i in zip(record.shown, order, strict=True)
    )
    same = [(each.source_words, each.time_ms) for each in given_away] == [
        (each.source_words, each.time_ms) for each in record.shown
    ]
    if same:
        assert replace(record, shown=given_away) == record
    else:
        with pytest.raises(DataError, match="decrease"):
            replace(record, shown=given_away)
    # The texts in another order keep their delays in order, and stand for other sentences.
    texts = tuple(
        replace(each, text=record.shown[i].text)
        for each, i in zip(record.shown, reversed(range(len(order))), strict=True)
    )
    assert latencies(replace(record, shown=texts)) != latencies(record)


@given(runs, st.sampled_from(["word", "char"]))
def test_sentences_hold_the_target(record, unit):
    talk = realigned_talk(record, unit)
    units = record.units(unit)
    joint = " " if unit == "word" else ""
    placed = joint.join(s.prediction for s in talk.sentences if s.prediction)
    assert placed == joint.join(units.texts[talk.n_unplaced :])
    assert talk.n_units == len(units.texts)
    for sentence in talk.sentences:
        assert len(sentence.delays_ms) == len(sentence.elapsed_ms) == len(sentence.delays_words)
        for delay_ms, elapsed_ms in zip(sentence.delays_ms, sentence.elapsed_ms, strict=True):
            assert elapsed_ms >= delay_ms - 1e-9


# Drift


def drifting(record, words_at_the_end):
    """The same run that falls behind evenly, by so many words at its end."""
    n_words = len(record.fed_ms)
    moved = []
    for each in record.shown:
        behind = round(words_at_the_end * each.source_words / n_words)
        n_read = min(n_words, each.source_words + behind)
        moved.append(replace(each, source_words=n_read, time_ms=10.0 * n_read - 5))
    return replace(record, shown=tuple(moved))


def test_a_lag_that_stays_does_not_drift():
    held = drift([realigned_talk(exact_run(LONG, lag_words=3), "word")])
    assert held["window_ms"] == 4000
    assert held["first"]["words"] == held["last"]["words"] == pytest.approx(4)
    assert held["first"]["ms"] == pytest.approx(400)
    assert held["drift"] == pytest.approx({"words": 0, "ms": 0, "ca_ms": 0})


def test_falling_behind_is_drift():
    held = drift([realigned_talk(drifting(exact_run(LONG), 10), "word")])
    # By a quarter and by three quarters of ten words, on average.
    assert held["drift"]["words"] == pytest.approx(5, abs=0.8)
    assert held["drift"]["ms"] == pytest.approx(100 * held["drift"]["words"])


def test_work_that_takes_longer_than_the_speech_is_drift_of_times_only():
    record = exact_run(LONG)
    slow = replace(
        record,
        fed_ms=tuple(110.0 * i for i in range(len(record.fed_ms))),
        shown=tuple(replace(s, time_ms=110.0 * s.source_words - 55) for s in record.shown),
    )
    held = drift([realigned_talk(slow, "word")])
    assert held["drift"]["words"] == pytest.approx(0)
    # Each word adds 10 ms, and from word 1 to 40 it is 39.5 words to 41 to 79, on average.
    assert held["drift"]["ca_ms"] == pytest.approx(395)


def test_windows_of_long_talks_are_ten_minutes():
    long = talk_at_pace([Item("a b c d", (f"w{i} x{i}",)) for i in range(20)], 60_000)
    talk = realigned_talk(exact_run(long), "word")
    assert drift([talk])["window_ms"] == 600_000
    assert drift([talk, realigned_talk(exact_run(TALK), "word")])["window_ms"] == 600_000
    first = [lag for lag in lags(talk) if lag.at_ms < 600_000]
    mean = sum(lag.words for lag in first) / len(first)
    assert drift([talk])["first"]["words"] == pytest.approx(mean)


# Logs and pictures


def test_logs_hold_the_run(tmp_path):
    record = random_run(5, 2, n_sentences=6)
    write_talk_logs(tmp_path, [record], "word")
    units = record.units("word")
    line = json.loads((tmp_path / "omnisteval.jsonl").read_text("utf-8"))
    assert line["prediction"].split() == list(units.texts)
    assert line["delays"] == record.delays_ms(units.delays)
    assert line["source"] == "talk-0002.wav"
    assert line["source_length"] == record.talk.said_ms[-1]
    segments = (tmp_path / "segments.yaml").read_text("utf-8").splitlines()
    for name in ("reference.txt", "source.txt"):
        assert len((tmp_path / name).read_text("utf-8").splitlines()) == len(segments) == 6
    steps = (tmp_path / "simulstream.jsonl").read_text("utf-8").splitlines()
    display = []
    for step in map(json.loads, steps[1:]):
        kept = len(display) - len(step["deleted_tokens"])
        assert display[kept:] == step["deleted_tokens"]
        display = display[:kept] + step["generated_tokens"]
    assert "".join(display).split() == list(units.texts)
    assert any(json.loads(step)["deleted_tokens"] for step in steps[1:])


def test_pictures_are_drawn(tmp_path):
    talks = {
        "wait-k:3": realigned_talk(exact_run(LONG, lag_words=2), "word"),
        "$slow$": realigned_talk(drifting(exact_run(LONG), 10), "word"),
    }
    made = draw_lagging(talks, tmp_path / "lagging")
    assert [path.name for path in made] == ["lagging.png", "lagging.svg"]
    assert all(path.stat().st_size > 5000 for path in made)
    again = draw_lagging(talks, tmp_path / "again")
    assert again[1].read_bytes() == made[1].read_bytes()
    assert draw_lagging({"none": realigned_talk(shown(""), "word")}, tmp_path / "none") == []
    assert not math.isnan(drift([talks["$slow$"]])["drift"]["ms"])
