"""A group whose ranks are killed, stopped, or hang: all others end with one named error."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from distributed.processes import NEVER_S, SCRIPT, ranks, seconds_to_end
from repository import ROOT

from mlx_simul.machine.liveness import EXIT_LOST

pytestmark = pytest.mark.distributed

MOMENTS = [f"loading {step}" for step in range(4)] + [
    f"{what} {step}" for step in range(6) for what in ("pass", "token")
]
"""Behind which a rank is killed: the next lines are the pass itself, and what is between two."""
END_S = 10


def said_error(rank):
    (line,) = [line for line in rank.errors.splitlines() if line.startswith("mlx-simul: rank ")]
    return line


def ended_because(group, rank, seen):
    """Whether all of a group ended by themselves, and all said the same of a rank."""
    for each in group:
        assert each.code() == EXIT_LOST
        assert f"RanksError: rank {rank} {seen}" in said_error(each)


def test_all_end_when_one_is_killed(tmp_path, pytestconfig):
    draw = random.Random(18)
    slowest_s = 0.0
    for trial in range(pytestconfig.getoption("--kills")):
        n = draw.choice([2, 3, 4])
        victim, moment, later_s = draw.randrange(n), draw.choice(MOMENTS), draw.uniform(0, 0.01)
        with ranks(tmp_path / str(trial), n, "--pause-s", "0.02") as group:
            lost = group[victim]
            for line in lost.lines():
                if f"{line} ".startswith(f"{moment} "):
                    break
            time.sleep(later_s)
            assert lost.process.poll() is None
            lost.process.send_signal(signal.SIGKILL)
            others = [each for each in group if each is not lost]
            took_s = seconds_to_end(others)
            ended_because(others, victim, "has closed its connection")
        print(
            f"rank {victim} of {n} killed {later_s * 1000:.0f} ms behind {moment!r}: {took_s:.2f} s"
        )
        slowest_s = max(slowest_s, took_s)
    print(f"the slowest end took {slowest_s:.2f} s")
    assert slowest_s < END_S


def test_a_rank_that_stops_for_5_s_changes_nothing(tmp_path):
    said = []
    for stop_s in (0, 5):
        with ranks(tmp_path / str(stop_s), 2) as group:
            group[1].wait_for("pass 3")
            if stop_s:
                group[1].process.send_signal(signal.SIGSTOP)
                time.sleep(stop_s)
                group[1].process.send_signal(signal.SIGCONT)
            assert [each.code() for each in group] == [0, 0]
            assert [each.errors for each in group] == ["", ""]
            said.append([each.tokens for each in group])
    undisturbed, disturbed = said
    assert disturbed == undisturbed
    assert undisturbed[0] == undisturbed[1]
    assert len({token.split()[2] for token in undisturbed[0]}) > 1


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_stops_for_good_ends_all(tmp_path, stopped):
    with ranks(tmp_path, 2, "--limits", "4", "60", "60") as group:
        lost, other = group[stopped], group[1 - stopped]
        lost.wait_for("pass 1")
        lost.process.send_signal(signal.SIGSTOP)
        ended_because([other], stopped, "has sent no heartbeat for 4 s")
        lost.process.send_signal(signal.SIGCONT)
        assert lost.code() != 0  # it does not go on alone


def test_a_rank_that_lives_and_does_nothing_ends_all(tmp_path):
    how = ("--how", "hang", "--rank", "1", "--at", "2")
    with ranks(tmp_path, 2, "--limits", "8", "10", "60", *how) as group:
        assert [each.code() for each in group] == [EXIT_LOST] * 2
        for each in group:
            assert "no rank has made progress for 10 s" in said_error(each)
            assert "rank 0 is busy with a pass" in said_error(each)
            assert "rank 1 is idle" in said_error(each)
            assert "wait for rank 1" in said_error(each)


def test_ranks_that_wait_for_work_do_not_stall(tmp_path):
    with ranks(tmp_path, 2, "--limits", "8", "7", "60", "--passes", "2", "--pause-s", "9") as group:
        assert [each.code() for each in group] == [0, 0]
        assert [each.errors for each in group] == ["", ""]


def test_a_rank_that_keeps_pythons_lock_ends(tmp_path):
    how = ("--how", "hold", "--rank", "1", "--at", "2")
    with ranks(tmp_path, 2, "--limits", "4", "60", "60", *how) as group:
        ended_because([group[0]], 1, "has sent no heartbeat for 4 s")
        assert group[1].code() == 1
        assert "in misbehave" in group[1].errors  # where it hangs


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_ends_all(tmp_path, failing):
    how = ("--how", "raise", "--rank", str(failing), "--at", "2")
    with ranks(tmp_path, 2, *how) as group:
        error = r"fails: ValueError: this rank has been told to fail\x1b[2J"
        ended_because([group[1 - failing]], failing, error)
        assert group[failing].code() == 1
        assert "RanksError" not in group[failing].errors
        assert "ValueError: this rank has been told to fail" in group[failing].errors


@pytest.mark.parametrize("n_started", [1, 2])
def test_ranks_that_do_not_start_end_those_that_do(tmp_path, n_started):
    limits = ("--limits", "2", "60", "3")
    with ranks(tmp_path, n_started + 1, *limits, n_started=n_started) as group:
        for each in group:
            assert each.code() != 0
            assert "distributed.init" in each.errors or "in <lambda>" in each.errors


def launched(*options):
    """Two ranks under mlx.launch, which ends all of them once one has ended badly."""
    main = "from mlx._distributed_utils.launch import main; main()"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", main, "-n", "2", "--backend", "ring", "-p", str(port)]
    return subprocess.run(
        [*command, "--", sys.executable, str(SCRIPT), *options],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=NEVER_S,
    )


def test_under_mlx_launch_all_end_well():
    ended = launched()
    assert ended.stdout.count("ended") == 2
    assert ended.stderr == ""


def test_under_mlx_launch_the_others_say_who_was_lost():
    ended = launched("--how", "die", "--rank", "1", "--at", "2")
    assert "ended" not in ended.stdout
    assert "rank 0 ends. RanksError: rank 1 has closed its connection" in ended.stderr
