"""Recognition by a model that hears a piece of audio as a whole, as Whisper does: a growing window.

What has been said since the last cut is recognised again and again while it grows, and the words
that two successive hypotheses have in common are stable (LocalAgreement-2, as in Macháček et al.
2023, "Turning Whisper into Real-Time Transcription System").

* A pause ends an utterance: all of its words become stable, and the window begins anew.
* Silence is never given to the model, which would hear words in it. Only the last moment of it is
  kept, so that the first word after it is heard from its beginning.
* A long window is cut after the last sentence that is stable. One that is full is cut anyway, after
a sentence or in a silence of its second half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlx_simul.errors import InvalidOptionError, RecogniserError, SessionClosedError
from mlx_simul.speech.audio import checked
from mlx_simul.speech.failures import failing_between
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word
from mlx_simul.speech.transcript import Transcript

Audio: TypeAlias = NDArray[np.float32]
"""Shape (samples,), at ``SAMPLE_RATE_HZ``."""

Span: TypeAlias = tuple[float, float]
"""When a voice begins and ends, in seconds of a piece of audio."""

Transcribe: TypeAlias = Callable[[Audio, Sequence[Span]], Sequence[Word]]
"""Audio, and when somebody speaks in it -> the words in it, in order, with times in this audio."""

FindVoice: TypeAlias = Callable[[Audio], Sequence[Span]]
"""Audio -> the parts of it in which somebody speaks, in order."""

# The window grows by multiples of this. So pieces of audio that are no longer than it give the
# same words however they are cut.
_STEP_S = 0.25
# Silence that is left before a voice, and after it.
_LEAD_S = 0.5
# A word this close to the end of the audio may be half a word.
_UNSURE_S = 1.0

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")


@dataclass(frozen=True)
class WindowOptions:
    """How a window grows, and where it ends.

    Attributes:
        min_chunk_s: seconds of audio that must have come before the window is recognised again,
            0.25 to 5. Less gives words earlier and costs more.
        pause_s: seconds of silence that end an utterance, 0.25 to 10.
        max_window_s: seconds of audio that the window holds at most, 5 to 28. Whisper hears 30.

    Raises:
        InvalidOptionError: a value is outside its range.
    """

    min_chunk_s: float = 1.0
    pause_s: float = 0.8
    max_window_s: float = 15.0

    def __post_init__(self) -> None:
        _refuse_outside("min_chunk_s", self.min_chunk_s, _STEP_S, 5)
        _refuse_outside("pause_s", self.pause_s, _STEP_S, 10)
        _refuse_outside("max_window_s", self.max_window_s, 5, 28)


class GrowingWindow:
    """The recognition of one stream (:class:`~mlx_simul.speech.recogniser.Recognition`).

    Args:
        transcribe: recognises a piece of audio as a whole.
        find_voice: tells where in a piece of audio somebody speaks.
        options: how the window grows, and where it ends.
    """

    def __init__(
        self, transcribe: Transcribe, find_voice: FindVoice, options: WindowOptions | None = None
    ) -> None:
        self._transcribe = transcribe
        self._find_voice = find_voice
        self._options = options or WindowOptions()
        self._is_closed = False
        self._failure: RecogniserError | None = None  # that the next call raises
        self._waiting = np.zeros(0, np.float32)  # audio that is too short for a step
        self._audio = self._waiting  # the window
        self._start_samples = 0  # of the window in the stream
        self._recognised_s = 0.0  # so much of the window has the latest hypothesis heard
        self._transcript = Transcript()
        self._has_spoken = False  # since the last pause
        self._spoken_until_s = 0.0  # when the last voice ended, in seconds of the stream

    def hear(self, audio: Audio) -> list[Hypothesis]:
        """Take the next piece of audio (``Recognition.hear``).

        Raises:
            RecogniserError: ``audio`` is not what recognisers take, or the model failed. If it had
                given words of this piece before, they are returned, and the next call raises.
            SessionClosedError: after ``finish`` or a failure.
        """
        self._refuse_if_closed("hear")
        self._waiting = np.concatenate([self._waiting, checked(audio)])
        found: list[Hypothesis] = []
        step = _samples(_STEP_S)
        try:
            while len(self._waiting) >= step:
                for hypothesis in self._grow(len(self._waiting) // step * step):
                    found.append(hypothesis)
        except RecogniserError as error:
            if not found:
                raise
            self._failure = error
        return found

    def finish(self) -> list[Hypothesis]:
        """End the audio (``Recognition.finish``).

        Raises:
            RecogniserError: the model failed.
            SessionClosedError: the second time.
        """
        self._refuse_if_closed("finish")
        found: list[Hypothesis] = []
        while len(self._waiting):
            found.extend(self._grow(len(self._waiting)))
        found.extend(self._follow(is_last=True))
        self._is_closed = True
        return found

    @property
    def _length_s(self) -> float:
        return len(self._audio) / SAMPLE_RATE_HZ

    @property
    def _start_s(self) -> float:
        return self._start_samples / SAMPLE_RATE_HZ

    def _grow(self, n_samples: int) -> Iterator[Hypothesis]:
        """Take audio into the window, as much as it holds, and recognise what there is."""
        room = _samples(self._options.max_window_s) - len(self._audio)
        taken, self._waiting = np.split(self._waiting, [min(n_samples, room)])
        self._audio = np.concatenate([self._audio, taken])
        yield from self._follow()

    def _follow(self, *, is_last: bool = False) -> Iterator[Hypothesis]:
        """End the utterances that are over, and recognise the one under way if it is due."""
        while len(self._audio):
            spans = self._ask(self._find_voice, self._audio)
            start_s = spans[0][0] if spans else self._length_s
            if self._has_spoken and self._is_pause(self._start_s + start_s - self._spoken_until_s):
                # The window had been cut right after the last word.
                yield self._said(self._transcript.finish(), is_pause=True)
            if not spans:
                break
            end_s, is_over = _first_utterance(spans, self._options.pause_s)
            is_over = is_over or self._is_pause(self._length_s - end_s)
            self._spoken_until_s = self._start_s + end_s
            if is_over or is_last:
                yield self._end_utterance(spans, end_s, is_pause=is_over)
            elif start_s > 2 * _LEAD_S:
                self._drop(start_s - _LEAD_S)
            else:
                is_full = len(self._audio) >= _samples(self._options.max_window_s)
                if is_full or self._length_s - self._recognised_s >= self._options.min_chunk_s:
                    yield self._revise(spans, is_full=is_full)
                return
        if rest := self._transcript.finish():
            yield self._said(rest)
        self._drop(self._length_s - _LEAD_S)

    def _end_utterance(self, spans: Sequence[Span], end_s: float, *, is_pause: bool) -> Hypothesis:
        """Take all words of the first utterance for stable, and let the window begin after it."""
        until_s = min(end_s + min(_LEAD_S, self._options.pause_s / 2), self._length_s)
        words: list[Word] = []
        if self._recognised_s < end_s + _STEP_S / 2:
            words = self._transcript.revise(self._recognise(spans, until_s))
        hypothesis = self._said([*words, *self._transcript.finish()], is_pause=is_pause)
        self._drop(until_s)
        return hypothesis

    def _revise(self, spans: Sequence[Span], *, is_full: bool) -> Hypothesis:
        """Recognise the window again, and cut it if it is long."""
        words = self._recognise(spans, self._length_s)
        n_cut = _forced_cut(words, self._start_s, self._length_s) if is_full else 0
        hypothesis = self._said(self._transcript.revise(words, n_final=n_cut))
        if not is_full and self._length_s >= self._options.max_window_s / 2:
            n_cut = _last_sentence(words[: self._transcript.n_stable])
        if n_cut or is_full:
            self._drop(self._cut_between(words, n_cut))
            self._transcript.forget(n_cut)
        return hypothesis

    def _recognise(self, spans: Sequence[Span], until_s: float) -> list[Word]:
        """The words of the window's audio up to a moment, with times in the stream."""
        audio = self._audio[: _samples(until_s)]
        voices = [(start_s, min(end_s, until_s)) for start_s, end_s in spans if start_s < until_s]
        words = self._ask(self._transcribe, audio, voices)
        self._recognised_s = until_s
        return [
            replace(word, start_s=word.start_s + self._start_s, end_s=word.end_s + self._start_s)
            for word in words
        ]

    def _said(self, words: Sequence[Word], *, is_pause: bool = False) -> Hypothesis:
        has_spoken = self._has_spoken or bool(words)
        self._has_spoken = has_spoken and not is_pause
        return Hypothesis(
            words=tuple(words),
            tail=self._transcript.tail,
            pause=is_pause and has_spoken,
            heard_s=self._start_s + self._length_s,
        )

    def _is_pause(self, silence_s: float) -> bool:
        return silence_s >= self._options.pause_s

    def _cut_between(self, words: Sequence[Word], n_before: int) -> float:
        """The quietest moment of the window between two words, in seconds of the window."""
        if not n_before:
            return self._length_s / 2
        from_s = _middle_s(words[n_before - 1]) - self._start_s
        to_s = (
            _middle_s(words[n_before]) - self._start_s if n_before < len(words) else self._length_s
        )
        return _quietest_s(self._audio, from_s, to_s)

    def _drop(self, until_s: float) -> None:
        """Let the window begin at a moment of it."""
        n_samples = max(0, min(_samples(until_s), len(self._audio)))
        self._audio = self._audio[n_samples:]
        self._start_samples += n_samples
        self._recognised_s = max(0.0, self._recognised_s - n_samples / SAMPLE_RATE_HZ)

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            with failing_between(self._start_s, self._start_s + self._length_s):
                return function(*args)
        except RecogniserError:
            self._is_closed = True
            raise

    def _refuse_if_closed(self, what: str) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._is_closed:
            raise SessionClosedError(
                f"{what}() after finish() or an error: this stream of audio has ended; begin a new "
                "recognition."
            )


def _first_utterance(spans: Sequence[Span], pause_s: float) -> tuple[float, bool]:
    """When the first utterance ends, and whether a pause and another one follow."""
    end_s = spans[0][1]
    for next_start_s, next_end_s in spans[1:]:
        if next_start_s - end_s >= pause_s:
            return end_s, True
        end_s = next_end_s
    return end_s, False


def _forced_cut(words: Sequence[Word], start_s: float, length_s: float) -> int:
    """How many words come before the best place to cut a full window.

    Args:
        words: of the window, with times in the stream.
        start_s: when the window begins.
        length_s: how long it is.
    """
    half_s, sure_s = start_s + length_s / 2, start_s + length_s - _UNSURE_S
    places = [n for n, word in enumerate(words, 1) if half_s <= word.end_s <= sure_s]
    if sentences := [n for n in places if _ends_sentence(words[n - 1])]:
        return sentences[-1]
    if not places:
        return sum(word.end_s < half_s for word in words)
    starts_s = [*(word.start_s for word in words), start_s + length_s]
    return max(places, key=lambda n: starts_s[n] - words[n - 1].end_s)


def _last_sentence(words: Sequence[Word]) -> int:
    """How many words come before the end of the last sentence; 0 if none ends."""
    return max((n for n, word in enumerate(words, 1) if _ends_sentence(word)), default=0)


def _ends_sentence(word: Word) -> bool:
    return word.text.rstrip("\"'”’»)]}」』） ").endswith(_SENTENCE_ENDS)


def _middle_s(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _quietest_s(audio: Audio, from_s: float, to_s: float) -> float:
    """The middle of the quietest tenth of a second between two moments of a piece of audio."""
    width = _samples(0.1)
    start = max(0, min(_samples(from_s), len(audio) - width))
    part = audio[start : max(_samples(to_s), start + width)].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(part**2)])
    energies = sums[width:] - sums[:-width]
    return (start + int(energies.argmin()) + width // 2) / SAMPLE_RATE_HZ


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)


def _refuse_outside(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidOptionError(
            f"{name} must be a number of seconds from {least:g} to {most:g}, got {value!r}."
        )
