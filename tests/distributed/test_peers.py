"""Processes that share a job hear each other, and find out that another has ended."""

import mlx.core as mx
import pytest
from launching import cases, launched

from mlx_simul.machine.peers import Peers, checksum

pytestmark = pytest.mark.distributed


# 248 bytes are what fits into one message: quotes, and 246 characters on rank 1.
@pytest.mark.parametrize(("n_ranks", "length"), [(1, 9), (2, 246), (2, 247), (3, 10_000)])
def test_ranks_hear_each_other(n_ranks, length):
    heard = cases(n_ranks, "peers_main.py", {"n_items": 7, "length": length})
    assert [each["rank"] for each in heard] == list(range(n_ranks))
    assert sorted(item for each in heard for item in each["share"]) == list(range(7))
    mean = sum(range(n_ranks)) / n_ranks
    for each in heard:
        assert each["lengths"] == [rank * length for rank in range(n_ranks)]
        assert each["texts"] == ["é猫" * rank for rank in range(n_ranks)]
        assert each["plain"] == [[rank, None, {"a": 0.1 + rank}] for rank in range(n_ranks)]
        assert each["nan"] == [True] * n_ranks
        assert each["average"] == [pytest.approx([mean] * 3), [[pytest.approx(2 * mean)]]]
        assert len(set(each["checksums"])) == n_ranks
        if n_ranks > 1:
            assert "rank 1 has a different two from rank 0 (1, not 0)" in each["refused"]
        else:
            assert each["refused"] is None


LOSES = """
import os, mlx.core as mx
from mlx_simul.machine.peers import Peers
peers = Peers(mx.distributed.init())
peers.gather(1)
if peers.rank == 1:
    os._exit(3)
{}
"""


@pytest.mark.parametrize("call", ["peers.gather(2)", "peers.average([mx.ones(3)])"])
def test_a_rank_that_ends_is_missed(call):
    first, second = launched(2, "-c", LOSES.format(call))
    assert second.code == 3
    assert first.code == 1
    assert "RanksError: rank 0 has lost another rank" in first.err


def test_a_checksum_sees_every_bit():
    arrays = {"a": mx.array([1.0, 2.0]), "b": mx.array(3, mx.uint64), "c": mx.ones(2, mx.bfloat16)}
    assert checksum(arrays) == checksum(dict(reversed(arrays.items())))
    for name, other in (("a", mx.array([1.0, 2.0000002])), ("b", mx.array(4, mx.uint64))):
        assert checksum(arrays) != checksum({**arrays, name: other})


def test_one_process_alone_sends_nothing():
    peers, tree = Peers(), {"a": mx.ones(2)}
    assert peers.gather((1, 2)) == [(1, 2)]
    assert peers.average(tree) is tree
    assert peers.is_first
