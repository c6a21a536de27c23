"""What is recorded of one talk: enough to compute every figure again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from mlx_simul.errors import DataError
from mlx_simul.evaluation.latency import n_common
from mlx_simul.evaluation.live_times import live_times_of_speech_ms
from mlx_simul.evaluation.talks import Sentence, Talk
from mlx_simul.evaluation.units import Unit, Units, target_units
from mlx_simul.events import Event, Finished, TurnEnd, Write


@dataclass(frozen=True)
class Shown:
    """One change of the target on display.

    Attributes:
        text: what was added at its end.
        source_words: words of the talk read by then.
        time_ms: when, on the recording's clock.
        n_erased: characters that were taken back from its end before the text was added.
    """

    text: str
    source_words: int
    time_ms: float
    n_erased: int = 0


@dataclass(frozen=True)
class End:
    """How the target of a turn ended, or that of a whole talk in a stream without turns.

    Attributes:
        source_words: words of the talk up to its end.
        target_words: that were written for it, as the session counts them.
        reason: why it ended, as in :class:`mlx_simul.events.Finished`.
    """

    source_words: int
    target_words: int
    reason: str


@dataclass(frozen=True)
class TalkRecord:
    """One talk, translated under one policy.

    Words were fed without waiting, so all time is work, as in
    :class:`mlx_simul.evaluation.record.Record`. Another pace needs no new translation: replace the
    talk by the same sentences said at other times.

    Attributes:
        index: of the talk in the test set, from 0.
        talk: what was said, when, and its references.
        shown: every change of the target, in order.
        fed_ms: for each source word, when it was fed, on the clock of ``shown``.
        ends: of the turns, in order.

    Raises:
        DataError: if the words fed are not those of the talk, more is taken back than is shown,
            more words are read than the talk has, or counts or times decrease.
    """

    index: int
    talk: Talk
    shown: tuple[Shown, ...]
    fed_ms: tuple[float, ...]
    ends: tuple[End, ...] = ()

    def __post_init__(self) -> None:
        n_words = len(self.talk.said_ms)
        if len(self.fed_ms) != n_words:
            raise DataError(
                f"talk {self.index} has {n_words} words, and {len(self.fed_ms)} were fed; a record "
                "holds a time for each word. Another version may have counted otherwise."
            )
        steps = [(each.source_words, each.time_ms) for each in self.shown]
        if any(b[0] < a[0] or b[1] < a[1] for a, b in pairwise([(0, self.fed_ms[0]), *steps])):
            raise DataError(f"talk {self.index}: source words or times of what was shown decrease.")
        if steps and steps[-1][0] > n_words:
            raise DataError(
                f"talk {self.index} has {n_words} words, and {steps[-1][0]} are said to have been "
                "read."
            )
        ends = [end.source_words for end in self.ends]
        if any(b < a for a, b in pairwise([0, *ends, n_words])):
            raise DataError(f"talk {self.index} has {n_words} words, and turns end at {ends}.")
        n_shown = 0
        for each in self.shown:
            if not 0 <= each.n_erased <= n_shown:
                raise DataError(
                    f"talk {self.index}: {each.n_erased} characters taken back of {n_shown} shown."
                )
            n_shown += len(each.text) - each.n_erased

    @cached_property
    def changes(self) -> tuple[Shown, ...]:
        """What is shown, without text that is taken back and at once shown again."""
        display: list[str] = []
        changes: list[Shown] = []
        for each in self.shown:
            begin = len(display) - each.n_erased
            n_same = n_common(display[begin:], each.text)
            del display[begin + n_same :]
            display += each.text[n_same:]
            change = (each.text[n_same:], each.source_words, each.time_ms, each.n_erased - n_same)
            changes.append(Shown(*change))
        return tuple(changes)

    @property
    def work_ms(self) -> float:
        """How long the work on the talk took, up to the last word fed and the last change."""
        return max(self.fed_ms[-1], *(each.time_ms for each in self.shown[-1:]), 0.0)

    def units(self, unit: Unit) -> Units:
        """The target at the end, in units: source words read when each was shown, and when."""
        display: list[tuple[str, int, float]] = []
        for each in self.changes:
            del display[len(display) - each.n_erased :]
            display += ((char, each.source_words, each.time_ms) for char in each.text)
        return target_units(display, unit)

    def n_erased(self, unit: Unit) -> int:
        """How many units lost a character after they had been shown, each time that they did."""
        display: list[str] = []
        n_units = 0
        for each in self.changes:
            begin = len(display) - each.n_erased
            erased = "".join(display[begin:])
            n_units += len(target_units([(erased, 0, 0.0)], unit).texts)
            del display[begin:]
            display += each.text
        return n_units

    def lost_sentences(self) -> list[int]:
        """Sentences, counted from 0, of which no word is in a turn that has a translation."""
        lost: list[int] = []
        first, spans, before = 0, [], 0
        for end in self.ends:
            if end.target_words:
                spans.append((before, end.source_words))
            before = end.source_words
        for number, sentence in enumerate(self.talk.sentences):
            behind = first + len(sentence.said_ms)
            if not any(begin < behind and first < end for begin, end in spans):
                lost.append(number)
            first = behind
        return lost

    def delays_ms(self, source_words: Iterable[int]) -> list[float]:
        """For each number of source words read, when the last of them had been said."""
        said_ms = (0.0, *self.talk.said_ms)
        return [said_ms[n_words] for n_words in source_words]

    def elapsed_ms(self, times_ms: Iterable[float]) -> list[float]:
        """Times on the recording's clock as times of the talk, had it been heard live."""
        return live_times_of_speech_ms(times_ms, self.fed_ms, self.talk.said_ms)

    def to_json(self) -> str:
        """One line."""
        held = {
            "index": self.index,
            "sentences": [asdict(sentence) for sentence in self.talk.sentences],
            "shown": [astuple(each) for each in self.shown],
            "fed_ms": self.fed_ms,
            "ends": [astuple(each) for each in self.ends],
        }
        return json.dumps(held, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> TalkRecord:
        """A record from its line.

        Raises:
            DataError: if it is not the line of a record.
        """
        try:
            held: dict[str, Any] = json.loads(line)
            talk = Talk(tuple(map(_sentence, held["sentences"])))
            shown = tuple(map(_shown, held["shown"]))
            fed_ms = tuple(map(float, held["fed_ms"]))
            return cls(int(held["index"]), talk, shown, fed_ms, tuple(map(_end, held["ends"])))
        except DataError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"not the record of a talk: {line[:80]!r} ({error!r}).") from error


class Display:
    """Collects what a session's events show of a talk, for its record.

    Attributes:
        shown: every change so far.
        ends: of the turns so far.
    """

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self.ends: list[End] = []
        self._turn = ""  # what is on display of the turn under way

    def see(self, event: Event, time_ms: float) -> None:
        """Take the next event.

        Where the text that a turn or a stream ends with is not the text that was shown, the
        difference is a change like any other.

        Args:
            event: of the session.
            time_ms: when it was there, on the clock that the words fed are timed by.
        """
        if isinstance(event, Write):
            self._show(Shown(event.text, event.source_words_read, time_ms))
        elif isinstance(event, TurnEnd):
            (_, source_words), (first, end) = event.source_span_words, event.target_span_words
            self.ends.append(End(source_words, end - first, event.reason))
            self._settle(event.target_text, source_words, time_ms)
        elif isinstance(event, Finished):
            if not event.turns:
                self.ends.append(End(event.source_words, event.target_words, event.reason))
            self._settle(event.target_text, event.source_words, time_ms)

    def _show(self, change: Shown) -> None:
        if change.text or change.n_erased:
            self._turn = self._turn[: len(self._turn) - change.n_erased] + change.text
            self.shown.append(change)

    def _settle(self, text: str, source_words: int, time_ms: float) -> None:
        # A turn's first word comes with a space before it, which is not of the turn.
        space = self._turn[: len(self._turn) - len(self._turn.lstrip())]
        wanted = space + text.strip()
        if wanted != self._turn.rstrip():
            n_same = n_common(self._turn, wanted)
            n_erased = len(self._turn) - n_same
            self._show(Shown(wanted[n_same:], source_words, time_ms, n_erased))
        self._turn = ""


def _sentence(held: Mapping[str, Any]) -> Sentence:
    source, references, start_ms = held["source"], held["references"], held["start_ms"]
    return Sentence(_text(source), tuple(map(_text, references)), start_ms, tuple(held["said_ms"]))


def _shown(row: Sequence[Any]) -> Shown:
    text, source_words, time_ms, n_erased = row
    return Shown(_text(text), int(source_words), float(time_ms), int(n_erased))


def _end(row: Sequence[Any]) -> End:
    source_words, target_words, reason = row
    return End(int(source_words), int(target_words), _text(reason))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} where a text belongs")
    return value
