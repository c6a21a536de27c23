"""A thread that owns a model: it alone loads it, and it alone uses it."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod

from mlx_simul.machine.threads import clearing_streams


class Owner(ABC):
    """Loads a model on a thread of its own, and works there until it is told to end.

    Args:
        name: of the thread.

    Attributes:
        busy_since_s: when what it does now began, by ``time.monotonic``; None while it waits.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loaded: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.busy_since_s: float | None = None

    # Called by other threads

    def start(self) -> None:
        """Load the model, and begin.

        Raises:
            SimulError: if it will not do.
        """
        self._thread.start()
        if (error := self._loaded.get()) is not None:
            raise error

    @property
    def stalled_s(self) -> float:
        """For how long one piece of work has taken; 0 while there is nothing to do."""
        since = self.busy_since_s
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # Called by its own thread

    @abstractmethod
    def _load(self) -> None:
        """Load the model."""

    @abstractmethod
    def _work(self) -> None:
        """Work until it is told to end."""

    def _run(self) -> None:
        is_loaded = False
        try:
            with clearing_streams():
                self._load()
                is_loaded = True
                self._loaded.put(None)
                self._work()
        except BaseException as error:
            if is_loaded:
                raise
            self._loaded.put(error)
