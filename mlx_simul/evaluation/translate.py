"""Sources through real sessions, word by word as if they were live, into records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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


class Translator:
    """Translates sources, each in a session of its own, and records how it went.

    A word is fed once all that could be done with the words before it is done, so no time is spent
    waiting. What stands before every source alike is encoded once.

    Args:
        model: from :func:`mlx_simul.load`, in evaluation mode.
        tokenizer: likewise.
        options: of the sessions. ``policy`` is given with each source, and ``max_tokens`` grows
            with the words of speech in it unless it is set.
        unit: what latency is counted in.
        clock: the wall's, or the work of the process, which others on the machine do not slow down.

    Raises:
        InvalidOptionError: for an option outside its range.
        PromptError: if the tokenizer's template cannot carry the source.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        options: SessionOptions | None = None,
        unit: Unit = "word",
        clock: Clock = "wall",
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._unit: Unit = unit
        self._now_s = CLOCKS[clock]
        self._options = options or SessionOptions()
        self._has_token_limit = (
            self._options.limits.max_tokens != SessionOptions().limits.max_tokens
        )
        self._prefix = SimulSession(model, tokenizer, self._options).encode_prefix()

    def __call__(self, index: int, source: str, policy: Policy) -> Record:
        """Translate one source.

        Args:
            index: what the record calls it.
            source: the whole text.
            policy: when to read and when to write.

        Raises:
            InvalidOptionError: if there are no words in the source.
        """
        chunks = live_chunks(source, self._options)
        if not chunks:
            raise InvalidOptionError(f"source {index} holds no words: {source!r}.")
        session = self._session(ceil(speech(source)), policy)
        pieces: list[tuple[str, int, float]] = []
        fed_ms: list[float] = []
        finished: Finished | None = None
        began_s = self._now_s()

        def now_ms() -> float:
            return (self._now_s() - began_s) * 1000

        for event in _live(session, chunks, fed_ms, now_ms):
            if isinstance(event, Write):
                pieces.append((event.text, event.source_words_read, now_ms()))
            elif isinstance(event, Finished):
                finished = event
        total_ms = now_ms()
        if finished is None:
            raise InvalidOptionError(f"the session of source {index} did not finish.")
        units = target_units(pieces, self._unit)
        return Record(
            index=index,
            prediction=" ".join("".join(text for text, _, _ in pieces).split()),
            source_words=len(chunks),
            delays=units.delays,
            times_ms=_rounded(units.times_ms),
            fed_ms=_rounded(fed_ms),
            total_ms=round(total_ms, 3),
            n_tokens=len(pieces),
            n_passes=finished.n_passes,
            reason=finished.reason,
        )

    def _session(self, n_words: int, policy: Policy) -> SimulSession:
        options = SessionOptions.of(self._options, policy=policy)
        if not self._has_token_limit:
            options = SessionOptions.of(options, max_tokens=64 + TOKENS_PER_WORD * n_words)
        return SimulSession(self._model, self._tokenizer, options, prefix=self._prefix)


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


def _live(
    session: SimulSession, chunks: list[str], fed_ms: list[float], now_ms: Callable[[], float]
) -> Iterator[Event]:
    """Events of a session that is fed chunk by chunk; notes when each was."""
    for number, chunk in enumerate(chunks, 1):
        fed_ms.append(now_ms())
        session.push(chunk)
        if number == len(chunks):
            session.close()
        yield from session.events()


def _rounded(times_ms: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    return tuple(round(each, 3) for each in times_ms)
