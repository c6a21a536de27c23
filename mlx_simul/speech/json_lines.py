"""Hypotheses as JSON lines, out and in, so that any recogniser can be a pipe.

A line is an object of one of two kinds:

* ``{"words": [{"text": " leaves", "start_s": 0.9, "end_s": 1.3}], "tail": "at", "pause": false,
  "heard_s": 2.0}``: words that stay, and the text that may still change. This is what
  ``mlx-simul listen --json`` writes. Every field may be missing.
* ``{"text": "My train leaves at", "final": false}``: the whole text since the last final one, as
  the recogniser sees it now. Of such texts a word stays when two in a row agree on it, or ``final``
  says so (:mod:`mlx_simul.text.stabiliser`). ``pause`` and ``heard_s`` may stand beside.

A line with a ``type`` other than ``hypothesis`` is skipped, and so is an empty one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any

from mlx_simul.errors import RecogniserError
from mlx_simul.machine.pipes import StoppablePipe
from mlx_simul.speech.recogniser import Hypothesis, Word
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.stabiliser import Stabiliser

MAX_LINE_BYTES = 1_048_576

MAX_S = 1e9
"""Thirty years of audio; what is later is not a time."""

_READ_BYTES = 65_536
_TYPE = "hypothesis"
_KINDS = {bool: "true or false", str: "a string", list: "an array"}


def hypothesis_as_plain(hypothesis: Hypothesis) -> dict[str, Any]:
    """A hypothesis as plain values, for a line of JSON, with times to the millisecond."""
    words = [
        {"text": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
        for word in hypothesis.words
    ]
    return {
        "type": _TYPE,
        "words": words,
        "tail": hypothesis.tail,
        "pause": hypothesis.pause,
        "heard_s": round(hypothesis.heard_s, 3),
    }


class JsonLines:
    """Hypotheses that another program writes, line by line.

    Args:
        fd: the file descriptor of the lines.
        has_clock: the lines come as somebody speaks; False if they were recorded.
        clock: seconds; any start.

    Attributes:
        began_s: when the audio began, by the clock, as the first line tells; None without one.
    """

    def __init__(
        self, fd: int, *, has_clock: bool = True, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.began_s: float | None = None
        self._fd = fd
        self._has_clock = has_clock
        self._clock = clock
        self._stopped = Event()
        self._stabiliser = Stabiliser()
        self._heard_s = 0.0

    def stop(self, *, now: bool = False) -> None:
        """Read no further."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Hypothesis]:
        """The hypotheses, to the end of the lines.

        Raises:
            OSError: if they cannot be read.
            RecogniserError: for a line that is not a hypothesis; those before it have been given.
        """
        error: RecogniserError | None = None
        for number, line in enumerate(self._lines(), start=1):
            try:
                hypothesis = self._hypothesis(line)
            except ValueError as refused:
                error = RecogniserError(
                    f"line {number} of the hypotheses: {refused}. A line is an object such as "
                    '{"words": [{"text": " leaves", "start_s": 0.9, "end_s": 1.3}]} or '
                    '{"text": "My train leaves at", "final": false}.'
                )
                break
            if hypothesis is not None:
                yield hypothesis
        # What was held back has been said, whatever came after it.
        if words := self._words(self._stabiliser.finish()):
            yield Hypothesis(words, heard_s=self._heard_s)
        if error is not None:
            raise error

    def _lines(self) -> Iterator[bytes]:
        # Unlike a buffered reader, which waits until a buffer is full.
        pipe, held = StoppablePipe(self._fd, self._stopped.is_set), b""
        while len(held) <= MAX_LINE_BYTES and (data := pipe.read(_READ_BYTES)):
            *lines, held = (held + data).split(b"\n")
            yield from lines
        yield held

    def _hypothesis(self, line: bytes) -> Hypothesis | None:
        """What a line says; None if it says nothing of speech.

        Raises:
            ValueError: if it is not a hypothesis.
        """
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"it has more than {MAX_LINE_BYTES} bytes")
        if not line.strip():
            return None
        try:
            said = json.loads(line)
        except RecursionError as error:
            raise ValueError("its values are nested too deeply") from error
        if not isinstance(said, dict):
            raise ValueError(f"it holds a JSON {type(said).__name__} where an object belongs")
        if said.get("type", _TYPE) != _TYPE:
            return None
        self._note_time(said)
        pause = _value(said, "pause", bool, False)
        if "text" not in said:
            words = tuple(self._word(word) for word in _value(said, "words", list, []))
            tail = _value(said, "tail", str, "")
            return Hypothesis(words, tail, pause, self._heard_s)
        text, final = _value(said, "text", str, ""), said.get("final", False)
        if not isinstance(final, int) or final < 0:
            raise ValueError(f"final must be true, false or a number of words, got {final!r}")
        words = self._words(self._stabiliser.hear(text, final=final))
        return Hypothesis(words, self._stabiliser.tail.unstable, pause, self._heard_s)

    def _note_time(self, said: Mapping[str, Any]) -> None:
        """How much had been heard when the line was written: as it says, or by the clock."""
        now_s = self._clock()
        heard_s = _seconds(said, "heard_s", 0.0)
        if self._has_clock and self.began_s is None:
            self.began_s = now_s - heard_s
        elapsed_s = 0.0 if self.began_s is None else now_s - self.began_s
        self._heard_s = heard_s if "heard_s" in said else max(self._heard_s, elapsed_s)

    def _word(self, said: object) -> Word:
        if not isinstance(said, dict):
            raise ValueError(f"a word must be an object with a text, got {said!r}")
        end_s = _seconds(said, "end_s", self._heard_s)
        return Word(_value(said, "text", str, ""), _seconds(said, "start_s", end_s), end_s)

    def _words(self, text: str) -> tuple[Word, ...]:
        """Words of which only the text is known."""
        segmenter = SourceSegmenter()
        words: Sequence[str] = [*segmenter.feed(text), *segmenter.finish()]
        # The space before the first word went to the end of the text before.
        spaced = (w if is_spaceless(w[0]) else f" {w.lstrip()}" for w in words)
        return tuple(Word(word, self._heard_s, self._heard_s) for word in spaced)


def _value(said: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = said.get(name, default)
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
    return value


def _seconds(said: Mapping[str, Any], name: str, default: float) -> float:
    value = said.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < MAX_S:
        raise ValueError(f"{name} must be seconds, from 0 to {MAX_S:.0f}, got {value!r}")
    return float(value)
