"""A signal waits while something must not be left half done."""

import signal
import subprocess
import sys
import threading

import pytest

from mlx_simul.machine.interrupts import Shield, signals_end_at_once


@pytest.fixture
def shield():
    shield = Shield()
    shield.install()
    yield shield
    shield.uninstall()


def test_ctrl_c_comes_when_the_shield_is_down_again(shield):
    done = []
    with pytest.raises(KeyboardInterrupt), shield.up():
        with shield.up():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_without_the_shield_it_comes_at_once(shield):
    """Negative control."""
    done = []
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        done.append("behind")
    assert not done


def test_a_second_ctrl_c_does_not_wait(shield):
    done = []
    with pytest.raises(KeyboardInterrupt), shield.up():
        signal.raise_signal(signal.SIGINT)
        done.append("behind the first")
        signal.raise_signal(signal.SIGINT)
        done.append("behind the second")
    assert done == ["behind the first"]
    with shield.up():
        pass  # nothing of them is left


def test_another_thread_may_put_it_up(shield):
    up, down = threading.Event(), threading.Event()

    def hold():
        with shield.up():
            up.set()
            down.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    up.wait()
    signal.raise_signal(signal.SIGINT)  # nothing happens yet
    with pytest.raises(KeyboardInterrupt):
        down.set()
        thread.join()
        threading.Event().wait(60)  # it comes as soon as this thread runs on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_that_holds_pythons_lock(number):
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.send_signal(number)
        assert process.wait(60) == -number  # it would sleep for longer


HOLDS = """
import ctypes, os
from mlx_simul.machine.interrupts import signals_end_at_once
with signals_end_at_once():
    os.write(1, b".")
    ctypes.PyDLL(None).sleep(600)
"""


def test_handlers_are_put_back_behind_it():
    before = signal.getsignal(signal.SIGINT)
    with signals_end_at_once():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    shield = Shield()
    shield.install()
    assert signal.getsignal(signal.SIGINT) != before[0]
    shield.uninstall()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
