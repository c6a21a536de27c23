"""Bytes that arrive through a descriptor, on a thread that another one may stop."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

READ_BYTES = 4096

_LOOK_S = 0.1  # between two looks at whether to stop, while nothing arrives


def arriving_bytes(fd: int, is_stopped: Callable[[], bool]) -> Iterator[bytes]:
    """The bytes that arrive, piece by piece, to their end or until it is stopped.

    Args:
        fd: the file descriptor; it may be one that does not block.
        is_stopped: asked between two pieces, and again and again while none comes.

    Raises:
        OSError: if it cannot be read.
    """
    while not is_stopped():
        if select.select([fd], [], [], _LOOK_S)[0]:
            if not (data := os.read(fd, READ_BYTES)):
                return
            yield data
