"""A pipe that is read on one thread, and let go of by another."""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from typing import Any

_LOOK_S = 0.1  # between two looks at whether to stop, while nothing arrives


class StoppablePipe(io.RawIOBase):
    """Bytes as they arrive, to their end or until it is stopped, which then looks like the end.

    Args:
        fd: the file descriptor, which stays open; it may be one that does not block.
        is_stopped: asked before each read, and again and again while nothing arrives.
    """

    def __init__(self, fd: int, is_stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._fd = fd
        self._is_stopped = is_stopped

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Wait for bytes, and read what is there.

        Raises:
            OSError: if it cannot be read.
        """
        while not self._is_stopped():
            if select.select([self._fd], [], [], _LOOK_S)[0]:
                return os.readv(self._fd, [buffer])
        return 0
