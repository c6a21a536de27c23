"""A group of ranks that never hangs: when one is lost, all others end, and say why.

A thread that waits in a collective cannot be interrupted, and what MLX does when a peer is lost
differs: in mlx 0.32.4 the ring raises an exception, older rings and JACCL wait for ever. So each
rank has a :mod:`side channel <mlx_simul.machine.side_channel>`, and ends its own process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlx_simul.errors import InvalidOptionError, RanksError, SimulError
from mlx_simul.machine.health import BEAT_S, STALLED_VAR, Beat, Limits, State, Verdict
from mlx_simul.machine.interrupts import signals_end_at_once
from mlx_simul.machine.side_channel import TOKEN_BYTES, Hub, SideChannel, Spoke
from mlx_simul.machine.terminal import escaped

if TYPE_CHECKING:
    import mlx.core as mx

EXIT_LOST = 75
"""The exit code of a rank that ends because of another: EX_TEMPFAIL, it may be started again."""

ADDRESS_VAR = "MLX_SIMUL_RANK0"
"""Names an address of rank 0 that all ranks reach, in place of the one in the hostfile."""

_LAST_WORDS_S = 1.0
_STDERR = 2


class Liveness:
    """Watches over a group from one rank, as a context manager around all that ranks do together.

    Leaving it without an exception tells the others that this rank is done; rank 0 then waits until
    all are. Leaving it with one ends the others. If an exception is a consequence of the loss of
    another rank, or this rank hangs meanwhile, it prints what became of the other and ends the
    process with ``EXIT_LOST``.

    Args:
        group: of ``mx.distributed``; one of a single rank is not watched.
        limits: how long ranks wait for one another; by default as the environment says.

    Raises:
        InvalidOptionError: if the environment says nonsense.
        RanksError: on entering it, if the address of rank 0 is unknown or cannot be reached, or
            another rank ends at the start.
    """

    def __init__(self, group: mx.distributed.Group, limits: Limits | None = None) -> None:
        self.group = group
        self._limits = limits_in(os.environ) if limits is None else limits
        self._channel: SideChannel | None = None
        self._progress = 0
        self._doing: list[str] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        if self.group.size() > 1:
            self._channel = self._met()
            self._channel.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._channel is None:
            return
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            self._error = error
            is_stop = isinstance(error, SystemExit | KeyboardInterrupt)
            state = State.STOPPED if is_stop else State.FAILED
            last = Beat(state, self._progress, f"{type(error).__name__}: {error}")
        elif self.group.rank() == 0:
            last = Beat(State.BUSY, self._progress, "waiting for the others to end")
        else:
            last = Beat(State.DONE, self._progress)
        self._channel.leave(last)

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Work that has to make progress: loading, a pass, anything in which ranks meet.

        Waiting for the next order of rank 0 does not belong here. If MLX raises here, another
        rank may be lost: the exception waits until that would be known. So a server does not tell
        its clients that sessions have failed that can be resumed.

        Args:
            doing: what it is, for the error that says that it hangs; as in "a pass".
        """
        self._doing.append(doing)
        self._tell()
        try:
            yield
        except RuntimeError as error:
            if self._channel is not None and not isinstance(error, SimulError):
                time.sleep(self._limits.silent_s + 2 * BEAT_S)
            raise
        finally:
            self._doing.pop()
            self.progress()

    def guard(self, is_idle: bool) -> AbstractContextManager[None]:
        """Around all waiting for other ranks, if that is all that says what a rank does.

        Args:
            is_idle: it waits for the next order of rank 0, as long as there is none.
        """
        return nullcontext() if is_idle else self.busy("a pass")

    def progress(self, steps: int = 1) -> None:
        """Note that something has been done; to be called now and then in work that takes long."""
        self._progress += steps
        self._tell()

    def _tell(self) -> None:
        if self._channel is not None:
            state = State.BUSY if self._doing else State.IDLE
            doing = self._doing[-1] if self._doing else ""
            self._channel.beat = Beat(state, self._progress, doing)

    def _met(self) -> SideChannel:
        """Have all ranks know where rank 0 listens, and by what it knows them."""
        import mlx.core as mx

        host = rank_0_host(os.environ)
        said = [0] * (1 + TOKEN_BYTES)
        hub = None
        if self.group.rank() == 0:
            hub = Hub(host, self.group.size(), self._limits, self._end)
            said = [hub.port, *hub.token]
        try:
            with _ending_after(self._limits.start_s):
                total = mx.distributed.all_sum(mx.array(said, mx.int32), group=self.group)
                numbers: Any = total.tolist()
        except RuntimeError as error:
            raise RanksError(
                f"rank {self.group.rank()} has lost another rank at the start, whose own message "
                f"may say why ({error}). Start all ranks again."
            ) from error
        port, token = numbers[0], bytes(numbers[1:])
        return hub or Spoke(self.group.rank(), (host, port), token, self._limits, self._end)

    def _end(self, verdict: Verdict) -> None:
        """End this process, unless its own exception does so, which then says more."""
        rank = self.group.rank()
        has_own = self._error is not None
        if has_own and (verdict.rank == rank or not self._is_consequence(verdict)):
            return
        message = f"mlx-simul: rank {rank} ends. {RanksError.__name__}: {escaped(verdict.text)}\n"
        # On a thread: neither a full pipe, nor a buffer that the thread that hangs holds, may keep
        # this process.
        saying = threading.Thread(target=_say_last, args=[message], daemon=True)
        saying.start()
        saying.join(_LAST_WORDS_S)
        os._exit(EXIT_LOST)

    def _is_consequence(self, verdict: Verdict) -> bool:
        """Whether the exception that this rank leaves with may come of what another has done."""
        if isinstance(self._error, SystemExit | KeyboardInterrupt):
            return verdict.is_loss  # mlx.launch stops all when one was lost
        # What MLX raises, or what was made of it.
        first = self._error and (self._error.__cause__ or self._error)
        return isinstance(first, RuntimeError) and not isinstance(first, SimulError)


def join(start: Callable[[], mx.distributed.Group], limits: Limits | None = None) -> Liveness:
    """Start this rank's part of a group, or end the process if the others do not start.

    ``mx.distributed.init`` waits for the other ranks without an end, and holds Python's lock.

    Args:
        start: calls ``mx.distributed.init``.
        limits: how long ranks wait for one another; by default as the environment says.

    Raises:
        InvalidOptionError: if the environment says nonsense.
    """
    limits = limits_in(os.environ) if limits is None else limits
    with _ending_after(limits.start_s), signals_end_at_once():
        group = start()
    return Liveness(group, limits)


def limits_in(environment: Mapping[str, str]) -> Limits:
    """How long ranks wait for one another, as :data:`~mlx_simul.machine.health.STALLED_VAR` says.

    Args:
        environment: of the process.

    Raises:
        InvalidOptionError: if that is not a number of seconds, or too short.
    """
    if not (text := environment.get(STALLED_VAR)):
        return Limits()
    try:
        return Limits(stalled_s=float(text))
    except ValueError as error:
        raise InvalidOptionError(
            f"{STALLED_VAR} is a number of seconds, at least {4 * BEAT_S:g}; got {text!r}."
        ) from error


def rank_0_host(environment: Mapping[str, str]) -> str:
    """The address of rank 0, as ``mlx.launch`` tells it to all ranks.

    Args:
        environment: of the process.

    Raises:
        RanksError: if it is not known.
    """
    if address := environment.get(ADDRESS_VAR) or environment.get("NCCL_HOST_IP"):
        return address
    try:
        if (coordinator := environment.get("MLX_JACCL_COORDINATOR")) is not None:
            return _host_of(coordinator)
        with open(environment["MLX_HOSTFILE"], encoding="utf-8") as file:
            hosts: Any = json.load(file)
        return _host_of(hosts[0][0])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RanksError(
            "the address of rank 0 is in none of the variables that mlx.launch sets "
            f"({type(error).__name__}: {error}); set {ADDRESS_VAR} to an address of rank 0 that "
            "all ranks reach, as in mlx.launch --env."
        ) from error


def _host_of(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]")
    if not host:
        raise ValueError(f"{address!r} is not an address and a port")
    return host


def _say_last(message: str) -> None:
    os.write(_STDERR, message.encode())
    if sys.stdout is not None:
        sys.stdout.flush()  # what this rank has written before


@contextmanager
def _ending_after(limit_s: float) -> Iterator[None]:
    """End the process if what follows takes longer, even if it holds Python's lock."""
    faulthandler.dump_traceback_later(limit_s, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
