"""Sources through real sessions, word by word as if they were live, into records."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import zip_longest
from math import ceil
from typing import Any

import mlx.nn as nn

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.options import Clock
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.units import Unit, target_units
from mlx_simul.events import Event, Finished, Write
from mlx_simul.options import SessionOptions
from mlx_simul.policies import Policy
from mlx_simul.session import SimulSession
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.speech import speech

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds, by the name of the clock."""

TOKENS_PER_WORD = 48
"""Target tokens that a source word may take. In Burmese an English one is 26 bytes on average, and
each may be a token."""


class Player:
    """Feeds sources to sessions, one session for each.

    A word is fed once all that could be done with the words before it is done, so no time is spent
    waiting. What stands before every source alike is encoded once.

    Args:
        model: from :func:`mlx_simul.load`, in evaluation mode.
        tokenizer: likewise.
        options: of the sessions. ``policy`` is given with each source, and ``max_tokens`` grows
            with the words of speech in it, or in a turn of it, unless it is set.
        clock: the wall clock, or the work of the process, which others on the machine do not slow
            down.

    Raises:
        InvalidOptionError: for an option outside its range.
        PromptError: if the tokenizer's template cannot carry the source.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        options: SessionOptions | None = None,
        clock: Clock = "wall",
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._now_s = CLOCKS[clock]
        self._options = options or SessionOptions()
        self._has_token_limit = (
            self._options.limits.max_tokens != SessionOptions().limits.max_tokens
        )
        first = SimulSession(model, tokenizer, self._options)
        self._has_turns, self._prefix = first.has_turns, first.encode_prefix()

    def play(
        self, source: str, policy: Policy, see: Callable[[Event, float], None]
    ) -> tuple[tuple[float, ...], float]:
        """Feed a source.

        Args:
            source: the whole text.
            policy: when to read and when to write.
            see: given each event, and the milliseconds since the beginning.

        Returns:
            When each word was fed, and when the stream ended, in milliseconds likewise.

        Raises:
            InvalidOptionError: if there are no words in the source.
        """
        chunks = live_chunks(source, self._options)
        if not chunks:
            raise InvalidOptionError(f"a source holds no words: {source!r}.")
        session = self._session(ceil(speech(source)), policy)
        fed_ms: list[float] = []
        began_s = self._now_s()
        for number, chunk in enumerate(chunks, 1):
            fed_ms.append(self._since_ms(began_s))
            session.push(chunk)
            if number == len(chunks):
                session.close()
            for event in session.events():
                see(event, self._since_ms(began_s))
        return tuple(fed_ms), self._since_ms(began_s)

    def _session(self, n_words: int, policy: Policy) -> SimulSession:
        options = SessionOptions.of(self._options, policy=policy)
        if self._has_turns:
            n_words = min(n_words, options.turn.max_turn_words)
        if not self._has_token_limit:
            options = SessionOptions.of(options, max_tokens=64 + TOKENS_PER_WORD * n_words)
        return SimulSession(self._model, self._tokenizer, options, prefix=self._prefix)

    def _since_ms(self, began_s: float) -> float:
        return round((self._now_s() - began_s) * 1000, 3)


class Translator:
    """Translates sources, each in a session, and records how it went.

    Args:
        player: feeds them.
        unit: what latency is counted in.
    """

    def __init__(self, player: Player, unit: Unit = "word") -> None:
        self._player = player
        self._unit: Unit = unit

    def __call__(self, index: int, source: str, policy: Policy) -> Record:
        """Translate one source.

        Args:
            index: what the record calls it.
            source: the whole text.
            policy: when to read and when to write.

        Raises:
            InvalidOptionError: if there are no words in the source.
        """
        pieces: list[tuple[str, int, float]] = []
        ends: list[Finished] = []

        def see(event: Event, time_ms: float) -> None:
            if isinstance(event, Write):
                pieces.append((event.text, event.source_words_read, time_ms))
            elif isinstance(event, Finished):
                ends.append(event)

        fed_ms, total_ms = self._player.play(source, policy, see)
        units = target_units(pieces, self._unit)
        (finished,) = ends
        return Record(
            index=index,
            prediction=" ".join("".join(text for text, _, _ in pieces).split()),
            source_words=len(fed_ms),
            delays=units.delays,
            times_ms=units.times_ms,
            fed_ms=fed_ms,
            total_ms=total_ms,
            n_tokens=len(pieces),
            n_passes=finished.n_passes,
            reason=finished.reason,
        )


def live_chunks(source: str, options: SessionOptions | None = None) -> list[str]:
    """A source in chunks, each of which ends the word that it brings, where white space can."""
    segmenter = SourceSegmenter((options or SessionOptions()).turn.split)
    words = [*segmenter.feed(source), *segmenter.finish()]
    # The space that a word brings is what ends the word before it.
    text = [word.removeprefix(" ") for word in words]
    return [
        each + (" " if after.startswith(" ") else "")
        for each, after in zip_longest(text, words[1:], fillvalue="")
    ]
