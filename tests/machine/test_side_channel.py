"""Ranks in one process that beat over real sockets, and strangers among them."""

import queue
import socket
import struct
import threading
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import RanksError
from mlx_simul.machine import side_channel
from mlx_simul.machine.health import Beat, Limits, State, Verdict
from mlx_simul.machine.side_channel import (
    MAX_STRANGERS,
    TOKEN_BYTES,
    Hub,
    Spoke,
    decoded,
    encoded,
)

NEVER_S = 60
LIMITS = Limits(30, 30, 30)
PATIENT = Beat(State.BUSY, 0, "waiting for the others to end")
DONE = Beat(State.DONE)


class Group:
    """A hub and its spokes, and what each was told to end for."""

    def __init__(self, size, limits=LIMITS):
        self.ended = [queue.SimpleQueue() for _ in range(size)]
        self.hub = Hub("127.0.0.1", size, limits, self.ended[0].put)
        address = ("127.0.0.1", self.hub.port)
        self.spokes = [
            Spoke(rank, address, self.hub.token, limits, self.ended[rank].put)
            for rank in range(1, size)
        ]

    def start(self, strangers=lambda address: None):
        """Start all; between rank 0 and the others something may happen."""
        hub = threading.Thread(target=self.hub.start, daemon=True)
        hub.start()
        strangers(("127.0.0.1", self.hub.port))
        for spoke in self.spokes:
            spoke.start()
        hub.join(NEVER_S)
        assert not hub.is_alive()

    def leave(self):
        """Leave as ranks do that have done all: rank 0 waits for the others."""
        hub = threading.Thread(target=self.hub.leave, args=[PATIENT], daemon=True)
        hub.start()
        for spoke in self.spokes:
            spoke.leave(DONE)
        hub.join(NEVER_S)
        assert not hub.is_alive()
        assert all(each.empty() for each in self.ended)

    def verdicts(self):
        """What all were told."""
        return [each.get(timeout=NEVER_S) for each in self.ended]


def test_all_leave_without_a_verdict():
    group = Group(3)
    group.start()
    group.leave()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_hear_the_same_verdict(failing):
    group = Group(3)
    group.start()
    failed = [group.hub, *group.spokes][failing]
    failed.leave(Beat(State.FAILED, 3, "ValueError: no"))
    assert (
        group.verdicts() == [Verdict(failing, f"rank {failing} fails: ValueError: no", False)] * 3
    )


def test_a_rank_that_connects_late_hears_the_verdict(monkeypatch):
    monkeypatch.setattr(side_channel, "_LAST_WORDS_S", NEVER_S)
    group = Group(3)
    threading.Thread(target=group.hub.start, daemon=True).start()
    with socket.create_connection(("127.0.0.1", group.hub.port)) as first:
        first.sendall(hello(group.hub.token, 1))
        first.sendall(encoded(Beat(State.FAILED, 0, "ValueError: no")))
        heard = b""
        while b"fails: ValueError: no" not in heard:
            piece = first.recv(1024)
            assert piece, heard
            heard += piece
        late = threading.Thread(target=group.spokes[1].start, daemon=True)
        late.start()
        verdict = Verdict(1, "rank 1 fails: ValueError: no", False)
        assert group.ended[2].get(timeout=NEVER_S) == verdict
    assert group.ended[0].get(timeout=NEVER_S) == verdict


def is_turned_away(connection):
    """Whether the other side closes without a word."""
    connection.settimeout(NEVER_S)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def hello(token, rank):
    return struct.pack("!16sI", token, rank)


def test_strangers_are_turned_away_and_disturb_nothing():
    group = Group(2)

    def strangers(address):
        wrong = [
            hello(bytes(TOKEN_BYTES), 1),
            hello(group.hub.token[:-1] + bytes([group.hub.token[-1] ^ 1]), 1),
            hello(group.hub.token, 0),
            hello(group.hub.token, 2),
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]
        for said in wrong:
            with socket.create_connection(address) as connection:
                connection.sendall(said)
                assert is_turned_away(connection), said

    group.start(strangers)
    group.leave()


def test_who_knows_the_token_is_admitted_once():
    """The control of the test above: what is said there is refused for what it says."""
    group = Group(3)
    address = ("127.0.0.1", group.hub.port)

    def twice(address):
        for _ in range(2):
            own = stack.enter_context(socket.create_connection(address))
            own.sendall(hello(group.hub.token, 1))
            own.sendall(encoded(Beat()))
            connections.append(own)

    connections = []
    with ExitStack() as stack:
        threading.Thread(target=group.hub.start, daemon=True).start()
        twice(address)
        first, second = connections
        assert is_turned_away(second)
        assert len(first.recv(1, socket.MSG_WAITALL)) == 1  # a heartbeat of rank 0 begins


def test_strangers_that_wait_are_bounded():
    group = Group(2)
    with ExitStack() as stack:
        hub = threading.Thread(target=group.hub.start, daemon=True)
        hub.start()
        address = ("127.0.0.1", group.hub.port)
        silent = [
            stack.enter_context(socket.create_connection(address)) for _ in range(MAX_STRANGERS)
        ]
        with socket.create_connection(address) as one_more:
            assert is_turned_away(one_more)
        for each in silent:
            assert is_turned_away(each)  # a little later
        group.spokes[0].start()
        hub.join(NEVER_S)
        group.leave()


@pytest.mark.parametrize(
    "said", [b"\xc8" * 1024, encoded(Verdict(0, "I say so")), encoded(Beat(text="\ud800"))[:-1]]
)
def test_a_rank_that_says_nonsense_is_lost(said):
    group = Group(2)
    hub = threading.Thread(target=group.hub.start, daemon=True)
    hub.start()
    with socket.create_connection(("127.0.0.1", group.hub.port)) as mad:
        mad.sendall(hello(group.hub.token, 1) + said)
        mad.shutdown(socket.SHUT_WR)
        verdict = group.ended[0].get(timeout=NEVER_S)
    assert verdict.rank == 1 and verdict.is_loss


def test_a_rank_0_that_cannot_be_reached_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    spoke = Spoke(1, address, bytes(TOKEN_BYTES), LIMITS, lambda verdict: None)
    with pytest.raises(RanksError, match="rank 0 cannot be reached at 127"):
        spoke.start()


def test_a_rank_with_another_token_is_turned_away():
    group = Group(2)
    threading.Thread(target=group.hub.start, daemon=True).start()
    address = ("127.0.0.1", group.hub.port)
    other = Spoke(1, address, bytes(TOKEN_BYTES), LIMITS, lambda verdict: None)
    with pytest.raises(RanksError, match="rank 0 cannot be reached at 127"):
        other.start()
    group.spokes[0].start()
    group.leave()


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=250)
numbers = st.integers(0, 2**64 - 1)


@given(st.builds(Beat, st.sampled_from(State), numbers, texts) | st.builds(Verdict, numbers, texts))
def test_a_frame_says_what_was_put_into_it(said):
    assert decoded(encoded(said)) == said


@given(st.text(min_size=1, max_size=20))
def test_a_text_that_is_too_long_says_that_it_goes_on(piece):
    text = piece * 1100
    frame = encoded(Beat(text=text))
    assert len(frame) == len(encoded(Beat()))
    said = decoded(frame).text
    assert said.endswith("…")
    assert text.encode(errors="backslashreplace").startswith(said[:-1].encode())


@given(st.binary(min_size=1024, max_size=1024))
def test_any_bytes_are_a_frame_or_a_value_error(frame):
    with suppress(ValueError):
        assert isinstance(decoded(frame), Beat | Verdict)
