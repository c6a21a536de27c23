"""Events in the time of the audio, which begins with the first thing heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from mlx_simul.events import Event, Finished, TurnEnd
from mlx_simul.speech.recogniser import Hypothesis
from mlx_simul.text.segmenter import SourceSegmenter


class WordTimes:
    """When each word of a source had been said, counted as a session counts its words."""

    def __init__(self) -> None:
        self._segmenter = SourceSegmenter()
        self._holds_word = False  # the segmenter has one whose end has not come
        self._said_s = 0.0  # when the latest word had been said
        self._n_forgotten = 0
        self._ends_s: deque[float] = deque([0.0])  # the first of them belongs to the word before

    def add(self, hypothesis: Hypothesis) -> None:
        """Take note of the words that a session is fed."""
        for word in hypothesis.words:
            self._count(word.text, max(word.end_s, self._said_s))
        if hypothesis.text.endswith(" "):
            self._count(" ", self._said_s)
        if hypothesis.pause:
            self._ends_s.extend(self._said_s for _ in self._segmenter.flush())
            self._holds_word = False

    def end_s(self, n_words: int) -> float:
        """When this many words had been said, in seconds of the audio."""
        at = max(n_words - self._n_forgotten, 0)
        return self._ends_s[min(at, len(self._ends_s) - 1)]

    def forget(self, n_words: int) -> None:
        """Let go of the times of the first words, but for the last of them."""
        while self._n_forgotten < n_words and len(self._ends_s) > 1:
            self._ends_s.popleft()
            self._n_forgotten += 1

    def _count(self, text: str, end_s: float) -> None:
        for i, _ in enumerate(self._segmenter.feed(text)):
            # What was held was said before the text that completes it.
            self._ends_s.append(self._said_s if i == 0 and self._holds_word else end_s)
        self._holds_word = bool(text) and not text[-1].isspace()
        self._said_s = end_s


class AudioClock:
    """Gives events their time in the audio: when a word was written, or could have been at best.

    Where somebody speaks now, that is the time since the audio began. No word is written before
    those that it depends on have been said: if the audio comes at once, or faster than it was
    spoken, this alone decides.

    Args:
        words: of the session's source.
        audio_began_s: when the audio began, by :func:`time.perf_counter`; None where nobody speaks.
        session_began_s: when the session did.
    """

    def __init__(
        self,
        words: WordTimes,
        audio_began_s: Callable[[], float | None],
        session_began_s: float,
    ) -> None:
        self._words = words
        self._audio_began_s = audio_began_s
        self._session_began_s = session_began_s

    def timed(self, event: Event) -> Event:
        """An event of the session, with its times in the audio. Events are given in order."""
        if isinstance(event, TurnEnd):
            first, behind = event.source_span_words
            timed = replace(
                event,
                began_ms=self._at(event.began_ms, first + 1),
                word_times_ms=tuple(map(self._at, event.word_times_ms, event.delays)),
                time_ms=self._at(event.time_ms, behind),
            )
            self._words.forget(behind)
            return timed
        if isinstance(event, Finished):
            return replace(
                event,
                word_times_ms=tuple(map(self._at, event.word_times_ms, event.delays)),
                total_ms=self._at(event.total_ms, event.source_words),
            )
        return replace(event, time_ms=self._at(event.time_ms, event.source_words_read))

    def _at(self, session_ms: float, n_words: int) -> float:
        said_ms = 1000 * self._words.end_s(n_words)
        if (began_s := self._audio_began_s()) is None:
            return said_ms
        return max(session_ms + 1000 * (self._session_began_s - began_s), said_ms)
