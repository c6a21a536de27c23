"""When ranks are judged to be lost: laws, with times that are made up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.health import BEAT_S, SETTLE_S, Beat, Health, Limits, State

LIMITS = Limits(8, 60, 60)


class Group:
    """Ranks that beat every ``BEAT_S`` before a judge that looks as often."""

    def __init__(self, n=3, now_s=100.0):
        self.now_s, self.beats = now_s, {rank: Beat() for rank in range(n)}
        self.health = Health(range(n), LIMITS, now_s)

    def work(self, rank, state, steps=0, text=""):
        progress = self.beats[rank].progress + steps
        self.beats[rank] = Beat(state, progress, text)

    def live(self, for_s, silent=(), steps=0):
        """Let time pass; return the first verdict."""
        for _ in range(round(for_s / BEAT_S)):
            self.now_s += BEAT_S
            for rank in self.beats.keys() - set(silent):
                self.work(rank, self.beats[rank].state, steps, self.beats[rank].text)
                self.health.hear(rank, self.beats[rank], self.now_s)
            if (verdict := self.health.judge(self.now_s)) is not None:
                return verdict
        return None


ranks = st.integers(0, 2)


@given(ranks, st.floats(0, LIMITS.silent_s - BEAT_S), st.floats(0, 20))
def test_a_short_silence_is_no_loss(rank, silent_s, before_s):
    group = Group()
    assert group.live(before_s) is None
    assert group.live(silent_s, silent=[rank]) is None
    assert group.live(100) is None


@given(ranks, st.floats(0, 20))
def test_a_long_silence_is_a_loss_of_the_rank_that_is_silent(rank, before_s):
    group = Group()
    group.live(before_s)
    began_s = group.now_s
    verdict = group.live(100, silent=[rank])
    assert verdict.rank == rank and verdict.is_loss
    assert f"rank {rank} has sent no heartbeat for 8 s" in verdict.text
    assert LIMITS.silent_s < group.now_s - began_s <= LIMITS.silent_s + 2 * BEAT_S


@given(ranks, st.sampled_from(State))
def test_a_connection_may_close_only_at_the_end(rank, state):
    group = Group()
    group.work(rank, state)
    group.live(BEAT_S)
    group.health.lose(rank, "has closed its connection")
    verdict = group.health.judge(group.now_s)
    if state in (State.IDLE, State.BUSY):
        assert verdict.rank == rank and verdict.is_loss
    else:
        assert verdict is None
    if state is State.DONE:
        assert group.live(100, silent=[rank]) is None


@given(st.sets(ranks, min_size=1), st.sets(ranks))
def test_no_progress_of_any_rank_is_a_stall_if_one_is_busy(busy, moving):
    group = Group()
    for rank in busy:
        group.work(rank, State.BUSY, text="a pass")
    group.live(1)
    began_s, verdict = group.now_s, None
    while group.now_s < began_s + 200 and verdict is None:
        for rank in moving:
            group.work(rank, group.beats[rank].state, 1, group.beats[rank].text)
        verdict = group.live(BEAT_S)
    if moving:
        assert verdict is None
    else:
        assert LIMITS.stalled_s - 1 <= group.now_s - began_s <= LIMITS.stalled_s + 1
        assert "no rank has made progress for 60 s" in verdict.text
        for rank in busy:
            assert f"rank {rank} is busy with a pass after 0 steps" in verdict.text


def test_ranks_that_are_idle_do_not_stall():
    assert Group().live(1000) is None


@given(st.permutations([0, 1, 2]), st.sampled_from([(1, 1), (1, 0), (0, 0)]))
def test_who_is_behind_is_named(order, done):
    behind, *ahead = order
    group = Group()
    for rank, steps in zip(ahead, done, strict=True):
        group.work(rank, State.BUSY, 5 + steps, "a pass")
    group.work(behind, State.BUSY if all(done) else State.IDLE, 5)
    assert group.live(200).rank == behind


@given(ranks, st.floats(1, 10_000), st.booleans())
def test_what_the_judge_has_not_seen_is_not_held_against_others(rank, away_s, is_silent):
    """The judge itself was stopped, or the machine has slept."""
    group = Group()
    group.work(0, State.BUSY)
    group.live(5, silent=[rank])
    group.now_s += away_s
    assert group.health.judge(group.now_s) is None
    verdict = group.live(20, silent=[rank] if is_silent else [])
    assert (verdict is not None) is is_silent  # and yet it does judge


@given(ranks, ranks.filter(bool), st.floats(0, 2 * SETTLE_S))
def test_a_death_outranks_the_exceptions_that_it_causes(dead, shift, later_s):
    other = (dead + shift) % 3
    group = Group()
    group.live(2)
    failed = Beat(State.FAILED, 0, "RuntimeError: connection lost")
    group.health.hear(other, failed, group.now_s)
    assert group.health.judge(group.now_s) is None
    group.health.lose(dead, "has closed its connection")
    verdict = group.health.judge(group.now_s + later_s)
    assert verdict.rank == dead and verdict.is_loss


@given(st.permutations([0, 1, 2]), st.lists(st.booleans(), min_size=2, max_size=2))
def test_of_several_that_end_the_first_that_fails_is_named(order, are_stops):
    group = Group()
    for rank, is_stop in zip(order, [*are_stops, False], strict=True):
        state = State.STOPPED if is_stop else State.FAILED
        group.health.hear(rank, Beat(state, 0, f"of {rank}"), group.now_s)
    verdict = group.health.judge(group.now_s + SETTLE_S)
    first = order[[*are_stops, False].index(False)]
    assert verdict.rank == first and not verdict.is_loss
    assert verdict.text == f"rank {first} fails: of {first}"


@given(st.sampled_from(["silent_s", "stalled_s", "start_s"]), st.floats(max_value=1.99))
def test_limits_below_a_few_heartbeats_are_refused(name, value):
    with pytest.raises(InvalidOptionError, match=f"{name} must be at least 2"):
        replace(LIMITS, **{name: value})
