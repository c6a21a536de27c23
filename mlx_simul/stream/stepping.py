"""Where a stream stands between two steps: which comes next, and whether it has been dealt with."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any

from mlx_simul.events import Event, Finished
from mlx_simul.loop.loop import NEED_SOURCE
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.stream.turns import Turns


class Stepping:
    """The steps of a stream, one at a time.

    A step comes again and again until it is dealt with: an event until it has been said, a pass
    until it is answered.

    Args:
        turns: whose steps these are.

    Attributes:
        is_finished: the last event has been said.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._steps = turns.steps()
        self._step: Event | Pass | None = None
        self._reply: Reply | None = None
        # No step is possible until source arrives.
        self._needs_source = False
        # Source has arrived since the steps last asked for it.
        self._has_news = False
        self.is_finished = False

    @property
    def is_running(self) -> bool:
        """A step is being taken: somebody whom it calls is asking."""
        return getgeneratorstate(self._steps) == GEN_RUNNING

    @property
    def asked(self) -> Pass | None:
        """The pass that is not answered yet, if there is one."""
        return self._step if isinstance(self._step, Pass) else None

    def wake(self) -> None:
        """Say that steps may be possible again, for source has arrived."""
        self._needs_source, self._has_news = False, True

    def next(self) -> Event | Pass | None:
        """The step to deal with; None if there is nothing to do before more source arrives."""
        if self._step is None and not self._needs_source:
            reply, self._reply = self._reply, None
            step = self._steps.send(reply)
            while step == NEED_SOURCE:
                if not self._has_news:
                    self._needs_source = True
                    return None
                # Source may have come while the pass before this was being run.
                self._has_news = False
                step = self._steps.send(None)
            self._step = step
        return self._step

    def said(self) -> None:
        """The event has been said."""
        self.is_finished = isinstance(self._step, Finished)
        self._step = None

    def answer(self, reply: Reply | Pass) -> None:
        """Take the reply to the pass, or the part of it that is still to be run."""
        self._step, self._reply = (reply, None) if isinstance(reply, Pass) else (None, reply)

    @property
    def saved(self) -> dict[str, Any]:
        """All there is to save, between two steps."""
        return {"asked": self.asked, "reply": self._reply, "finished": self.is_finished}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved; the turns have been restored."""
        self._steps = self._turns.steps()
        self._step, self._reply = saved["asked"], saved["reply"]
        if self._step is not None or self._reply is not None:
            next(self._steps)  # up to this pass
        self.is_finished = saved["finished"]
