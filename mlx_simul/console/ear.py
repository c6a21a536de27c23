"""A source that is heard on a thread of its own: listening and translating share no waiting."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Self

from mlx_simul.errors import SimulWarning
from mlx_simul.machine.threads import clearing_streams
from mlx_simul.speech.audio_clock import WordTimes
from mlx_simul.speech.recogniser import Hypothesis

if TYPE_CHECKING:
    from mlx_simul.speech.hearing import Hearing

MAX_WAITING_HYPOTHESES = 256
"""Hypotheses that may wait for the session; beyond this many, listening has to wait."""

_LOOK_S = 0.1  # between two looks at whether the session has gone, while it takes nothing


class Ear:
    """What is heard, as a source; as a context manager it runs the thread.

    If hearing breaks off, the source ends there, so that what was heard is still translated, and
    :meth:`require_whole` says why.

    Args:
        hearing: what the thread iterates over.

    Attributes:
        words: when those that were read had been said.
        is_stopped: :meth:`stop` was called.
    """

    def __init__(self, hearing: Hearing) -> None:
        self.words = WordTimes()
        self.is_stopped = False
        self._hearing = hearing
        self._heard: Queue[Hypothesis | SimulWarning | None] = Queue(MAX_WAITING_HYPOTHESES)
        self._error: BaseException | None = None
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._hear, name="hearing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._has_left.set()
        self._hearing.stop(now=True)
        self._thread.join()

    def read(self, *, wait: bool = True) -> str | Hypothesis | None:
        """The next hypothesis; ``""`` if none is here and it may not wait; ``None`` at the end."""
        while True:
            try:
                heard = self._heard.get(block=wait)
            except Empty:
                return ""
            if isinstance(heard, SimulWarning):
                warnings.warn(heard, stacklevel=2)
                continue
            if heard is not None:
                self.words.add(heard)
            return heard

    def stop(self) -> None:
        """Stop listening; speech up to now is still recognised."""
        self.is_stopped = True
        self._hearing.stop()

    def require_whole(self) -> None:
        """Check that all was heard, to its end.

        Raises:
            BaseException: what broke it off.
        """
        if self._error is not None:
            raise self._error

    def _hear(self) -> None:
        try:
            with clearing_streams():  # a recogniser may run on MLX
                for heard in self._hearing:
                    self._put(heard)
                    if self._has_left.is_set():
                        return
        except BaseException as error:  # raised by require_whole
            self._error = error
        self._put(None)

    def _put(self, heard: Hypothesis | SimulWarning | None) -> None:
        while not self._has_left.is_set():
            try:
                return self._heard.put(heard, timeout=_LOOK_S)
            except Full:
                continue


@contextmanager
def stopping_first(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call a function, and the next one interrupt as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None):
        yield  # a shell has started the command in the background
        return

    def handle(number: int, _: object) -> None:
        signal.signal(number, before)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
