"""A target with stops is the beginning of the target without them, cut where the stop begins."""

import copy
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.events import Finished, Read, Write
from mlx_simul.loop.drafters import NGramDrafter
from mlx_simul.policies import Confidence, LocalAgreement, WaitK, WholeSource
from mlx_simul.testing.scripted import PIECES, ScriptedStream
from mlx_simul.text.characters import is_visible
from mlx_simul.text.stops import StopWatch

POLICIES = [WaitK(1), WaitK(3), WholeSource(), LocalAgreement(), Confidence(0.5)]
SOURCE = [[1], [2, 3], [4], [5], [6, 7, 8], [9]]
texts = st.text("abcd. \n", min_size=1, max_size=5)
rows = st.lists(st.integers(1, len(PIECES) - 1), min_size=1, max_size=3).map(tuple)
stops = st.lists(texts | rows, min_size=1, max_size=3)


@dataclass
class LateText:
    """A detokenizer that always holds back what the newest token spells, as clean-up does."""

    held: str = field(default="")

    @property
    def is_holding(self):
        return bool(self.held)

    def add(self, token):
        out, self.held = self.held, PIECES[token]
        return out

    def flush(self):
        out, self.held = self.held, ""
        return out


class Late(ScriptedStream):
    def make_loop(self, *args, **settings):
        loop = super().make_loop(*args, **settings)
        loop._target._detokenizer, loop._target._fresh = LateText(), LateText()
        return loop


class Wordy(ScriptedStream):
    """It never ends its turn before the limit, so that stops are met."""

    def predict(self):
        return max(1, super().predict())


def run(kind, seed, policy, **settings):
    stream = kind(seed, copy.deepcopy(policy), **settings)
    stream.feed(SOURCE, suffix=[99])
    return stream


def first_stop(tokens, stops):
    """Which of the stops is complete first, looked for naively: the text that stays."""
    for n in range(1, len(tokens) + 1):
        ends = [
            stop for stop in stops if not isinstance(stop, str) and tokens[:n][-len(stop) :] == stop
        ]
        if ends:
            longest = max(ends, key=len)
            return longest, "".join(PIECES[token] for token in tokens[: n - len(longest)])
        before = "".join(PIECES[token] for token in tokens[: n - 1])
        text = before + PIECES[tokens[n - 1]]
        for end in range(len(before) + 1, len(text) + 1):
            ends = [stop for stop in stops if isinstance(stop, str) and text[:end].endswith(stop)]
            if ends:
                longest = max(ends, key=len)
                return longest, text[: end - len(longest)]
    return None


def split(events):
    return [[event for event in events if type(event) is kind] for kind in (Read, Write, Finished)]


@pytest.mark.parametrize("kind", [Wordy, Late, ScriptedStream])
@given(st.integers(0, 10**6), st.sampled_from(POLICIES), stops, st.booleans())
def test_a_target_with_stops_is_the_beginning_of_the_one_without(kind, seed, policy, stops, drafts):
    if kind is Late:
        # Tokens are seen before their texts, so that what comes first is another question.
        stops = [stop for stop in stops if type(stop) is type(stops[0])]
    drafting = {"drafter": NGramDrafter(), "num_draft_tokens": 3} if drafts else {}
    whole = run(kind, seed, policy).events
    stream = run(kind, seed, policy, watch=StopWatch(stops), **drafting)
    events, end = stream.events, stream.events[-1]
    wanted = first_stop(whole[-1].token_ids, stops)
    if wanted is None:
        # An event that is held back may come behind a read.
        assert split(events) == split(whole)
        return
    stop, text = wanted
    assert (end.reason, end.stop, end.target_text) == ("stop", stop, text)
    writes = [event for event in events if isinstance(event, Write)]
    assert "".join(event.text for event in writes) == text
    assert tuple(event.token for event in writes) == end.token_ids
    assert end.token_ids == whole[-1].token_ids[: len(end.token_ids)]
    # Each word's delay is that of the same word without stops.
    n_words = sum(event.word_complete for event in writes)
    assert n_words == end.target_words == len(end.delays) == len(end.word_times_ms)
    assert end.delays == whole[-1].delays[:n_words]
    assert [e.target_words_generated for e in writes if e.word_complete] == [*range(1, n_words + 1)]
    open_text = ""
    for event in writes:
        open_text = "" if event.word_complete else open_text + event.text
    assert kind is Late or not is_visible(open_text)
    # What is read is read in the same order.
    reads = [event for event in events if isinstance(event, Read)]
    assert reads == [event for event in whole if isinstance(event, Read)][: len(reads)]


@given(st.integers(0, 10**6), st.sampled_from(POLICIES), stops)
def test_no_event_shows_a_part_of_a_stop(seed, policy, stops):
    stream = Wordy(seed, copy.deepcopy(policy), watch=StopWatch(stops))
    shown = ""
    for i, word in enumerate(SOURCE):
        stream.feed([word], suffix=[99] if i == len(SOURCE) - 1 else None)
        shown = "".join(event.text for event in stream.events)
        if stream.finished:
            break
    assert shown == stream.events[-1].target_text


@given(st.integers(0, 10**6), stops)
def test_an_observer_is_told_the_words_that_stay(seed, stops):
    def observed(watch):
        stream, words = Wordy(seed, Confidence(0.5), watch=watch), []
        stream.loop.observe(words.append)
        stream.feed(SOURCE, suffix=[99])
        return words, stream.events[-1].target_words

    whole, _ = observed(None)
    told, n_words = observed(StopWatch(stops))
    # A stop in the middle of a word may leave the beginning of one that was never complete.
    assert told == whole[: len(told)]
    assert n_words - len(told) in (0, 1)


def test_a_word_goes_out_before_the_next_is_written_if_no_stop_can_take_it_back():
    class Scripted(ScriptedStream):
        def predict(self):
            return [1, 5, 2, 5, 0][len(self.target) - 2]

    plain = run(Scripted, 0, WaitK(1)).events
    watched = run(Scripted, 0, WaitK(1), watch=StopWatch(["d"])).events
    assert watched == plain
    late = run(Scripted, 0, WaitK(1), watch=StopWatch([". b."])).events
    assert late[-1].target_text == " a"
    assert [e.text for e in late if isinstance(e, Write)] == [" a"]
