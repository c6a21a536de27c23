"""Drafters, without a model: they change how many passes a stream takes, and nothing else."""

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Read
from mlx_simul.loop.drafters import Drafter, NGramDrafter
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import Action, Policy, WaitK
from mlx_simul.testing.scripted import END_OF_TURN, PIECES, ScriptedStream

sources = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=12)
seeds = st.integers(0, 10_000)
policies = st.builds(WaitK, st.integers(1, 14))


class OfTheTarget(ScriptedStream):
    """Predicts whatever the source is."""

    def predict(self):
        return random.Random(repr((self.seed, self.target))).randrange(len(PIECES))


class Copying(ScriptedStream):
    """Predicts the source again, token by token, as far as it is read."""

    def predict(self):
        n = len(self.target) - 2
        words = self.source[2:]
        return words[n] if n < len(words) and words[n] < len(PIECES) else END_OF_TURN


class Peeking:
    """Guesses right with a given probability, for it asks the stream what it would predict."""

    def __init__(self, p_right):
        self.p_right = p_right

    def sit_beside(self, stream):
        self.stream, self.rng = stream, random.Random(stream.seed)

    def follow(self, request):
        self.ahead = copy.copy(self.stream)
        encoded = [*self.stream.source, *self.stream._hidden, *request.source_ids]
        self.ahead.source = encoded[: len(encoded) - request.n_hidden]
        target = self.stream.target
        kept = target[: len(target) - request.n_rewind]
        self.ahead.target = [*kept, *request.target_ids, *request.draft_ids]

    def guess(self):
        right = self.ahead.predict()
        token = right if self.rng.random() < self.p_right else self.rng.randrange(len(PIECES))
        self.ahead.target.append(token)
        return token


def streamed(kind, seed, words, policy, drafter=None, n=0, chunk_tokens=0, **limits):
    drafter = drafter and drafter()
    settings = {"drafter": drafter, "num_draft_tokens": n, "read_ahead_tokens": chunk_tokens}
    stream = kind(seed, policy, **settings, **limits)
    if isinstance(drafter, Peeking):
        drafter.sit_beside(stream)
    stream.drafter, stream.passes = drafter, []
    answer = stream._answer

    def record(request):
        stream.passes.append(request)
        return answer(request)

    stream._answer = record
    stream.loop.add_segment([100, 101])
    stream.feed(words[:3])
    stream.feed(words[3:], suffix=[200])
    return stream


drafters = st.sampled_from(
    [
        NGramDrafter,
        lambda: NGramDrafter(1, 1),
        lambda: Peeking(1.0),
        lambda: Peeking(0.7),
        lambda: Peeking(0.0),
    ]
)


@pytest.mark.parametrize("kind", [ScriptedStream, OfTheTarget, Copying])
@given(
    seed=seeds,
    words=sources,
    policy=policies,
    drafter=drafters,
    n=st.integers(0, 6),
    chunk_tokens=st.sampled_from([0, 4]),
    ratio=st.none() | st.floats(0.2, 2.0),
)
def test_a_drafter_changes_no_event(kind, seed, words, policy, drafter, n, chunk_tokens, ratio):
    limits = {"max_target_source_ratio": ratio}
    plain = streamed(kind, seed, words, policy, **limits)
    drafted = streamed(kind, seed, words, policy, drafter, n, chunk_tokens, **limits)
    assert drafted.events == plain.events
    # What is fed beyond it are drafts that were right.
    assert drafted.target[: len(plain.target)] == plain.target
    if not chunk_tokens:
        assert len(drafted.passes) <= len(plain.passes)


def test_an_engine_that_keeps_a_wrong_guess_is_told_apart():
    """Negative control of the law above."""

    class Credulous(ScriptedStream):
        def _answer(self, request):
            reply = super()._answer(request)
            n_kept = len(reply.token_ids) - 1
            self.target.extend(request.draft_ids[n_kept:])
            return reply

    words = [[1], [2, 3], [1], [2, 4]]
    plain, drafted = (streamed(Credulous, 1, words, WaitK(1), NGramDrafter, n) for n in (0, 4))
    assert plain.events != drafted.events


class Minding(Peeking):
    """Notes what it is asked to go on from, and whether source is left."""

    asked: list[tuple[tuple[bool, bool], bool]]

    def __init__(self, p_right):
        super().__init__(p_right)
        self.asked = []

    def follow(self, request):
        super().follow(request)
        self.drafts = list(request.draft_ids)

    def guess(self):
        loop = self.stream.loop
        if self.drafts:
            self.asked.append((loop._target.ends_word(*self.drafts), loop.state.source_exhausted()))
        self.drafts.append(super().guess())
        return self.drafts[-1]


@given(seeds, sources, policies, st.sampled_from([1.0, 0.7]), st.integers(1, 6))
def test_no_guess_goes_further_than_a_word_before_a_read(seed, words, policy, p_right, n):
    """The first token behind the word excepted, which shows that it has ended."""
    stream = streamed(OfTheTarget, seed, words, policy, lambda: Minding(p_right), n)
    for (ends_word, _), is_all_read in stream.drafter.asked:
        assert is_all_read or not ends_word
    assert all(END_OF_TURN not in request.draft_ids for request in stream.passes)


def test_a_copy_takes_a_pass_a_word_while_it_is_read_and_then_fewer():
    words = [[1, 3, 4], [2, 3, 3], [1, 4, 4], [2, 4, 3]]  # " acd", " bcc", …
    plain = streamed(Copying, 0, words, WaitK(2))
    drafted = streamed(Copying, 0, words, WaitK(2), NGramDrafter, 4)
    n_tokens = len(drafted.events[-1].token_ids)
    assert n_tokens == 12
    assert plain.events[-1].n_passes > n_tokens
    # One more is for the first word, of which nothing stands in the target yet.
    assert drafted.events[-1].n_passes <= len(words) + 2


def test_where_words_need_no_read_guesses_go_beyond_them():
    class AllFirst(Policy):
        def decide(self, progress):
            return Action.READ

    words = [[1, 3], [2, 3], [1, 4]]
    stream = streamed(Copying, 0, words, AllFirst(), lambda: Peeking(1.0), 5)
    assert [type(event) for event in stream.events[:4]] == [Read] * 4
    assert [len(request.draft_ids) for request in stream.passes] == [0, 5, 0]
    assert stream.events[-1].n_passes == 3


# N-grams


def fed(drafter, *passes):
    for request in passes:
        drafter.follow(request)
    guesses = []
    while len(guesses) < 3 and (token := drafter.guess()) is not None:
        guesses.append(token)
    return guesses


def after(written, draft_ids=(), source_ids=()):
    return Pass(source_ids, (1,), draft_ids=draft_ids, written=written)


def test_the_longest_match_counts_and_then_the_newest():
    source = Pass((5, 6, 10, 7, 6, 20, 8, 6, 30))
    assert fed(NGramDrafter(), source, after([5, 6]))[0] == 10
    assert fed(NGramDrafter(), source, after([7, 6]))[0] == 20
    assert fed(NGramDrafter(), source, after([9, 6]))[0] == 30
    assert fed(NGramDrafter(1), source, after([5, 6]))[0] == 30


def test_it_looks_in_the_source_first_and_then_in_the_target():
    assert fed(NGramDrafter(), Pass((4, 5)), after([4, 6, 4])) == [5]
    assert fed(NGramDrafter(), after([4, 6, 7, 8, 4])) == [6, 7, 8]


def test_it_goes_on_behind_the_drafts_that_are_carried():
    assert fed(NGramDrafter(), Pass((4, 5, 6)), after([3], draft_ids=(4,))) == [5, 6]


def test_a_short_match_may_be_too_little():
    assert fed(NGramDrafter(3, 2), Pass((4, 5, 6)), after([4])) == []
    assert fed(NGramDrafter(3, 2), Pass((4, 5, 6)), after([4, 5])) == [6]


def test_what_was_taken_back_has_no_part_in_what_follows():
    proposed = after([4, 5, 6]), after([4])
    assert fed(NGramDrafter(), *proposed, after([4, 7, 4]))[0] == 7
    assert fed(NGramDrafter(), *proposed, after([4, 7, 8, 6])) == []


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=9), seeds)
def test_in_pieces_it_remembers_the_same(source, written, cuts):
    at_once, in_pieces, rng = NGramDrafter(), NGramDrafter(), random.Random(cuts)
    i = j = 0
    while i < len(source) or j < len(written):
        next_i, next_j = rng.randint(i, len(source)), rng.randint(j, len(written))
        in_pieces.follow(Pass(tuple(source[i:next_i]), (1,), written=written[:next_j]))
        i, j = next_i, next_j
    # Of each group by itself it is the order that counts.
    last = Pass((), (1,), written=written)
    assert fed(at_once, Pass(tuple(source)), last) == fed(in_pieces, last)


def test_lengths_out_of_range_are_refused():
    for longest, shortest in ((2, 3), (3, 0)):
        with pytest.raises(InvalidOptionError, match="shortest"):
            NGramDrafter(longest, shortest)
    assert isinstance(NGramDrafter(), Drafter)
