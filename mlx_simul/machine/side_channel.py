"""Heartbeats between the ranks of a group, over TCP beside MLX's own connections.

Rank 0 listens, the others connect to it and prove by a token that they belong to the group. From
then on frames of one size are all that is said, so a stranger, or a rank that has gone wrong, can
send nothing that grows. In each rank one thread does all this and never touches MLX, so a
collective that hangs cannot hold it up.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hmac
import math
import secrets
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from mlx_simul.errors import RanksError
from mlx_simul.machine.health import BEAT_S, Beat, Health, Limits, State, Verdict

TOKEN_BYTES = 16
MAX_STRANGERS = 16
"""Connections that have not said yet which rank they are; more are closed at once."""

HELLO_S = 5.0
"""How long a connection may take to say which rank it is."""

_LAST_WORDS_S = 1.0  # for the others to hear why they end, before the connection closes
_TEXT_BYTES = 1015
_HELLO = struct.Struct(f"!{TOKEN_BYTES}sI")
_FRAME = struct.Struct(f"!BQ{_TEXT_BYTES}s")  # a state, its progress, text; or below, a rank, text
_LOSS, _FAILURE = 255, 254
_STDERR = 2


def encoded(said: Beat | Verdict) -> bytes:
    """A frame; a text that is too long for it is cut, and ends in ``…``."""
    text = said.text.encode(errors="backslashreplace")
    if len(text) > _TEXT_BYTES:
        text = text[: _TEXT_BYTES - 3].decode(errors="ignore").encode() + "…".encode()
    if isinstance(said, Verdict):
        return _FRAME.pack(_LOSS if said.is_loss else _FAILURE, said.rank, text)
    return _FRAME.pack(said.state, said.progress, text)


def decoded(frame: bytes) -> Beat | Verdict:
    """What a frame says.

    Raises:
        ValueError: if it is not one.
    """
    kind, number, padded = _FRAME.unpack(frame)
    text = padded.rstrip(b"\0").decode()
    if kind in (_LOSS, _FAILURE):
        return Verdict(number, text, is_loss=kind == _LOSS)
    return Beat(State(kind), number, text)


class SideChannel(ABC):
    """The connections of one rank, and the thread that owns them.

    Args:
        rank: of this process.
        judged: the ranks that this one judges.
        limits: how long ranks wait for one another.
        on_end: called once, on the thread, when all ranks have to end.

    Attributes:
        beat: what this rank says of itself; it may be replaced at any time.
    """

    def __init__(
        self,
        rank: int,
        judged: Iterable[int],
        limits: Limits,
        on_end: Callable[[Verdict], None],
    ) -> None:
        self.beat = Beat()
        self._rank, self._limits, self._on_end = rank, limits, on_end
        self._health = Health(judged, limits, time.monotonic())
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._verdict: Verdict | None = None
        self._is_leaving = False
        self._connected: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    # Called by other threads

    def start(self) -> None:
        """Connect, and begin to beat.

        Raises:
            RanksError: if rank 0 cannot be reached. A rank that is missing ends the process, as one
                that is lost later does.
        """
        self._thread.start()
        self._connected.result()

    def hurry(self) -> None:
        """Send the heartbeat now."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._wake.set)

    def leave(self, beat: Beat) -> None:
        """Say the last heartbeat, and wait until the thread has nothing more to do."""
        self.beat, self._is_leaving = beat, True
        self.hurry()
        self._thread.join()

    # Called by the thread

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, or begin to be connected to.

        Raises:
            RanksError: if rank 0 cannot be reached.
        """

    @property
    @abstractmethod
    def _has_finished(self) -> bool:
        """Whether this rank leaves and may: all that it has to wait for has happened."""

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except (
            Exception
        ) as error:  # a fault of ours; without heartbeats nothing would notice that others are lost
            self._on_end(
                Verdict(self._rank, f"the heartbeats of rank {self._rank} broke: {error!r}")
            )
        finally:
            faulthandler.cancel_dump_traceback_later()

    async def _live(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._connect()
            await self._beat_on()
        except RanksError as error:
            self._connected.set_exception(error)
        finally:
            self._close()

    async def _beat_on(self) -> None:
        while not self._has_finished:
            self._guard()
            now_s = time.monotonic()
            self._beat(now_s)
            self._verdict = self._verdict or self._health.judge(now_s)
            if self._verdict is not None:
                await self._end(self._verdict)
                return
            await self._woken(BEAT_S)

    async def _woken(self, at_most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._wake.wait()
        self._wake.clear()

    def _guard(self) -> None:
        # While other code holds Python's lock and does not return, no thread of Python can end this
        # process; this timer, which the interpreter keeps in C, can.
        limit_s = self._limits.silent_s + 2 * BEAT_S
        faulthandler.dump_traceback_later(limit_s, exit=True, file=_STDERR)

    def _beat(self, now_s: float) -> None:
        frame = encoded(self.beat)
        for writer in self._writers.values():
            writer.write(frame)

    async def _listen(self, rank: int, reader: asyncio.StreamReader) -> None:
        """Hear a rank until it has closed its connection, or has said that it is done."""
        seen = "has closed its connection without a word"
        try:
            while True:
                said = decoded(await reader.readexactly(_FRAME.size))
                if isinstance(said, Beat):
                    self._health.hear(rank, said, time.monotonic())
                    if said.state is State.DONE:
                        break
                elif rank == 0:
                    self._verdict = said
                    break
                else:
                    raise ValueError("only rank 0 ends the others")
        except (asyncio.IncompleteReadError, OSError):
            pass
        except ValueError as error:
            seen = f"has sent what is not a heartbeat ({error})"
        self._writers.pop(rank).close()
        self._health.lose(rank, seen)
        self._wake.set()

    async def _end(self, verdict: Verdict) -> None:
        self._on_end(verdict)

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Hub(SideChannel):
    """Rank 0, which hears all, judges all, and ends all.

    Args:
        host: the address to listen on.
        size: of the group.
        limits: how long ranks wait for one another.
        on_end: called once, on the thread, when all ranks have to end.

    Attributes:
        port: that it listens on.
        token: what the others have to say.

    Raises:
        OSError: if it cannot listen there.
    """

    def __init__(
        self, host: str, size: int, limits: Limits, on_end: Callable[[Verdict], None]
    ) -> None:
        super().__init__(0, range(size), limits, on_end)
        self._others = range(1, size)
        self._missing = set(self._others)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self._n_strangers = 0

    async def _connect(self) -> None:
        self._server = await asyncio.start_server(self._take, sock=self._listener)

    @property
    def _has_finished(self) -> bool:
        return self._is_leaving and all(map(self._health.is_done, self._others))

    def _beat(self, now_s: float) -> None:
        self._health.hear(0, self.beat, now_s)
        super()._beat(now_s)

    def _close(self) -> None:
        self._server.close()
        super()._close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank = await self._admitted(reader)
        if rank is None:
            writer.close()
            return
        self._missing.remove(rank)
        self._writers[rank] = writer
        writer.write(encoded(self.beat))
        if self._verdict is not None:  # the others have been told already
            writer.write(encoded(self._verdict))
        if not self._missing:
            self._server.close()  # no stranger can connect from now on
            self._connected.set_result(None)
        await self._listen(rank, reader)

    async def _admitted(self, reader: asyncio.StreamReader) -> int | None:
        """The rank that has connected; None if it is a stranger."""
        if self._n_strangers >= MAX_STRANGERS:
            return None
        self._n_strangers += 1
        try:
            async with asyncio.timeout(HELLO_S):
                token, rank = _HELLO.unpack(await reader.readexactly(_HELLO.size))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return None
        finally:
            self._n_strangers -= 1
        is_known = hmac.compare_digest(token, self.token)
        return rank if is_known and rank in self._missing else None

    async def _end(self, verdict: Verdict) -> None:
        frame = encoded(verdict)
        for writer in self._writers.values():
            writer.write(frame)
        until_s = time.monotonic() + _LAST_WORDS_S
        while self._writers and time.monotonic() < until_s:
            await self._woken(BEAT_S)
        await super()._end(verdict)


class Spoke(SideChannel):
    """Another rank, which hears rank 0.

    Args:
        rank: of this process.
        address: of rank 0.
        token: what rank 0 wants to hear.
        limits: how long ranks wait for one another.
        on_end: called once, on the thread, when all ranks have to end.
    """

    def __init__(
        self,
        rank: int,
        address: tuple[str, int],
        token: bytes,
        limits: Limits,
        on_end: Callable[[Verdict], None],
    ) -> None:
        # It does not hear all ranks, so it cannot know whether there is progress.
        super().__init__(rank, [0], replace(limits, stalled_s=math.inf), on_end)
        self._address, self._hello = address, _HELLO.pack(token, rank)

    async def _connect(self) -> None:
        host, port = self._address
        try:
            async with asyncio.timeout(self._limits.silent_s):
                reader, self._writers[0] = await asyncio.open_connection(host, port)
                self._writers[0].write(self._hello)
                await reader.readexactly(_FRAME.size)  # rank 0 has let this one in
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise RanksError(
                f"rank 0 cannot be reached at {host}, port {port}, for heartbeats: "
                f"{type(error).__name__}: {error}."
            ) from error
        self._listening = asyncio.create_task(self._listen(0, reader))
        self._connected.set_result(None)

    @property
    def _has_finished(self) -> bool:
        return self.beat.state is State.DONE and not self._writers
