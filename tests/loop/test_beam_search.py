"""Beam search over made-up models: by hand, by trying all, and in a loop."""

import copy
import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_simul.events import Finished, Read, Write
from mlx_simul.loop.beam_search import Beams, BeamSearch
from mlx_simul.policies import (
    HoldN,
    LocalAgreement,
    ReadNWriteM,
    WaitK,
    WaitKCatchUp,
    WaitToken,
    WholeSource,
)
from mlx_simul.testing.scripted import END_OF_TURN, HEADER, ScriptedStream

SOURCE = [[1], [2, 3], [4], [5], [6, 7, 8], [9]]
N_WORDS = len(SOURCE) - 1  # the first is the prefix
COUNTING = [WaitK(1), WaitK(3), WaitKCatchUp(2, 0.4), ReadNWriteM(2, 3), WholeSource()]
POLICIES = [*COUNTING, HoldN(1), LocalAgreement(), WaitToken()]
seeds = st.integers(0, 10_000)
N_TOKENS, END, MOST_TOKENS = 5, 0, 5


def odds(seed, tokens):
    """Log probabilities of all tokens behind others."""
    draw = random.Random(repr((seed, tokens)))
    weights = [draw.random() ** 3 + 1e-6 for _ in range(N_TOKENS)]
    return [math.log(weight / sum(weights)) for weight in weights]


def searched(seed, num_beams, length_penalty):
    """The best tokens, and whether what all agreed on at some time was ever taken back."""
    beams = Beams(num_beams, length_penalty)
    search = BeamSearch(beams, True, lambda _, token: None if token == END else True, MOST_TOKENS)
    agreed = []
    while not search.is_over:
        rows = [odds(seed, tuple(step.token for step in each.steps)) for each in search.live]
        ranked = [sorted(enumerate(row), key=lambda pair: -pair[1]) for row in rows]
        search.advance([row[: 2 * num_beams] for row in ranked])
        agreed.append([step.token for step in search.agreed])
    return tuple(step.token for step in search.best.steps), search.best, agreed


def as_transformers_does(seed, num_beams, length_penalty):
    """The same with fixed numbers of slots and scores of -1e9, as transformers lays it out."""
    running = [((), 0.0)] + [((), -1e9)] * (num_beams - 1)
    done = [((), -1e9, False)] * num_beams
    for length in range(1, MOST_TOKENS + 1):
        every = [
            ((*tokens, token), total + odds(seed, tokens)[token])
            for tokens, total in running
            for token in range(N_TOKENS)
        ]
        top = sorted(every, key=lambda each: -each[1])[: 2 * num_beams]
        hits = [tokens[-1] == END or length == MOST_TOKENS for tokens, _ in top]
        penalised = [(t, total - 1e9 * hit) for (t, total), hit in zip(top, hits, strict=True)]
        running = sorted(penalised, key=lambda each: -each[1])[:num_beams]
        for rank, ((tokens, total), hit) in enumerate(zip(top, hits, strict=True)):
            ended = hit and rank < num_beams
            done.append((tokens, total / length**length_penalty - 1e9 * (not ended), ended))
        done = sorted(done, key=lambda each: -each[1])[:num_beams]
        best_running = running[0][1] / length**length_penalty
        worst = min(score for _, score, _ in done)
        if all(hits) or not any(best_running > (worst if full else -1e9) for *_, full in done):
            break
    return done[0][0]


@settings(max_examples=60)
@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.6, 1.0, 2.0, -1.0]))
def test_the_best_is_that_of_transformers_algorithm(seed, num_beams, length_penalty):
    tokens, _, _ = searched(seed, num_beams, length_penalty)
    assert tokens == as_transformers_does(seed, num_beams, length_penalty)


@settings(max_examples=4)
@given(seeds)
def test_beams_for_everything_find_the_likeliest_of_all(seed):
    tokens, best, _ = searched(seed, N_TOKENS**MOST_TOKENS, 0.0)
    every = {
        row[: row.index(END) + 1] if END in row else row
        for row in product(range(N_TOKENS), repeat=MOST_TOKENS)
    }

    def total(row):
        return sum(odds(seed, row[:i])[token] for i, token in enumerate(row))

    assert tokens == max(every, key=total)
    assert best.sum == pytest.approx(total(tokens))


def test_more_beams_and_penalties_find_something_else():
    """Or the laws above compare nothing."""
    found = {
        search: [searched(seed, *search)[0] for seed in range(40)]
        for search in ((1, 0.0), (2, 0.0), (4, 0.0), (4, 1.0), (4, -1.0))
    }
    assert all(a != b for a, b in pairwise(found.values()))


@settings(max_examples=30)
@given(seeds, st.integers(1, 4))
def test_what_all_hypotheses_begin_with_stays(seed, num_beams):
    tokens, _, agreed = searched(seed, num_beams, 1.0)
    assert all(list(tokens[: len(each)]) == each for each in agreed)


# In a loop


class Checked(ScriptedStream):
    """Its target is always what the loop has written, and a part of what stands."""

    def _answer(self, request):
        reply = super()._answer(request)
        written = list(self.loop._target.token_ids)
        standing = [prediction.token for prediction in self.loop._predictions._standing]
        whole = [*HEADER, *written, *standing]
        if request.n_candidates:
            assert self.target == whole
        return reply


class Wordy(Checked):
    """It seldom ends its turn."""

    def predict(self):
        token = super().predict()
        return token or (super().predict() + self.seed) % 7


def run(seed, policy, kind=Checked, cuts=(), **settings):
    stream = kind(seed, copy.deepcopy(policy), **settings)
    edges = [0, *sorted(cuts), len(SOURCE)]
    for a, b in pairwise(edges):
        stream.feed(SOURCE[a:b], suffix=[99] if b == len(SOURCE) and a != b else None)
    if not stream.loop.state.source_complete:
        stream.feed([], suffix=[99])
    return stream.events


def without_passes(events):
    """All that an event says, but for how often a model ran."""
    finished = vars(events[-1]) | {"n_passes": 0}
    return [*events[:-1], finished]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=12)
@given(seed=seeds, max_tokens=st.integers(1, 30), words=st.none() | st.integers(1, 9))
def test_one_beam_is_greedy(policy, seed, max_tokens, words):
    """If length counts for nothing, for one that ends later is compared then by its length."""
    limits = {"max_tokens": max_tokens, "max_words": words}
    greedy = run(seed, policy, Wordy, **limits)
    searched = run(seed, policy, Wordy, beams=Beams(1, length_penalty=0.0), **limits)
    assert without_passes(searched) == without_passes(greedy)


def test_four_beams_are_not_greedy():
    """Or the law above holds of anything."""
    for policy in POLICIES:
        differ = [run(seed, policy) != run(seed, policy, beams=Beams(4)) for seed in range(20)]
        assert any(differ), policy


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=6)
@given(
    seed=seeds,
    num_beams=st.integers(2, 5),
    cuts=st.lists(st.integers(1, len(SOURCE))),
    read_ahead_tokens=st.sampled_from([0, 1, 4]),
)
def test_chunks_and_read_ahead_do_not_matter(policy, seed, num_beams, cuts, read_ahead_tokens):
    beams = Beams(num_beams)
    whole = run(seed, policy, beams=beams)
    cut = run(seed, policy, beams=beams, cuts=cuts, read_ahead_tokens=read_ahead_tokens)
    assert without_passes(cut) == without_passes(whole)


@pytest.mark.parametrize("policy", COUNTING, ids=str)
@settings(max_examples=6)
@given(seed=seeds, num_beams=st.integers(2, 5))
def test_when_a_word_is_written_is_the_policys_decision(policy, seed, num_beams):
    """Between two reads as many words are written as a policy asks for, and not one more."""
    events = run(seed, policy, Wordy, beams=Beams(num_beams))
    delays = events[-1].delays
    assert delays
    if isinstance(policy, WaitK):
        # Where the model has nothing to say yet, it writes later.
        wanted = [min(policy.k + i, N_WORDS) for i in range(len(delays))]
        assert all(got >= least for got, least in zip(delays, wanted, strict=True))
    text = "".join(event.text for event in events if isinstance(event, Write))
    assert text == events[-1].target_text


@settings(max_examples=12)
@given(seed=seeds, num_beams=st.integers(2, 4))
def test_with_the_whole_source_the_target_is_one_search(seed, num_beams):
    beams = Beams(num_beams)
    events = run(seed, WholeSource(), beams=beams, max_tokens=6)
    stream = ScriptedStream(seed, WholeSource())
    stream.source = [token for word in SOURCE for token in word]
    stream.source += [99]
    stream.target = list(HEADER)
    search = BeamSearch(
        beams, True, lambda _, token: None if token == END_OF_TURN else True, max_tokens=6
    )
    while not search.is_over:
        paths = [tuple(step.token for step in each.steps) for each in search.live]
        search.advance([stream.candidates(path) for path in paths])
    wanted = [step.token for step in search.best.steps if step.token != END_OF_TURN]
    assert list(events[-1].token_ids) == wanted
    assert sum(isinstance(event, Read) for event in events) == N_WORDS + 1
    assert isinstance(events[-1], Finished)
