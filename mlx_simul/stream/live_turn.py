"""A turn under way, and the record by which another process brings a turn to the same place.

A loop is a generator, which no file can hold. But what it does follows from its options and from
what it is given: words, replies, and the word to go on. A fresh loop that is given the same is
where the old one was, and no model has to run for that.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeAlias

from mlx_simul.errors import SavedSessionError
from mlx_simul.loop.loop import SimulLoop, Step, Steps
from mlx_simul.loop.requests import Insertion, Pass, Reply
from mlx_simul.policies import ProposedWord
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.text.turn_splitter import TurnBreak

Observer: TypeAlias = Callable[[ProposedWord], None]

Given: TypeAlias = str | TurnBreak | Insertion | Reply | None
"""A word, the end of the source, the result of a tool, the reply to a pass, or, after an event, the
word to go on."""


class Clock:
    """Milliseconds since a stream began."""

    def __init__(self) -> None:
        self.go_on_from(0.0)

    def __call__(self) -> float:
        return (time.perf_counter() - self._began_s) * 1000

    def go_on_from(self, time_ms: float) -> None:
        """Go on from this time."""
        self._began_s = time.perf_counter() - time_ms / 1000


class LiveTurn:
    """The loop of one turn, what its source holds, and all that the loop was given.

    Args:
        loop: fresh, but for its prefix.
        prompt: around the source; None if its tokens are known and the loop has them.
        clock: of the stream.

    Attributes:
        words: of the source, each with the space before it.
        ending: what ended the source, once that is known.
    """

    def __init__(
        self, loop: SimulLoop, prompt: StreamingDataPreparator | None, clock: Clock
    ) -> None:
        self.words: list[str] = []
        self.ending: TurnBreak | None = None
        self._loop, self._prompt, self._clock = loop, prompt, clock
        self._steps = loop.steps()
        self._last: Step | None = None
        # What the loop was given, and when.
        self._given: list[Given] = []
        self._times_ms = array("d")

    @property
    def target_speech(self) -> Fraction:
        """Words of speech written."""
        return self._loop.state.target_speech

    def add(self, item: str | TurnBreak) -> None:
        """Take a word, or the end of the source."""
        if self._prompt is None:
            return
        self._note(item)
        if isinstance(item, TurnBreak):
            self.ending = item
            self._loop.close_source(self._prompt.suffix_ids)
            return
        # The space before a turn's first word belongs to the stream, not to the turn.
        is_first = not self.words
        word = item.lstrip() if is_first else item
        self._loop.add_segment(self._prompt.encode_word(word, is_first), item)
        self.words.append(item)

    def insert(self, insertion: Insertion) -> None:
        """Take the result of a tool."""
        self._loop.insert(insertion)
        self._note(insertion)

    def steps(self) -> Steps:
        """The steps of the loop, from where it is; a pass that waits for its reply comes again."""
        reply = (yield self._last) if isinstance(self._last, Pass) else None
        while True:
            reply = yield self._step(reply)

    @property
    def record(self) -> list[tuple[float, Given]]:
        """All that the loop was given, each with the time in milliseconds."""
        return list(zip(self._times_ms, self._given, strict=True))

    def play_again(self, record: Iterable[tuple[float, Given]]) -> None:
        """Give a fresh loop what another was given; what it says to that was said already.

        Raises:
            SavedSessionError: if the loop asks for something other than what it is given.
        """
        for time_ms, given in record:
            self._clock.go_on_from(time_ms)
            if isinstance(given, str | TurnBreak):
                self.add(given)
            elif isinstance(given, Insertion):
                self.insert(given)
            elif isinstance(self._last, Pass) == isinstance(given, Reply):
                self._step(given)
            else:
                raise SavedSessionError(
                    f"the record of a turn has {given!r} where its loop said {self._last!r}: it is "
                    "incomplete, or of a version that computes otherwise. Begin a new session."
                )

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written."""
        self._loop.observe(observer)

    def _step(self, reply: Reply | None) -> Step:
        self._note(reply)
        self._last = self._steps.send(reply)
        return self._last

    def _note(self, given: Given) -> None:
        self._times_ms.append(self._clock())
        self._given.append(given)
