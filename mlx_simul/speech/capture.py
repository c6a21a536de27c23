"""Where audio comes from: all at once, at the pace at which it was spoken, or as it arrives.

A block is float32 of the shape (samples,), from -1 to 1, at ``SAMPLE_RATE_HZ``.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import RecogniserError
from mlx_simul.machine.pipes import StoppablePipe
from mlx_simul.speech.audio import read_pcm16
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ

Block: TypeAlias = NDArray[np.float32]

MAX_TAKE_S = 10.0
"""At most this much of the waiting audio is taken at a time."""

MAX_WAITING_S = 300.0
"""Audio that may wait to be taken: 19 MB."""

LATE_S = 5.0
"""Listening that is this far behind the speaker is late enough to say so."""

_FILES = {b"RIFF": "a WAV", b"fLaC": "a FLAC", b"OggS": "an Ogg", b"FORM": "an AIFF"}
"""How files begin that are not raw PCM."""


class Audio(Protocol):
    """Audio that comes: a context manager, within which one thread takes it."""

    @property
    def began_s(self) -> float | None:
        """When its first sample was spoken, by :func:`time.perf_counter`.

        None before, and where nothing is spoken now.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def take(self) -> Block | None:
        """Wait for audio, and take what is there; None at the end.

        Raises:
            RecogniserError: if it broke off; all that came before has been given.
        """
        ...

    def stop(self) -> None:
        """Let the audio end here; what waits is still given. Any thread may call it."""
        ...

    def remarks(self) -> list[str]:
        """What the user should know now, each thing once."""
        ...


class AtOnce:
    """Audio that is there already, given as fast as it is taken, block by block.

    Args:
        blocks: of any length.
        stopped: set by :meth:`stop`; for blocks that look at it too.
    """

    began_s = None

    def __init__(self, blocks: Iterable[Block], stopped: threading.Event | None = None) -> None:
        self._blocks = iter(blocks)
        self._stopped = stopped or threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def take(self) -> Block | None:
        """The next block."""
        return None if self._stopped.is_set() else next(self._blocks, None)

    def stop(self) -> None:
        """Let the audio end here."""
        self._stopped.set()

    def remarks(self) -> list[str]:
        """Always empty: audio that is there already is never late."""
        return []


class Arriving:
    """Audio that another thread brings, kept until it is taken.

    Args:
        clock: seconds; any start.
        stopped: set by :meth:`stop`; for what brings the audio, if that looks at it too.
        max_gap_s: it has broken off if nothing arrives for this long; None waits for ever.
        max_waiting_s: how much may wait.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        *,
        stopped: threading.Event | None = None,
        max_gap_s: float | None = None,
        max_waiting_s: float = MAX_WAITING_S,
    ) -> None:
        self.began_s: float | None = None
        self._clock = clock
        self._stopped = stopped or threading.Event()
        self._max_gap_s = max_gap_s
        self._max_waiting = int(max_waiting_s * SAMPLE_RATE_HZ)
        self._change = threading.Condition()
        self._waiting: deque[Block] = deque()
        self._n_waiting = self._n_put = 0  # samples
        self._has_ended = False
        self._error: Exception | None = None
        self._say_at_s = LATE_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def put(self, block: Block, *, wait: bool) -> bool:
        """Add audio that has been spoken.

        Args:
            block: of any length.
            wait: until there is room.

        Returns:
            Whether it was taken in: not after the end, nor where there is no room.
        """
        with self._change:
            if self.began_s is None:
                self.began_s = self._clock() - len(block) / SAMPLE_RATE_HZ
            if wait:
                self._change.wait_for(lambda: self._is_over or self._has_room)
            if self._is_over or not self._has_room:
                return False
            if len(block):
                self._waiting.append(block)
                self._n_waiting += len(block)
                self._n_put += len(block)
                self._change.notify_all()
            return True

    def end(self, error: Exception | None = None) -> None:
        """Say that no more comes, and why if it broke off; only the first time counts."""
        with self._change:
            if not self._is_over:
                self._has_ended, self._error = True, error
            self._change.notify_all()

    def stop(self) -> None:
        """Let the audio end here; what waits is still given."""
        self._stopped.set()
        with self._change:
            self._change.notify_all()

    def take(self) -> Block | None:
        """All that waits, or ``MAX_TAKE_S`` of it."""
        with self._change:
            self._wait_for_audio()
            blocks: list[Block] = []
            n_taken = 0
            while self._waiting and n_taken < MAX_TAKE_S * SAMPLE_RATE_HZ:
                blocks.append(self._waiting.popleft())
                n_taken += len(blocks[-1])
            self._n_waiting -= n_taken
            self._change.notify_all()
            if not blocks and self._error is not None:
                raise self._error
            return np.concatenate(blocks) if blocks else None

    def remarks(self) -> list[str]:
        """How late listening is, again each time that this has doubled."""
        behind_s = self.behind_s
        if behind_s < LATE_S / 2:
            self._say_at_s = LATE_S
        if behind_s < self._say_at_s:
            return []
        self._say_at_s = 2 * behind_s
        return [
            f"listening is {behind_s:.0f} s behind the speaker: this machine cannot keep up. Take "
            "a smaller recogniser, a smaller model, or a faster machine."
        ]

    @property
    def behind_s(self) -> float:
        """How much has been spoken and has arrived, and was not taken.

        Audio may arrive faster than it is spoken; what nobody has said yet is not late.
        """
        with self._change:
            if self.began_s is None:
                return 0.0
            spoken = (self._clock() - self.began_s) * SAMPLE_RATE_HZ
            n_taken = self._n_put - self._n_waiting
            return max(min(spoken, self._n_put) - n_taken, 0) / SAMPLE_RATE_HZ

    @property
    def _is_over(self) -> bool:
        return self._has_ended or self._stopped.is_set()

    @property
    def _has_room(self) -> bool:
        return self._n_waiting < self._max_waiting

    def _wait_for_audio(self) -> None:
        has_come = self._change.wait_for(lambda: self._waiting or self._is_over, self._max_gap_s)
        if not has_come:
            self._has_ended = True
            self._error = RecogniserError(
                f"the microphone has given nothing for {self._max_gap_s:g} s; is it still "
                "connected?"
            )


class Pumped(Arriving):
    """Audio that a thread of its own reads, so that what comes is not kept waiting.

    It may be entered again by one who listens, so that a pipe is read before that.

    Args:
        blocks: of any length; reading them may take time.
        is_paced: give them at the pace at which they were spoken, and not before.
        stopped: set by :meth:`stop`; for blocks that look at it too.
        clock: seconds; any start.
        wait: waits for a number of seconds; by default until the audio is stopped, if that is
            sooner.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        *,
        is_paced: bool = False,
        stopped: threading.Event | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(clock, stopped=stopped)
        self._blocks = blocks
        self._is_paced = is_paced
        self._wait = wait or self._stopped.wait
        self._thread = threading.Thread(target=self._pump, name="audio", daemon=True)

    def __enter__(self) -> Self:
        if self._thread.ident is None:
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._thread.join()

    def _pump(self) -> None:
        try:
            for block in self._blocks:
                if self._is_paced:
                    self._wait_until_spoken(len(block))
                if not self.put(block, wait=True):
                    return
            self.end()
        except Exception as error:  # raised where the audio is taken
            self.end(error)

    def _wait_until_spoken(self, n_samples: int) -> None:
        if self.began_s is None:
            self.began_s = self._clock()
        due_s = self.began_s + (self._n_put + n_samples) / SAMPLE_RATE_HZ
        if (wait_s := due_s - self._clock()) > 0:
            self._wait(wait_s)


def read_pipe(fd: int, is_stopped: Callable[[], bool]) -> Iterator[Block]:
    """Raw PCM as it arrives: 16 bits, little-endian, one channel at ``SAMPLE_RATE_HZ``.

    Args:
        fd: the file descriptor.
        is_stopped: asked again and again; the blocks end when it is True.

    Raises:
        OSError: if it cannot be read.
        RecogniserError: if it begins like a file that is not raw PCM.
    """
    stream = io.BufferedReader(StoppablePipe(fd, is_stopped))
    if (kind := _FILES.get(stream.peek()[:4])) is not None:
        raise RecogniserError(
            f"standard input begins like {kind} file, and raw PCM belongs there. Name the file "
            f"instead, or convert it: ffmpeg -i FILE -f s16le -ar {SAMPLE_RATE_HZ} -ac 1 -"
        )
    yield from read_pcm16(stream)
