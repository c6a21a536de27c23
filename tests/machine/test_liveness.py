"""What one rank knows of its group; several of them are in tests/distributed."""

import json

import pytest

from mlx_simul.errors import InvalidOptionError, RanksError
from mlx_simul.machine.health import STALLED_VAR, Limits
from mlx_simul.machine.liveness import ADDRESS_VAR, Liveness, limits_in, rank_0_host


def test_rank_0_is_where_mlx_launch_says(tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["10.0.0.1:5000", "10.0.1.1:5001"], ["10.0.0.2:5000"]]))
    ring = {"MLX_HOSTFILE": str(hosts)}
    assert rank_0_host(ring) == "10.0.0.1"
    assert rank_0_host({"MLX_JACCL_COORDINATOR": "10.0.0.3:5000"}) == "10.0.0.3"
    assert rank_0_host({"MLX_JACCL_COORDINATOR": "[fd00::3]:5000"}) == "fd00::3"
    assert rank_0_host({"NCCL_HOST_IP": "10.0.0.4"}) == "10.0.0.4"
    assert rank_0_host({**ring, ADDRESS_VAR: "10.0.0.5"}) == "10.0.0.5"


@pytest.mark.parametrize("text", ["", "[]", "[[]]", "{}", '["a"]', "[[1]]", "[[null]]", "nonsense"])
def test_a_hostfile_without_rank_0_is_refused(tmp_path, text):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(text)
    for environment in ({"MLX_HOSTFILE": str(hosts)}, {"MLX_HOSTFILE": str(tmp_path)}, {}):
        with pytest.raises(RanksError, match=f"set {ADDRESS_VAR} to an address of rank 0"):
            rank_0_host(environment)


def test_how_long_a_pass_may_take_may_come_from_the_environment():
    assert limits_in({}) == limits_in({STALLED_VAR: ""}) == Limits()
    assert limits_in({STALLED_VAR: "300"}) == Limits(stalled_s=300)


@pytest.mark.parametrize("text", ["1", "-5", "nan", "long"])
def test_other_limits_are_refused(text):
    with pytest.raises(InvalidOptionError, match=f"{STALLED_VAR} is a number .* got '{text}'"):
        limits_in({STALLED_VAR: text})


class Alone:
    """A group of one."""

    def rank(self):
        return 0

    def size(self):
        return 1


def test_a_rank_that_is_alone_is_not_watched():
    with Liveness(Alone()) as watch:
        with watch.busy("loading"):
            watch.progress()
        with watch.guard(is_idle=False), watch.guard(is_idle=True):
            pass
    with pytest.raises(KeyError), Liveness(Alone()) as watch, watch.busy("a pass"):
        raise KeyError


class Said:
    """In place of a side channel, what was said."""

    def __init__(self):
        self.beats = []

    def __setattr__(self, name, value):
        if name == "beat":
            self.beats.append((value.state.name, value.progress, value.text))
        else:
            super().__setattr__(name, value)


def test_what_a_rank_does_is_said():
    watch = Liveness(Alone())
    watch._channel = said = Said()
    with watch.busy("loading"):
        watch.progress(5)
        with watch.busy("a pass"):
            pass
    with watch.guard(is_idle=True):
        pass
    assert said.beats == [
        ("BUSY", 0, "loading"),
        ("BUSY", 5, "loading"),
        ("BUSY", 5, "a pass"),
        ("BUSY", 6, "loading"),
        ("IDLE", 7, ""),
    ]
