"""Ctrl-C and SIGTERM, put off while something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_end_at_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process themselves, while code holds Python's lock.

    Python would call a handler only after that. Only the main thread can do this.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Shield:
    """While it is up, a signal waits; what it would have done happens when it is down again.

    A second one does not wait: whoever sends it knows better than to wait any longer.

    Python raises KeyboardInterrupt between any two steps of the main thread. Between two messages
    to other processes that would leave them waiting for the second.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._depth = 0
        self._waiting: int | None = None

    def install(self) -> None:
        """Stand before the handlers of the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Put the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def up(self) -> Iterator[None]:
        """Let signals wait meanwhile."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and (number := self._waiting) is not None:
                self._waiting = None
                signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._depth and self._waiting is None:
            self._waiting = number
            return
        self._waiting = None
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
