"""What rank 0 may ask of the ranks, and when; a group of one does it to itself."""

import signal
import threading

import mlx.core as mx
import pytest

from mlx_simul.engine.orders import Thing, encoded, order
from mlx_simul.engine.ranks import Ranks
from mlx_simul.errors import RanksError


class Counter(Thing):
    """Counts, and does something in the middle of it."""

    def __init__(self, ranks):
        self.count, self.meanwhile = 0, lambda: None
        ranks.add_common(self)

    @order
    def add(self, n: int) -> None:
        self.meanwhile()
        self.count += n


@pytest.fixture
def ranks():
    return Ranks(mx.distributed.init())


@pytest.fixture
def counter(ranks):
    return Counter(ranks)


def test_once_the_others_have_been_told_to_end_nothing_more_is_asked_of_them(ranks, counter):
    counter.add(1)
    assert ranks.stop_all(0)
    with pytest.raises(RanksError, match="have been told to end"):
        counter.add(1)
    assert counter.count == 1
    assert ranks.stop_all(1)  # they have ended in order


def test_no_thread_gives_an_order_in_the_middle_of_anothers(ranks, counter):
    refused, ended = [], []

    def give():
        try:
            counter.add(10)
        except RanksError as error:
            refused.append(str(error))
        ended.append(ranks.stop_all(0))

    def meanwhile():
        thread = threading.Thread(target=give)
        thread.start()
        thread.join()

    counter.meanwhile = meanwhile
    counter.add(1)
    assert counter.count == 1
    assert len(refused) == 1 and "another order is under way" in refused[0]
    assert ended == [False]  # their place in the order is not known


def test_a_rank_that_could_not_compute_its_part_does_not_wait_for_the_next_order(
    ranks, counter, monkeypatch
):
    orders = iter([encoded(counter, "add", (1,))])
    ranks.rank, ranks._hear = 1, lambda: next(orders)
    compute = mx.eval

    def short_of_memory(*trees):
        if counter.count:
            raise RuntimeError("no memory is left")
        compute(*trees)

    monkeypatch.setattr(mx, "eval", short_of_memory)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(RuntimeError, match="no memory is left"):
            ranks.follow()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_ctrl_c_waits_for_the_end_of_an_order(ranks, counter):
    counter.meanwhile = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), ranks.leading():
        counter.add(1)
    assert counter.count == 1
    assert ranks.stop_all(0)


def test_a_second_ctrl_c_does_not_wait_and_the_others_are_not_led_on(ranks, counter):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    counter.meanwhile = twice
    with pytest.raises(KeyboardInterrupt), ranks.leading():
        counter.add(1)
    assert counter.count == 0
    assert not ranks.stop_all(0)
    with pytest.raises(RanksError, match="no longer in step"):
        counter.add(1)
