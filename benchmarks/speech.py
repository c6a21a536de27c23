"""What a translation from speech costs in time, and whether it loses anything.

Each recording is listened to at the pace at which it was spoken, as `mlx-simul listen` does. Three
delays are measured, in seconds, on a running clock, so that computing counts:

* ``recognised``: from the end of a word in the audio until it is stable, for each source word;
* ``translated``: from then until the target word that it allowed is written;
* ``delay``: both together, for each target word, from the end of the last word that it waited for.

``delay_at_best`` is what ``delay`` would be if computing took no time: a word is stable as soon as
enough audio has been heard. Nothing is lost if the session writes the same tokens when it is fed
the same words, and the same pauses, as text.

    python benchmarks/speech.py two_cities.wav beckett.wav --recogniser faster-whisper:tiny.en

With ``--text FOLDER``, where ``two_cities.txt`` holds what is said in ``two_cities.wav``, jiwer
gives the word error rate, case and punctuation aside.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mlx_simul
from mlx_simul.console.ear import Ear
from mlx_simul.console.live import Arrival, TextView, run_session
from mlx_simul.events import Event, Tail, TurnEnd, Write
from mlx_simul.speech.audio import read_file
from mlx_simul.speech.audio_clock import AudioClock, WordTimes
from mlx_simul.speech.capture import Audio, Pumped
from mlx_simul.speech.hearing import Recognised
from mlx_simul.speech.recogniser import Hypothesis, Recogniser
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


class Notes(TextView):
    """Notes what is heard, and when, and what is written.

    Args:
        now_s: the time in the audio.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__()
        self.hypotheses: list[Hypothesis] = []
        self.writes: list[Write] = []
        self.turns: list[TurnEnd] = []
        self.stable, self.at_best = WordTimes(), WordTimes()
        self._now_s = now_s

    def __exit__(self, *raised: object) -> None:
        """Leaves nothing behind."""

    def arrived(self, piece: Arrival) -> None:
        """Notes when words have become stable."""
        if isinstance(piece, Hypothesis):
            self.hypotheses.append(piece)
            self.stable.add(said_by(piece, self._now_s()))
            self.at_best.add(said_by(piece, piece.heard_s))

    def show(self, event: Event | Tail) -> None:
        """Notes target words, and turns."""
        if isinstance(event, TurnEnd):
            self.turns.append(event)
        elif isinstance(event, Write) and event.word_complete:
            self.writes.append(event)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """Of each turn."""
        return [end.token_ids for end in self.turns]


def said_by(hypothesis: Hypothesis, time_s: float) -> Hypothesis:
    """The hypothesis as if its words had been said at that time."""
    words = (type(word)(word.text, time_s, time_s) for word in hypothesis.words)
    return Hypothesis(tuple(words), pause=hypothesis.pause)


def listen(
    make_session: Callable[[], mlx_simul.SimulSession],
    recogniser: Recogniser,
    audio: Audio,
    name: str,
    text: str | None = None,
) -> Figures:
    """Listen to audio to its end.

    Args:
        make_session: makes one with turns.
        recogniser: loaded.
        audio: not begun.
        name: of it.
        text: what is said in it, if that is known.
    """
    hearing = Recognised(recogniser, audio)
    ear, ends = Ear(hearing), WordTimes()
    session_began_s = time.perf_counter()
    session = make_session()
    clock = AudioClock(ear.words, lambda: hearing.began_s, session_began_s)
    notes = Notes(lambda: time.perf_counter() - (hearing.began_s or 0.0))
    cpu_s = time.process_time()
    with ear, notes:
        run_session(session, ear, notes, timed=clock.timed)
    ear.require_whole()
    cpu_s = time.process_time() - cpu_s
    for hypothesis in notes.hypotheses:
        ends.add(hypothesis)
    heard = "".join(hypothesis.text for hypothesis in notes.hypotheses)
    n_words = notes.turns[-1].source_span_words[1] if notes.turns else 0
    waited = [(event.time_ms / 1000, event.source_words_read) for event in notes.writes]
    audio_s = notes.hypotheses[-1].heard_s if notes.hypotheses else 0.0
    return Figures(
        name=name,
        audio_s=audio_s,
        cpu_s=cpu_s / max(audio_s, 1e-9),
        source_words=n_words,
        target_words=len(notes.writes),
        turns=len(notes.turns),
        error_rate=None if text is None else error_rate(text, heard),
        recognised=Spread.of(
            [notes.stable.end_s(n) - ends.end_s(n) for n in range(1, n_words + 1)]
        ),
        translated=Spread.of([time_s - notes.stable.end_s(n) for time_s, n in waited]),
        delay=Spread.of([time_s - ends.end_s(n) for time_s, n in waited]),
        delay_at_best=Spread.of([notes.at_best.end_s(n) - ends.end_s(n) for _, n in waited]),
        nothing_lost=notes.token_ids == as_text(make_session(), notes.hypotheses),
    )


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
        audio = Pumped(read_file(path), is_paced=True)
        found.append(listen(make_session, recogniser, audio, path.name, text))
        _show(found[-1], len(found) == 1)
    if args.json:
        setting = {"recogniser": args.recogniser, "policy": args.policy}
        figures = setting | {"recordings": [asdict(each) for each in found]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(each.nothing_lost for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
