"""Judges the ranks of a group by what they say of themselves. It knows no sockets and no clock.

A rank is one process of a group of ``mx.distributed``; its heartbeats say what it does and how much
it has done. A rank that is alive but achieves nothing is as bad as a dead one, so health means
progress, not just a process that answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from mlx_simul.errors import InvalidOptionError

BEAT_S = 0.5
"""Between two heartbeats of a rank."""

STALLED_VAR = "MLX_SIMUL_STALLED_S"
"""Names seconds for rank 0, in place of :attr:`Limits.stalled_s`."""

SETTLE_S = 0.5
"""How long an exception of one rank waits for the death of another, which may have caused it."""

_AGAIN = "Then start all ranks again; sessions that have a journal can be resumed."


@dataclass(frozen=True)
class Limits:
    """How long ranks wait for one another.

    Attributes:
        silent_s: without a heartbeat; longer than a short stop, shorter than a user's patience.
        stalled_s: in which some rank works and none makes progress. The longest pass, or the
            longest step of loading, has to fit.
        start_s: from the start of a rank until all have started.
    """

    silent_s: float = 8.0
    stalled_s: float = 60.0
    start_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("silent_s", "stalled_s", "start_s"):
            value = getattr(self, name)
            if not value >= 4 * BEAT_S:
                raise InvalidOptionError(
                    f"{name} must be at least {4 * BEAT_S:g}, four heartbeats; got {value!r}."
                )


class State(IntEnum):
    """What a rank does."""

    IDLE = 0
    """Nothing is asked of it. Waiting for the next work counts as idle, however rank 0 sends it."""
    BUSY = 1
    DONE = 2
    STOPPED = 3
    """It was told to end, by a signal or by rank 0, and is ending."""
    FAILED = 4


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself.

    Attributes:
        state: what it does.
        progress: how much it has done; it only grows.
        text: what it is busy with, or why it ends.
    """

    state: State = State.IDLE
    progress: int = 0
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """Why all ranks are to end.

    Attributes:
        rank: that is the cause, as far as can be seen.
        text: which rank, what was seen, what to do.
        is_loss: whether that rank is lost, or hangs; else it has said itself that it ends.
    """

    rank: int
    text: str
    is_loss: bool = True


class Health:
    """What is known of some ranks, and whether all have to end because of one.

    Args:
        ranks: to judge.
        limits: how long they may be silent or stalled.
        now_s: by a clock that does not go back, like all times here.
    """

    def __init__(self, ranks: Iterable[int], limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._beats = {rank: Beat() for rank in ranks}
        self._heard_s = dict.fromkeys(self._beats, now_s)
        self._failed_s: dict[int, float] = {}  # the earliest first
        self._lost: dict[int, str] = {}
        self._moved_s = self._looked_s = now_s

    def hear(self, rank: int, beat: Beat, now_s: float) -> None:
        """Take a heartbeat."""
        if beat != self._beats[rank]:
            self._moved_s = now_s
        if beat.state in (State.STOPPED, State.FAILED):
            self._failed_s.setdefault(rank, now_s)
        self._beats[rank], self._heard_s[rank] = beat, now_s

    def lose(self, rank: int, seen: str) -> None:
        """Note that the connection to a rank is gone, which is right only at its end."""
        if not self._has_ended(rank):
            self._lost.setdefault(rank, seen)

    def judge(self, now_s: float) -> Verdict | None:
        """Whether all have to end; to be asked every ``BEAT_S``."""
        # A process that was stopped, or a machine that slept, has not seen that others were silent.
        unseen_s = max(0.0, now_s - self._looked_s - 2 * BEAT_S)
        self._heard_s = {rank: min(now_s, at + unseen_s) for rank, at in self._heard_s.items()}
        self._moved_s = min(now_s, self._moved_s + unseen_s)
        self._looked_s = now_s
        return (
            self._of_lost()
            or self._of_failed(now_s)
            or self._of_silent(now_s)
            or self._of_stalled(now_s)
        )

    def is_done(self, rank: int) -> bool:
        """Whether a rank has said so."""
        return self._beats[rank].state is State.DONE

    def _has_ended(self, rank: int) -> bool:
        return self._beats[rank].state >= State.DONE

    def _of_lost(self) -> Verdict | None:
        for rank, seen in self._lost.items():
            return Verdict(
                rank,
                f"rank {rank} {seen}: its process was killed or has crashed. Look for its last "
                f"messages, and whether its machine ran out of memory. {_AGAIN}",
            )
        return None

    def _of_failed(self, now_s: float) -> Verdict | None:
        if not self._failed_s or now_s - min(self._failed_s.values()) < SETTLE_S:
            return None
        # One that fails may have stopped others before it said so itself.
        rank = max(self._failed_s, key=lambda rank: self._beats[rank].state)
        ends = "fails" if self._beats[rank].state is State.FAILED else "stops"
        return Verdict(rank, f"rank {rank} {ends}: {self._beats[rank].text}", is_loss=False)

    def _of_silent(self, now_s: float) -> Verdict | None:
        limit_s = self._limits.silent_s
        for rank, at_s in self._heard_s.items():
            if now_s - at_s > limit_s and not self._has_ended(rank):
                return Verdict(
                    rank,
                    f"rank {rank} has sent no heartbeat for {limit_s:g} s: its process is stopped "
                    f"or hangs, or its machine or network is down. See to that. {_AGAIN}",
                )
        return None

    def _of_stalled(self, now_s: float) -> Verdict | None:
        limit_s = self._limits.stalled_s
        is_busy = any(beat.state is State.BUSY for beat in self._beats.values())
        if not is_busy or now_s - self._moved_s <= limit_s:
            return None
        # Collectives keep ranks in step: the others wait for the one that has done least, or that
        # has not begun.
        left = [rank for rank in self._beats if not self._has_ended(rank)]
        last = min(left, key=lambda rank: (self._beats[rank].progress, self._beats[rank].state))
        seen = "; ".join(f"rank {rank} {_said(beat)}" for rank, beat in self._beats.items())
        return Verdict(
            last,
            f"no rank has made progress for {limit_s:g} s, though some are busy: {seen}. Others "
            f"may wait for rank {last} in a collective; look at it and at its network. If one step "
            f"can take that long, set {STALLED_VAR} to more seconds, as in mlx.launch --env. "
            f"{_AGAIN}",
        )


def _said(beat: Beat) -> str:
    doing = f"busy with {beat.text}" if beat.state is State.BUSY else beat.state.name.lower()
    return f"is {doing} after {beat.progress} steps"
