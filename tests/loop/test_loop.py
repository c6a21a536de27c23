"""The read/write loop without a model: a made-up one that predicts whatever hypothesis likes."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import without_drafts

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Read, Write
from mlx_simul.loop.limits import SHORT_SOURCE_WORDS, Limits
from mlx_simul.loop.reference import ReferenceLoop
from mlx_simul.loop.requests import Reply
from mlx_simul.policies import Action, Policy, WaitK
from mlx_simul.testing.scripted import END_OF_TURN, PIECES, ScriptedStream, Text, Vocabulary
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria


def whole(seed, words, policy, **limits):
    stream = ScriptedStream(seed, policy, **limits)
    stream.loop.add_segment([100, 101])
    stream.feed(words, suffix=[200])
    return stream


sources = st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=3), min_size=1, max_size=12)
seeds = st.integers(0, 10_000)
ks = st.integers(1, 14)


@given(seeds, sources, ks)
def test_every_stream_ends_and_keeps_the_policy(seed, words, k):
    stream = whole(seed, words, WaitK(k))
    *said, finished = stream.events
    n_read = n_written = 0
    for event in said:
        if isinstance(event, Read):
            n_read += 1
        else:
            assert n_read >= min(k + n_written, len(words) + 1)
            assert event.source_words_read == min(n_read, len(words))
            n_written += event.word_complete
    assert finished.reason in ("end_of_turn", "drought", "max_tokens")
    assert finished.token_ids == tuple(e.token for e in said if isinstance(e, Write))
    assert END_OF_TURN not in finished.token_ids
    assert len(finished.delays) == n_written
    flat = [100, 101, *(token for word in words for token in word), 200]
    assert stream.source == flat[: len(stream.source)]


@given(seeds, sources, ks, seeds)
def test_segments_in_any_portions_give_the_same_events(seed, words, k, portions):
    stream, rest, rng = ScriptedStream(seed, WaitK(k)), list(words), random.Random(portions)
    stream.loop.add_segment([100, 101])
    stream.feed([])
    while rest:
        n = rng.randint(0, len(rest))
        stream.feed(rest[:n])
        rest = rest[n:]
        stream.feed([])
    stream.feed([], suffix=[200])
    assert stream.events == whole(seed, words, WaitK(k)).events


def test_a_policy_that_looks_at_the_portions_is_told_apart():
    """Negative control: deciding by what has arrived makes events depend on the portions."""

    class Impatient(Policy):
        def decide(self, progress):
            has_more = progress.source_words_read < len(progress.source_seg_len) - 1
            return Action.READ if has_more or not progress.source_words_read else Action.WRITE

    words = [[10], [11], [12]]
    stream = ScriptedStream(3, Impatient())
    stream.loop.add_segment([100, 101])
    for word in words:
        stream.feed([word])
    stream.feed([], suffix=[200])
    assert stream.events != whole(3, words, Impatient()).events


@given(seeds, sources, ks)
def test_an_early_end_of_turn_reads_one_segment_and_writes_nothing(seed, words, k):
    """SPEC section 3: it is never fed, emitted or counted; i does not advance."""

    class Silent(ScriptedStream):
        def predict(self):
            return END_OF_TURN

    stream = Silent(seed, WaitK(k))
    stream.loop.add_segment([100, 101])
    stream.feed(words, suffix=[200])
    *said, finished = stream.events
    assert [type(event) for event in said] == [Read] * (len(words) + 1)
    assert (finished.reason, finished.token_ids, finished.delays) == ("drought", (), ())
    assert stream.target == [9, 9]
    # One prediction per segment from the k-th on, and what is read for it shares its pass.
    assert finished.n_passes == max(1, len(words) + 2 - min(k, len(words) + 1))


class OfTheTarget(ScriptedStream):
    """Predicts whatever the source is, so that each draft is right."""

    def predict(self):
        return random.Random(repr((self.seed, self.target))).randrange(len(PIECES))


class Mostly(OfTheTarget):
    """Minds the source now and then."""

    def predict(self):
        kind = OfTheTarget if random.Random(len(self.source)).random() < 0.7 else ScriptedStream
        return kind.predict(self)


@given(seeds, sources, ks, st.integers(1, 20), seeds)
def test_reading_ahead_changes_no_event(seed, words, k, chunk_tokens, portions):
    """Neither with all the source at hand nor with some of it at a time."""
    streams = []
    for read_ahead_tokens in (0, chunk_tokens):
        stream = ScriptedStream(seed, WaitK(k), read_ahead_tokens=read_ahead_tokens)
        rest, rng = list(words), random.Random(portions)
        stream.loop.add_segment([100, 101])
        while rest:
            n = rng.randint(0, len(rest))
            stream.feed(rest[:n])
            rest = rest[n:]
        stream.feed([], suffix=[200])
        streams.append(stream)
    assert streams[0].events == streams[1].events
    assert streams[0].events == whole(seed, words, WaitK(k)).events


def test_showing_what_was_read_ahead_is_told_apart():
    """Negative control of the law above."""

    class ShowsAll(ScriptedStream):
        def _answer(self, request):
            return super()._answer(replace(request, n_hidden=0))

    words = [[10 + i] for i in range(9)]
    stream = ShowsAll(1, WaitK(2), read_ahead_tokens=4)
    stream.loop.add_segment([100, 101])
    stream.feed(words, suffix=[200])
    assert stream.events != whole(1, words, WaitK(2)).events


@pytest.mark.parametrize("kind", [ScriptedStream, OfTheTarget, Mostly])
@given(seed=seeds, words=sources, k=ks, ratio=st.none() | st.floats(0.2, 2.0))
def test_drafts_change_nothing_but_the_number_of_passes(kind, seed, words, k, ratio):
    streams = []
    for each in (kind, without_drafts(kind)):
        stream = each(seed, WaitK(k), max_target_source_ratio=ratio)
        stream.loop.add_segment([100, 101])
        stream.feed(words, suffix=[200])
        streams.append(stream)
    with_drafts, without = streams
    assert with_drafts.events == without.events
    # One more row is fed at most: the draft behind the last token.
    assert without.target == with_drafts.target[: len(without.target)]
    assert len(with_drafts.target) <= len(without.target) + 1
    assert with_drafts.events[-1].n_passes <= without.events[-1].n_passes


def test_an_engine_that_keeps_a_wrong_draft_is_told_apart():
    """Negative control of the law above."""

    class Credulous(ScriptedStream):
        def _answer(self, request):
            reply = super()._answer(request)
            if request.draft_ids and len(reply.token_ids) == 1:
                self.target.append(request.draft_ids[0])
            return reply

    words = [[10 + i] for i in range(9)]
    events = []
    for kind in (Credulous, without_drafts(Credulous)):
        stream = kind(1, WaitK(2))
        stream.loop.add_segment([100, 101])
        stream.feed(words, suffix=[200])
        events.append(stream.events)
    assert events[0] != events[1]


@given(seeds, sources, ks)
def test_right_drafts_leave_one_pass_a_token(seed, words, k):
    class Endless(OfTheTarget):
        def predict(self):
            return super().predict() or 1

    stream = Endless(seed, WaitK(k))
    stream.loop.add_segment([100, 101])
    stream.feed(words, suffix=[200])
    finished = stream.events[-1]
    # What the first pass predicts may be no word's.
    assert finished.n_passes <= len(finished.token_ids) + 1


def test_a_loop_is_answered_with_what_it_asked_for():
    stream = ScriptedStream(1, WaitK(1))
    stream._answer = lambda request: Reply((), 1)
    stream.loop.add_segment([100])
    with pytest.raises(InvalidOptionError, match="predicts a token"):
        stream.feed([[10]], suffix=[200])


@given(seeds, sources, st.integers(1, 5), st.floats(0.2, 2.0))
def test_limits_are_never_exceeded(seed, words, max_words, ratio):
    finished = whole(seed, words, WaitK(1), max_words=max_words).events[-1]
    assert len(finished.delays) <= max_words
    stream = whole(seed, words, WaitK(1), max_target_source_ratio=ratio)
    n_source = 0
    for event in stream.events[:-1]:
        if isinstance(event, Write):
            n_written = event.target_words_generated - event.word_complete + 1
            assert n_written <= ratio * n_source
        else:
            n_source = event.source_words_read
            if event.source_finished:
                n_source = max(n_source, SHORT_SOURCE_WORDS)


class Reference(ScriptedStream):
    """The same under the reference's rules, with predictions by script."""

    def __init__(self, k, script):
        super().__init__(0, WaitK(k))
        self.script = iter(script)
        self.loop = ReferenceLoop(
            WaitK(k),
            (9, 9),
            WordBoundaryStoppingCriteria(Vocabulary()),
            Vocabulary.eos_token_ids,
            Text(),
            Limits(max_tokens=10_000),
            tokenizer=Vocabulary(),
            clock_ms=lambda: 0.0,
        )
        self._steps = self.loop.steps()
        self.loop.add_segment([100, 101])

    def predict(self):
        return next(self.script)


@pytest.mark.parametrize(("n_words", "reason"), [(1, "end_of_turn"), (9, "early_end_of_turn")])
def test_the_reference_ends_at_the_first_end_of_turn_and_keeps_it(n_words, reason):
    """SPEC section 4, points 4 and 5."""
    stream = Reference(2, [1, END_OF_TURN])
    stream.feed([[10]] * n_words, suffix=[200])
    finished = stream.events[-1]
    assert (finished.reason, finished.token_ids, finished.delays) == (reason, (1, 0), (2,))


def test_the_reference_ends_when_stops_run_ahead_of_reads():
    """SPEC section 4, point 6: one stop per comma, and nothing left to read after the third."""
    stream = Reference(1, itertools.repeat(PIECES.index(".")))
    stream.feed([[10], [11]], suffix=[200])
    finished = stream.events[-1]
    assert finished.reason == "stop_limit"
    assert len(finished.delays) == 3 + 101


@given(seeds, sources, ks)
def test_white_space_alone_is_no_word(seed, words, k):
    word = ""
    for event in whole(seed, words, WaitK(k)).events[:-1]:
        if isinstance(event, Write):
            word += event.text
            if event.word_complete:
                assert word.strip()
                word = ""
