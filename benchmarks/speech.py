"""What a translation from speech costs in time, and whether it loses anything.

Each recording is listened to at the pace at which it was spoken, as `mlx-simul listen` does. Delays
are in seconds, and computing counts:

* ``recognised``: from the end of a word in the audio until it is stable, for each source word;
* ``translated``: from then until the target word that it allowed is written;
* ``delay``: both together, for each target word, from the end of the last word that it waited for.

``delay_at_best`` is what ``delay`` would be if computing took no time: a word is stable as soon as
enough audio has been heard. Nothing is lost if the session writes the same tokens when it is fed
the same words, and the same pauses, as text.

    python benchmarks/speech.py two_cities.wav beckett.wav --recogniser faster-whisper:tiny.en

With ``--clock cpu`` time passes only while this process computes, or waits for the speaker, and the
two models take turns: so fast is a core that does nothing else, whatever the machine does besides.
Give both models one thread for that (``OMP_NUM_THREADS=1 MKL_NUM_THREADS=1``).

With ``--text FOLDER``, where ``two_cities.txt`` holds what is said in ``two_cities.wav``, jiwer
gives the word error rate, case and punctuation aside.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mlx_simul
from mlx_simul.console.ear import Ear
from mlx_simul.console.live import Arrival, Source, TextView, run_session
from mlx_simul.events import Event, Tail, TurnEnd, Write
from mlx_simul.speech.audio import read_file
from mlx_simul.speech.audio_clock import WordTimes
from mlx_simul.speech.capture import AtOnce, Block, Pumped
from mlx_simul.speech.hearing import Hearing, Recognised
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Recogniser
from mlx_simul.speech.registry import load_recogniser


@dataclass(frozen=True)
class Spread:
    """Seconds, in the middle and where nine in ten are below."""

    median_s: float
    p90_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """That of some seconds; zero of none."""
        if not seconds:
            return cls(0.0, 0.0)
        return cls(*(float(np.quantile(seconds, part)) for part in (0.5, 0.9)))

    def __str__(self) -> str:
        return f"{self.median_s:.2f} ({self.p90_s:.2f})"


@dataclass(frozen=True)
class Figures:
    """Of one recording.

    Attributes:
        name: of its file.
        audio_s: how long it is.
        cpu_s: CPU time for each second of audio, of both models together.
        source_words: that were heard.
        target_words: that were written.
        turns: there were.
        error_rate: words that are wrong, missing or too many, for each word said; None if what is
            said is not known.
        recognised: see above, as the others.
        translated: likewise.
        delay: likewise.
        delay_at_best: likewise.
        nothing_lost: the same words as text give the same tokens.
    """

    name: str
    audio_s: float
    cpu_s: float
    source_words: int
    target_words: int
    turns: int
    error_rate: float | None
    recognised: Spread
    translated: Spread
    delay: Spread
    delay_at_best: Spread
    nothing_lost: bool


class CpuClock:
    """Seconds of CPU time since audio began, and of waiting, which takes no time."""

    def __init__(self) -> None:
        self._began_s: float | None = None

    def __call__(self) -> float:
        """The time; 0 before it began."""
        return 0.0 if self._began_s is None else time.process_time() - self._began_s

    def wait_until(self, time_s: float) -> None:
        """Let it be so late at least."""
        self._began_s = time.process_time() - max(self(), time_s)


class SpokenAudio(AtOnce):
    """Audio that comes by a clock that can be waited for.

    Args:
        blocks: of any length.
        clock: that is waited for.
    """

    def __init__(self, blocks: Iterable[Block], clock: CpuClock) -> None:
        super().__init__(blocks)
        self._clock = clock
        self._n_samples = 0
        self._next = super().take()

    def take(self) -> Block | None:
        """All that has been spoken; the next block, when it is, if there is none."""
        spoken: list[Block] = []
        while self._next is not None:
            end_s = (self._n_samples + len(self._next)) / SAMPLE_RATE_HZ
            if spoken and end_s > self._clock():
                break
            self._clock.wait_until(end_s)
            self._n_samples += len(self._next)
            spoken.append(self._next)
            self._next = super().take()
        return np.concatenate(spoken) if spoken else None


class InTurns:
    """What is heard, as a source that listens only when the session has nothing left to do."""

    def __init__(self, hearing: Hearing) -> None:
        self._heard = (item for item in hearing if isinstance(item, Hypothesis))

    def read(self, *, wait: bool = True) -> str | Hypothesis | None:
        """The next hypothesis, if that may take time."""
        return next(self._heard, None) if wait else ""


class Notes(TextView):
    """Notes what is heard and written, and when.

    Args:
        now_s: the time in the audio.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__()
        self.hypotheses: list[Hypothesis] = []
        self.written: list[tuple[float, int]] = []  # when, and after how many source words
        self.turns: list[TurnEnd] = []
        self.said, self.stable, self.at_best = WordTimes(), WordTimes(), WordTimes()
        self._now_s = now_s

    def __exit__(self, *raised: object) -> None:
        """Leaves nothing behind."""

    def arrived(self, piece: Arrival) -> None:
        """Notes when words have become stable."""
        if isinstance(piece, Hypothesis):
            self.hypotheses.append(piece)
            self.said.add(piece)
            self.stable.add(said_by(piece, self._now_s()))
            self.at_best.add(said_by(piece, piece.heard_s))

    def show(self, event: Event | Tail) -> None:
        """Notes target words, and turns."""
        if isinstance(event, TurnEnd):
            self.turns.append(event)
        elif isinstance(event, Write) and event.word_complete:
            self.written.append((self._now_s(), event.source_words_read))


def said_by(hypothesis: Hypothesis, time_s: float) -> Hypothesis:
    """The hypothesis as if its words had been said at that time."""
    words = (type(word)(word.text, time_s, time_s) for word in hypothesis.words)
    return Hypothesis(tuple(words), pause=hypothesis.pause)


def listen(
    make_session: Callable[[], mlx_simul.SimulSession],
    source: Source,
    now_s: Callable[[], float],
    name: str,
    text: str | None = None,
) -> Figures:
    """Translate what is heard, to its end.

    Args:
        make_session: makes one with turns.
        source: of hypotheses.
        now_s: the time in the audio.
        name: of it.
        text: what is said in it, if that is known.
    """
    notes = Notes(now_s)
    cpu_s = time.process_time()
    with notes:
        run_session(make_session(), source, notes)
    cpu_s = time.process_time() - cpu_s
    said, stable, at_best = notes.said, notes.stable, notes.at_best
    heard = "".join(hypothesis.text for hypothesis in notes.hypotheses)
    n_words = notes.turns[-1].source_span_words[1] if notes.turns else 0
    audio_s = notes.hypotheses[-1].heard_s if notes.hypotheses else 0.0
    token_ids = [end.token_ids for end in notes.turns]
    return Figures(
        name=name,
        audio_s=audio_s,
        cpu_s=cpu_s / max(audio_s, 1e-9),
        source_words=n_words,
        target_words=len(notes.written),
        turns=len(notes.turns),
        error_rate=None if text is None else error_rate(text, heard),
        recognised=Spread.of([stable.end_s(n) - said.end_s(n) for n in range(1, n_words + 1)]),
        translated=Spread.of([time_s - stable.end_s(n) for time_s, n in notes.written]),
        delay=Spread.of([time_s - said.end_s(n) for time_s, n in notes.written]),
        delay_at_best=Spread.of([at_best.end_s(n) - said.end_s(n) for _, n in notes.written]),
        nothing_lost=token_ids == as_text(make_session(), notes.hypotheses),
    )


@contextmanager
def by_the_wall(
    recogniser: Recogniser, blocks: Iterable[Block]
) -> Iterator[tuple[Source, Callable[[], float]]]:
    """What is heard on a thread of its own, in real time, and the time in the audio."""
    hearing = Recognised(recogniser, Pumped(blocks, is_paced=True))
    with Ear(hearing) as ear:
        yield ear, lambda: time.perf_counter() - (hearing.began_s or time.perf_counter())
        ear.require_whole()


@contextmanager
def by_the_cpu(
    recogniser: Recogniser, blocks: Iterable[Block]
) -> Iterator[tuple[Source, Callable[[], float]]]:
    """What is heard in turns with the translation, in CPU time, and the time in the audio."""
    clock = CpuClock()
    yield InTurns(Recognised(recogniser, SpokenAudio(blocks, clock))), clock


CLOCKS = {"wall": by_the_wall, "cpu": by_the_cpu}


def as_text(
    session: mlx_simul.SimulSession, hypotheses: Sequence[Hypothesis]
) -> list[tuple[int, ...]]:
    """The tokens of each turn, if the words are given as text, all at once up to each pause."""
    events: list[Event] = []
    for hypothesis in hypotheses:
        session.push(" ".join(word.text.strip() for word in hypothesis.words) + " ")
        if hypothesis.pause:
            session.end_turn()
            events += session.events()
    events += session.finish()
    return [event.token_ids for event in events if isinstance(event, TurnEnd)]


def error_rate(said: str, heard: str) -> float:
    """Word error rate, case and punctuation aside."""
    import jiwer

    return float(jiwer.wer(_spoken(said), _spoken(heard)))


def _spoken(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.casefold().replace("’", "'")))


def _show(figures: Figures, is_first: bool) -> None:
    names = [field.name for field in fields(Figures)]
    cells = [getattr(figures, name) for name in names]
    texts = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
    widths = [max(len(name), 14) for name in names]
    if is_first:
        print("  ".join(f"{name:>{n}}" for name, n in zip(names, widths, strict=True)))
    print("  ".join(f"{cell:>{n}}" for cell, n in zip(texts, widths, strict=True)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--recogniser", default="faster-whisper", metavar="NAME[:MODEL]")
    parser.add_argument("--text", type=Path, metavar="FOLDER", help="what is said: NAME.txt")
    parser.add_argument("--model", help="folder or repository id; the packaged model by default")
    parser.add_argument("--from", dest="source_language", help="for a model that is not trained")
    parser.add_argument("--to", dest="target_language", help="for one pair of languages")
    parser.add_argument("--policy", default="wait-k:3", metavar="SPEC")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()

    model, tokenizer = mlx_simul.load(args.model)
    recogniser = load_recogniser(args.recogniser)
    options: dict[str, Any] = {
        "policy": args.policy,
        "source_language": args.source_language,
        "target_language": args.target_language,
        "turns": "sentence",
    }
    make_session = partial(mlx_simul.SimulSession, model, tokenizer, **options)
    found: list[Figures] = []
    for path in args.recordings:
        known = args.text and args.text / f"{path.stem}.txt"
        text = known.read_text("utf-8") if known and known.exists() else None
        with CLOCKS[args.clock](recogniser, read_file(path)) as (source, now_s):
            found.append(listen(make_session, source, now_s, path.name, text))
        _show(found[-1], len(found) == 1)
    if args.json:
        setting = {"recogniser": args.recogniser, "policy": args.policy, "clock": args.clock}
        figures = setting | {"recordings": [asdict(each) for each in found]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(each.nothing_lost for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
