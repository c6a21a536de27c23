"""A source that is heard on a thread of its own: nothing is lost, whoever ends it."""

import os
import signal
import threading
import warnings

import pytest
from speech_scripts import said

from mlx_simul.console.ear import MAX_WAITING_HYPOTHESES, Ear, stopping_first
from mlx_simul.errors import RecogniserError, SimulWarning
from mlx_simul.speech.recogniser import Hypothesis


class Heard:
    """Hypotheses; an exception among them is raised, and an event waited for."""

    began_s = None

    def __init__(self, *items):
        self.items = items
        self.stops = []
        self.thread = None

    def __iter__(self):
        self.thread = threading.current_thread()
        for item in self.items:
            if isinstance(item, Exception) and not isinstance(item, SimulWarning):
                raise item
            if isinstance(item, threading.Event):
                item.wait()
            else:
                yield item

    def stop(self, *, now=False):
        self.stops.append(now)


def read_all(ear):
    items = []
    while (item := ear.read()) is not None:
        items.append(item)
    return items


def test_what_is_heard_is_read_in_order_and_heard_on_another_thread():
    script = [said(f"word{i}", i + 1.0) for i in range(3 * MAX_WAITING_HYPOTHESES)]
    with Ear(hearing := Heard(*script)) as ear:
        assert read_all(ear) == script
        ear.require_whole()
        assert ear.words.end_s(len(script)) == len(script)
    assert hearing.thread is not threading.current_thread()
    assert not hearing.thread.is_alive()


def test_reading_without_waiting_tells_nothing_yet_from_the_end():
    go_on = threading.Event()
    with Ear(Heard(go_on)) as ear:
        assert ear.read(wait=False) == ""
        go_on.set()
        assert ear.read() is None


def test_what_broke_off_is_raised_behind_all_that_was_heard():
    one = said("one", 1.0)
    with Ear(Heard(one, RecogniserError("out of memory"))) as ear:
        assert read_all(ear) == [one]
        with pytest.raises(RecogniserError, match="out of memory"):
            ear.require_whole()


def test_a_warning_is_said_by_the_thread_that_reads():
    with Ear(Heard(SimulWarning("late"), said("one", 1.0))) as ear:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert len(read_all(ear)) == 1
        assert [str(warning.message) for warning in told] == ["late"]


def test_one_who_leaves_does_not_wait_for_what_is_not_read():
    hearing = Heard(*[Hypothesis()] * (2 * MAX_WAITING_HYPOTHESES))
    with Ear(hearing) as ear:
        ear.read()
    assert hearing.stops == [True]
    assert not hearing.thread.is_alive()


def test_one_who_stops_hears_the_rest():
    hearing = Heard(said("one", 1.0), said("two", 2.0))
    with Ear(hearing) as ear:
        ear.stop()
        assert (ear.is_stopped, hearing.stops, len(read_all(ear))) == (True, [False], 2)


def test_the_first_ctrl_c_stops_and_the_second_interrupts():
    stops = []
    with stopping_first(lambda: stops.append(True)):
        os.kill(os.getpid(), signal.SIGINT)
        assert stops == [True]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_command_in_the_background_goes_on():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_first(lambda: pytest.fail("stopped")):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_on_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)

    def look():
        with stopping_first(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Where the suite runs in the background, it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
