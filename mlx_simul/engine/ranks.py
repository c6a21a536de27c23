"""Several processes, the ranks, that run one model together: rank 0 decides, the others follow.

Loops, policies, sampling and sockets live on rank 0 and know nothing of this. What touches arrays
is a call of a few methods (:mod:`mlx_simul.engine.orders`), and each goes this way::

    rank 0            the others
    lead ───────────▶ follow        the call as integers: a sum to which the others add zeros
    carry out         carry out     builds the graph; no rank waits for another here
    agree ◀─────────▶ agree         has every rank done all orders, and has none failed?
    compute           compute       the same arrays on every rank, so the same collectives in order

Nothing is left to be computed later: a graph that only rank 0 evaluates would wait for ever for the
others' part of a sum. An order that every rank refuses is rank 0's own error, and all go on; where
only some fail, the ranks may hold different things, so all of them end.
"""

from __future__ import annotations

import logging
import signal
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_simul.engine.orders import MAX_NUMBERS, Thing, carry_out, decoded, encoded, order
from mlx_simul.errors import InvalidOptionError, RanksError
from mlx_simul.machine.interrupts import Shield
from mlx_simul.machine.peers import Peers

_logger = logging.getLogger(__name__)

PROTOCOL = 0x51A0_0001
"""Stands in front of each message, so that ranks of different versions find that out."""

INLINE_NUMBERS = 510
"""This many numbers of an order travel with their count; few passes of one stream take more."""


class Ranks(Thing):
    """All ranks, as one of them sees them.

    Args:
        group: mlx's, from ``mx.distributed.init()``.

    Attributes:
        guard: entered around all waiting for other ranks, with whether that may take any time; that
            of a :class:`~mlx_simul.machine.liveness.Liveness`, if there is one.
        kept: by the numbers that rank 0 gives, what each rank keeps for it: saved states.
    """

    def __init__(self, group: mx.distributed.Group) -> None:
        self.ranks = self
        self.group, self.rank, self.size = group, group.rank(), group.size()
        self.guard: Callable[[bool], AbstractContextManager[Any]] = lambda is_idle: nullcontext()
        self.kept: dict[int, Any] = {}
        self._things: dict[int, Thing] = {0: self}
        self._numbers = count(1)
        self._n_common = 0
        self._released: deque[int] = deque()
        self._shield = Shield()
        self._leads = threading.Lock()
        self._done = 0
        self._is_broken = False
        self._exit_code: int | None = None

    # What all ranks do in the same order, without being told

    def add_common(self, thing: Thing) -> None:
        """Give an object a number that every rank makes by itself, such as a model it loaded."""
        self._n_common += 1
        thing.ranks, thing.number = self, -self._n_common
        self._things[thing.number] = thing

    def agree(self, failure: BaseException | None = None) -> None:
        """Find that every rank has done the same, and that none failed, or that all did.

        Args:
            failure: of this rank.

        Raises:
            RanksError: on all ranks, if not.
        """
        own = mx.array([[self._done & 0x7FFFFFFF, int(failure is not None)]], mx.int32)
        known = self._everyone(own)
        digests, failed = known[:, 0], known[:, 1]
        if (digests != digests[0]).any():
            rank = int(np.argmax(digests != digests[0]))
            self._is_broken = True
            raise RanksError(
                f"rank {rank} has not carried out the orders that rank 0 has, so what they hold "
                "may differ; start all ranks again."
            )
        if not failed.any() or failed.all():
            return
        self._is_broken = True
        rank = int(np.argmax(failed))
        message = self._messages(failure)[rank]
        raise RanksError(
            f"rank {rank} failed where others did not, so all ranks end: {message}"
        ) from failure

    def require_all(self, check: Callable[[], Any]) -> Any:
        """Do something on every rank that involves no other; return its result if all could.

        Raises:
            RanksError: if another rank could not, with what that said.
            Exception: what it raised here.
        """
        failure = result = None
        try:
            result = check()
        except Exception as error:
            failure = error
        # Another rank may have a model to download, which takes any time.
        own = mx.array([[int(failure is not None)]], mx.int32)
        failed = self._everyone(own, is_idle=True)[:, 0]
        if not failed.any():
            return result
        rank = int(np.argmax(failed))
        message = self._messages(failure)[rank]
        if failure is not None:
            raise failure
        raise RanksError(f"rank {rank} said: {message}")

    def compute(self, *trees: Any) -> None:
        """Evaluate arrays for which ranks need each other; the same on every rank."""
        self._wait_for(*trees)

    # Rank 0

    def new_number(self) -> int:
        """A number for what the ranks are about to hold."""
        return next(self._numbers)

    def release_with(self, owner: Any, number: int) -> None:
        """Let all ranks forget what has a number once an object of rank 0 is gone."""
        # It may go at any moment, and on any thread: the others are told with the next order.
        weakref.finalize(owner, self._released.append, number).atexit = False

    def number_of(self, held: Any) -> int:
        """The number of what all ranks keep of a saved state.

        Raises:
            InvalidOptionError: if they do not.
        """
        if isinstance(held, Share) and held.ranks is self:
            return held.number
        raise InvalidOptionError(
            "this model is spread over several ranks, which cannot restore a state that they did "
            "not save; begin a new session, or one on its journal."
        )

    def lead(self, thing: Thing, name: str, args: tuple[Any, ...]) -> Any:
        """Have an order carried out by all ranks, this one included; return its result here.

        Raises:
            RanksError: if ranks are no longer in step, now or before.
            Exception: what the order raises on all ranks.
        """
        if self._is_broken:
            raise RanksError("the ranks are no longer in step; start all of them again.")
        if self._exit_code is not None:
            raise RanksError("the other ranks have been told to end; start all of them again.")
        if self.rank:
            raise RanksError(
                f"rank {self.rank} cannot give orders: on every rank but 0, call follow(group) "
                "once the model is loaded."
            )
        if not self._leads.acquire(blocking=False):
            raise RanksError("another order is under way; rank 0 gives them one after another.")
        try:
            with self._shield.up():
                if self._released:
                    numbers = [self._released.popleft() for _ in range(len(self._released))]
                    self._lead(self, "drop", (tuple(numbers),))
                return self._lead(thing, name, args)
        finally:
            self._leads.release()

    def _lead(self, thing: Thing, name: str, args: tuple[Any, ...]) -> Any:
        numbers = encoded(thing, name, args)
        try:
            self._broadcast(numbers)
            return self._carry_out(numbers, lambda: (thing, name, args))
        except (KeyboardInterrupt, SystemExit):
            # A second Ctrl-C does not wait. The others are left in the middle of the order.
            self._is_broken = True
            raise

    @contextmanager
    def leading(self) -> Iterator[Ranks]:
        """Run what rank 0 runs, and let the others end with it, however it ends."""
        self._shield.install()
        code = 1
        try:
            yield self
            code = 0
        except SystemExit as ended:
            code = exit_code(ended)
            raise
        finally:
            try:
                self.stop_all(code)
            finally:
                self._shield.uninstall()

    def stop_all(self, code: int) -> bool:
        """Let the others end, if they have not been told so; False if they no longer listen."""
        if self._leads.locked():  # another thread is in the middle of an order
            self._is_broken = True
        if self._exit_code is None and not self._is_broken:
            self.stop(code)
        return not self._is_broken

    # The others

    def follow(self) -> int:
        """Do what rank 0 says until it says that it ends.

        Returns:
            The exit code that it ends with.

        Raises:
            RanksError: if this rank can no longer follow.
            RuntimeError: from MLX, if it could not compute what it was told.
        """
        if threading.current_thread() is threading.main_thread():
            # Ctrl-C goes to all processes of a terminal; rank 0 decides what follows from it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # A handler of Python's would not be called while this rank waits for an order.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while self._exit_code is None:
            numbers = self._hear()
            try:
                self._carry_out(numbers, lambda numbers=numbers: decoded(numbers, self._find))
            except Exception as error:
                if self._is_broken:
                    raise
                _logger.debug("every rank refused an order: %s", error)
        return self._exit_code

    # Orders

    @order
    def drop(self, numbers: tuple[int, ...]) -> None:
        """Forget what has these numbers."""
        for number in numbers:
            self._things.pop(number, None)
            self.kept.pop(number, None)

    @order
    def stop(self, code: int) -> None:
        """End, with an exit code."""
        self._exit_code = code

    # How

    def add(self, thing: Thing, number: int) -> None:
        """Know an object by a number, as an order says; on rank 0 its owner holds it."""
        thing.ranks, thing.number = self, number
        if self.rank:
            self._things[number] = thing

    def _find(self, number: int) -> Thing:
        if number not in self._things:
            raise RanksError(f"an order is for number {number}, which this rank does not have.")
        return self._things[number]

    def _carry_out(self, numbers: list[int], find: Callable[[], tuple[Thing, str, Any]]) -> Any:
        """Do an order: no rank waits for another before all agree."""
        failure = result = None
        thing: Thing = self
        try:
            thing, name, args = find()
            result = carry_out(thing, name, args)
            self._note(numbers)
        except Exception as error:
            self._note(numbers)
            failure = error
        self.agree(failure)
        if failure is not None:
            raise failure
        self.compute(getattr(result, "arrays", result), thing.arrays())
        return result

    def _note(self, numbers: list[int]) -> None:
        self._done = zlib.crc32(np.array(numbers, np.int32).tobytes(), self._done)

    def _broadcast(self, numbers: list[int]) -> None:
        head, rest = numbers[:INLINE_NUMBERS], numbers[INLINE_NUMBERS:]
        padding = [0] * (INLINE_NUMBERS - len(head))
        self._sum(mx.array([PROTOCOL, len(numbers), *head, *padding], mx.int32))
        if rest:
            self._sum(mx.array(rest, mx.int32))

    def _hear(self) -> list[int]:
        """The next order.

        Raises:
            RanksError: if what comes is not one.
        """
        protocol, n, *head = self._sum(mx.zeros(2 + INLINE_NUMBERS, mx.int32), is_idle=True)
        if protocol != PROTOCOL or not 2 <= n <= MAX_NUMBERS:
            self._is_broken = True
            raise RanksError(
                f"rank 0 sent {protocol} and {n} where an order of this version begins with "
                f"{PROTOCOL} and a count of at most {MAX_NUMBERS}: install the same version of "
                "mlx-simul on all machines."
            )
        n_rest = n - INLINE_NUMBERS
        rest = self._sum(mx.zeros(n_rest, mx.int32)) if n_rest > 0 else []
        return [*head[:n], *rest]

    def _sum(self, numbers: mx.array, is_idle: bool = False) -> list[int]:
        total = mx.distributed.all_sum(numbers, group=self.group)
        self._wait_for(total, is_idle=is_idle)
        return total.tolist()  # pyright: ignore[reportReturnType]

    def _everyone(self, row: mx.array, is_idle: bool = False) -> np.ndarray:
        """One row of each rank."""
        rows = mx.distributed.all_gather(row, group=self.group)
        self._wait_for(rows, is_idle=is_idle)
        return np.array(rows)

    def _messages(self, failure: BaseException | None) -> list[str]:
        """What each rank says of its failure."""
        with self.guard(False):
            return Peers(self.group).gather("" if failure is None else str(failure))

    def _wait_for(self, *trees: Any, is_idle: bool = False) -> None:
        """The only place where this process waits for others."""
        with self.guard(is_idle):
            try:
                mx.eval(*trees)
            except BaseException:
                self._is_broken = True
                raise


class Share:
    """Stands for what each rank keeps of a saved state, under one number.

    Args:
        ranks: that keep it, until this object is gone.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.number = ranks, ranks.new_number()
        ranks.release_with(self, self.number)

    def __repr__(self) -> str:
        return "keys and values of which each of several ranks has a part"


def exit_code(ended: SystemExit) -> int:
    """The exit code that Python gives a process for this."""
    return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


HELD_BY_RANKS = "a state that several ranks hold does not fit a model that one process runs."


def kept_by(ranks: Any) -> dict[int, Any]:
    """What each of several ranks keeps under numbers."""
    if not isinstance(ranks, Ranks):
        raise RanksError("only ranks that share a model keep states under numbers.")
    return ranks.kept


_ranks: list[Ranks] = []


def ranks_of(group: mx.distributed.Group) -> Ranks:
    """What this process knows of a group, the only one that mlx gives it."""
    if not _ranks:
        _ranks.append(Ranks(group))
    (ranks,) = _ranks
    if (ranks.rank, ranks.size) != (group.rank(), group.size()):
        raise InvalidOptionError(
            f"this process is rank {ranks.rank} of {ranks.size} already, and cannot be "
            f"{group.rank()} of {group.size()} too; use one group."
        )
    return ranks


def follow(group: mx.distributed.Group) -> int:
    """Run a rank other than 0: do what rank 0 says until it ends.

    Args:
        group: from ``mx.distributed.init()``.

    Returns:
        The exit code that rank 0 ends with.
    """
    return ranks_of(group).follow()


def leading(group: mx.distributed.Group) -> AbstractContextManager[Ranks]:
    """Run rank 0: the others follow inside it, and end after it, however it ends.

    Args:
        group: from ``mx.distributed.init()``.
    """
    return ranks_of(group).leading()
