"""A group whose ranks are killed, stopped, or hang: all others end with one named error."""

import random
import re
import signal
import time

import pytest
from launching import HERE, by_mlx_launch, ended, started

from mlx_simul.machine.liveness import EXIT_LOST

pytestmark = pytest.mark.distributed

MOMENTS = [f"loading {step}" for step in range(4)] + [
    f"{what} {step}" for step in range(6) for what in ("pass", "token")
]
"""Behind which a rank is killed: the next lines are the pass itself, and what is between two."""
END_S = 10
SCRIPT = HERE / "one_rank.py"


def ranks(n, *options, n_started=None):
    """Ranks with nothing that ends the others, as ``mlx.launch`` does."""
    return started(n, SCRIPT, *options, n_started=n_started)


def tokens(rank):
    """What its passes gave."""
    return [line for line in rank.out.splitlines() if line.startswith("token")]


def said_error(rank):
    # MLX's ring writes its own messages in pieces, so ours may stand within a line of one.
    said = re.findall("mlx-simul: rank .*", rank.err)
    assert len(said) == 1, repr(rank)  # which pytest shows once the outputs have been deleted
    return said[0]


def ended_because(group, rank, *seen):
    """Whether all of a group ended by themselves, and each said one of these things of a rank."""
    for each in group:
        assert each.ended().code == EXIT_LOST
        said = said_error(each)
        assert any(f"RanksError: rank {rank} {what}" in said for what in seen), said


def test_all_end_when_one_is_killed(pytestconfig):
    draw = random.Random(18)
    slowest_s = 0.0
    for _ in range(pytestconfig.getoption("--kills")):
        n = draw.choice([2, 3, 4])
        victim, moment, later_s = draw.randrange(n), draw.choice(MOMENTS), draw.uniform(0, 0.01)
        with ranks(n, "--pause-s", "0.02", "--passes", "1000") as group:
            lost = group[victim]
            for line in lost.lines():
                if f"{line} ".startswith(f"{moment} "):
                    break
            time.sleep(later_s)
            assert lost.process.poll() is None
            lost.process.send_signal(signal.SIGKILL)
            others = [each for each in group if each is not lost]
            since_s = time.monotonic()
            ended(others)
            took_s = time.monotonic() - since_s
            ended_because(others, victim, "has closed its connection")
        print(
            f"rank {victim} of {n} killed {later_s * 1000:.0f} ms behind {moment!r}: {took_s:.2f} s"
        )
        slowest_s = max(slowest_s, took_s)
    print(f"the slowest end took {slowest_s:.2f} s")
    assert slowest_s < END_S


def test_a_rank_that_stops_for_5_s_changes_nothing():
    said = []
    for stop_s in (0, 5):
        with ranks(2, "--pause-s", "0.2") as group:  # so that it stops in the middle
            group[1].wait_for("pass 3")
            if stop_s:
                group[1].process.send_signal(signal.SIGSTOP)
                time.sleep(stop_s)
                group[1].process.send_signal(signal.SIGCONT)
            assert [each.ended().code for each in group] == [0, 0]
            assert [each.err for each in group] == ["", ""]
            said.append([tokens(each) for each in group])
    undisturbed, disturbed = said
    assert disturbed == undisturbed
    assert undisturbed[0] == undisturbed[1]
    assert len({token.split()[2] for token in undisturbed[0]}) > 1


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_stops_for_good_ends_all(stopped):
    with ranks(2, "--limits", "4", "60", "60", "--pause-s", "0.02", "--passes", "100000") as group:
        lost, other = group[stopped], group[1 - stopped]
        lost.wait_for("pass 1")
        lost.process.send_signal(signal.SIGSTOP)
        ended_because([other], stopped, "has sent no heartbeat for 4 s")
        lost.process.send_signal(signal.SIGCONT)
        assert lost.ended().code != 0  # it does not go on alone


def test_a_rank_that_lives_and_does_nothing_ends_all():
    how = ("--how", "hang", "--rank", "1", "--at", "2")
    with ranks(2, "--limits", "8", "10", "60", *how) as group:
        assert [each.ended().code for each in group] == [EXIT_LOST] * 2
        for each in group:
            assert "no rank has made progress for 10 s" in said_error(each)
            assert "rank 0 is busy with a pass" in said_error(each)
            assert "rank 1 is idle" in said_error(each)
            assert "wait for rank 1" in said_error(each)


def test_ranks_that_wait_for_work_do_not_stall():
    with ranks(2, "--limits", "8", "7", "60", "--passes", "2", "--pause-s", "9") as group:
        assert [each.ended().code for each in group] == [0, 0]
        assert [each.err for each in group] == ["", ""]


def test_a_rank_that_keeps_pythons_lock_ends():
    how = ("--how", "hold", "--rank", "1", "--at", "2")
    with ranks(2, "--limits", "4", "60", "60", *how) as group:
        # On a busy machine rank 1 may have ended itself before rank 0 has looked.
        said = ("has sent no heartbeat for 4 s", "has closed its connection")
        ended_because([group[0]], 1, *said)
        assert group[1].ended().code == 1
        assert "in misbehave" in group[1].err  # where it hangs


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_ends_all(failing):
    how = ("--how", "raise", "--rank", str(failing), "--at", "2")
    with ranks(2, *how) as group:
        error = r"fails: ValueError: this rank has been told to fail\x1b[2J"
        ended_because([group[1 - failing]], failing, error)
        assert group[failing].ended().code == 1
        assert "RanksError" not in group[failing].err
        assert "ValueError: this rank has been told to fail" in group[failing].err


@pytest.mark.parametrize("n_started", [1, 2])
def test_ranks_that_do_not_start_end_those_that_do(n_started):
    limits = ("--limits", "2", "60", "3")
    with ranks(n_started + 1, *limits, n_started=n_started) as group:
        for each in group:
            assert each.ended().code != 0
            assert "distributed.init" in each.err or "in <lambda>" in each.err


def test_under_mlx_launch_all_end_well():
    result = by_mlx_launch(2, SCRIPT)
    assert result.out.count("ended") == 2
    assert result.err == ""


def test_under_mlx_launch_the_others_say_who_was_lost():
    result = by_mlx_launch(2, SCRIPT, "--how", "die", "--rank", "1", "--at", "2")
    assert "ended" not in result.out
    assert "rank 0 ends. RanksError: rank 1 has closed its connection" in result.err
