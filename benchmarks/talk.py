"""Whether a stream of a day costs, holds and writes the same in its last hour as in its first.

The sentences of a test set, shuffled and repeated, are fed word by word, as fast as they are taken.
After each simulated hour (9,000 words, 150 a minute) a row is printed, and the file of the figures
is written anew, so a run that is stopped leaves those of the hours that it had.

The machine may be busy, and other sentences take other work. So the last words of each hour are fed
to fresh sessions too: they must write the same tokens, and the stream's time beside theirs
(``beside_fresh``) says what its age costs.

    python benchmarks/talk.py --text dev.tsv [--hours 24] [--streams 8] [--policy wait-k:3]
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import zip_longest
from os import getpid
from pathlib import Path
from typing import Any

import mlx_simul
from mlx_simul.evaluation.corpus import read_corpus
from mlx_simul.events import Event, TurnEnd, Write

WORDS_AN_HOUR = 150 * 60
N_PAIRED_WORDS = 600
"""The last words of an hour, which fresh sessions are fed too."""


@dataclass(frozen=True)
class Hour:
    """One simulated hour of all streams together.

    Attributes:
        hour: its number, from 1.
        words: source words fed since the beginning, to each stream.
        cpu_ms_per_word: CPU time for each source word of this hour.
        beside_fresh: CPU time for its last words, divided by what fresh sessions took for them.
        equals_fresh: these wrote the same tokens.
        passes_per_word: passes over the model that streams took part in, for each source word.
        lag_words: how many source words the target is behind, on average.
        rss_mb: memory of the process, in megabytes.
        mlx_mb: memory of MLX's arrays.
        cache_rows: tokens that there is room for in a layer's cache, of all streams.
        largest_position: of any token in this hour.
        python_objects: that Python's garbage collector knows.
        python_items: in all lists, dictionaries, sets and deques that it knows.
        turns: that ended in this hour.
        empty_turns: of them, without a translation.
        ends: of them, why their target ended.
        lost_words: source words since the beginning that are in no turn, though later ones are.
    """

    hour: int
    words: int
    cpu_ms_per_word: float
    beside_fresh: float
    equals_fresh: bool
    passes_per_word: float
    lag_words: float
    rss_mb: float
    mlx_mb: float
    cache_rows: int
    largest_position: int
    python_objects: int
    python_items: int
    turns: int
    empty_turns: int
    ends: dict[str, int]
    lost_words: int


class Streams:
    """Live sessions that are fed in lockstep, alone or in a batch.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        n_streams: one is a session by itself, several are a batch.
        **options: of the sessions.
    """

    def __init__(self, model: Any, tokenizer: Any, n_streams: int = 1, **options: Any) -> None:
        self._batch = None
        if n_streams == 1:
            self.sessions = [mlx_simul.SimulSession(model, tokenizer, **options)]
        else:
            self._batch = mlx_simul.Sessions(model, tokenizer, **options)
            self.sessions = [self._batch.add() for _ in range(n_streams)]

    def feed(self, words: Sequence[str | None]) -> Iterator[tuple[int, Event]]:
        """Give each stream its next word, if it has one, and run as far as that allows."""
        for session, word in zip(self.sessions, words, strict=True):
            if word is not None:
                session.push(word + " ")
        if self._batch is None:
            yield from ((0, event) for event in self.sessions[0].events())
        else:
            places = {session: i for i, session in enumerate(self.sessions)}
            yield from ((places[session], event) for session, event in self._batch.events())

    # What a session holds is nobody's business but a benchmark's.

    @property
    def n_passes(self) -> int:
        return sum(session._engine.n_passes for session in self.sessions)

    @property
    def cache_rows(self) -> int:
        # In a batch all streams lie in the same arrays.
        engines = [session._engine for session in self.sessions[: 1 if self._batch else None]]
        planes = [cache.storage.planes for engine in engines for cache in engine.caches]
        return max(held[0].shape[0] * held[0].shape[2] for held in planes if held)

    @property
    def largest_position(self) -> int:
        engines = [session._engine for session in self.sessions]
        return max(max(e.source_tokens, (e.start or 0) + e.target_tokens) for e in engines) - 1


class Tally:
    """What happens in an hour, counted; and the words of each stream that no turn has yet."""

    def __init__(self, n_streams: int) -> None:
        self.pending: list[deque[str]] = [deque() for _ in range(n_streams)]
        self.n_lost_words = 0
        self.begin()

    def begin(self) -> None:
        """Begin an hour."""
        self.ends: Counter[str] = Counter()
        self.n_turns = self.n_empty = self.n_units = self.largest_position = 0
        self.lag_words = 0.0

    def see(self, stream: int, event: Event) -> None:
        """Take the next event of a stream."""
        if not isinstance(event, TurnEnd):
            return
        self.n_turns += 1
        self.n_empty += not event.target_text
        self.ends[event.reason] += 1
        first, end = event.source_span_words
        n_units = len(event.delays)
        paces = (first + i * (end - first) / n_units for i in range(n_units))
        self.lag_words += sum(d - pace for d, pace in zip(event.delays, paces, strict=True))
        self.n_units += n_units
        for word in event.source_text.split():
            while self.pending[stream] and self.pending[stream].popleft() != word:
                self.n_lost_words += 1


def run(
    make_streams: Callable[[], Streams],
    texts: Sequence[Iterator[str]],
    n_hours: int,
    words_an_hour: int = WORDS_AN_HOUR,
    n_paired_words: int = N_PAIRED_WORDS,
) -> Iterator[Hour]:
    """Feed streams for hours.

    Args:
        make_streams: makes fresh ones.
        texts: the words of each.
        n_hours: how long.
        words_an_hour: that each is fed.
        n_paired_words: of an hour, the last, which fresh streams are fed too.
    """
    streams, tally = make_streams(), Tally(len(texts))
    for hour in range(1, n_hours + 1):
        tally.begin()
        n_passes, began_s = streams.n_passes, time.process_time()
        for _ in range(words_an_hour - n_paired_words):
            _step(streams, [next(text) for text in texts], tally)
        hour_s = time.process_time() - began_s
        fresh = make_streams()
        for words in zip_longest(*tally.pending):  # those of the turns under way
            list(fresh.feed(words))
        last = [[next(text) for text in texts] for _ in range(n_paired_words)]
        aged_s, fresh_s, equals_fresh = _paired(streams, fresh, last, tally)
        del fresh
        n_passes = streams.n_passes - n_passes
        n_words = words_an_hour * len(texts)
        n_objects, n_items = _python_objects()
        yield Hour(
            hour=hour,
            words=hour * words_an_hour,
            cpu_ms_per_word=(hour_s + aged_s) * 1000 / n_words,
            beside_fresh=aged_s / fresh_s,
            equals_fresh=equals_fresh,
            passes_per_word=n_passes / n_words,
            lag_words=tally.lag_words / max(1, tally.n_units),
            rss_mb=_rss_mb(),
            mlx_mb=_mlx_mb(),
            cache_rows=streams.cache_rows,
            largest_position=tally.largest_position,
            python_objects=n_objects,
            python_items=n_items,
            turns=tally.n_turns,
            empty_turns=tally.n_empty,
            ends=dict(tally.ends),
            lost_words=tally.n_lost_words,
        )


def words_of(sources: Sequence[str], seed: int) -> Iterator[str]:
    """Words without an end: the sources, shuffled anew each time they are through."""
    rng = random.Random(seed)
    while True:
        for source in rng.sample(sources, len(sources)):
            yield from source.split()


def _step(streams: Streams, words: Sequence[str], tally: Tally) -> list[tuple[int, int]]:
    """Feed each stream a word; return the tokens that this wrote, each with its stream."""
    for pending, word in zip(tally.pending, words, strict=True):
        pending.append(word)
    written: list[tuple[int, int]] = []
    for stream, event in streams.feed(words):
        tally.see(stream, event)
        if isinstance(event, Write):
            written.append((stream, event.token))
        elif isinstance(event, TurnEnd):
            tally.largest_position = max(tally.largest_position, streams.largest_position)
    return written


def _paired(
    aged: Streams, fresh: Streams, last: Sequence[Sequence[str]], tally: Tally
) -> tuple[float, float, bool]:
    """Feed both the same, in turns: CPU seconds of each, and whether they wrote the same."""
    both = ((aged, tally), (fresh, Tally(len(last[0]))))
    seconds, equal = [0.0, 0.0], True
    for number, words in enumerate(last):
        written: list[list[tuple[int, int]]] = [[], []]
        for which in (0, 1) if number % 2 else (1, 0):  # who goes first alternates
            began_s = time.process_time()
            written[which] = _step(both[which][0], words, both[which][1])
            seconds[which] += time.process_time() - began_s
        equal = equal and written[0] == written[1]
    return seconds[0], seconds[1], equal


def _python_objects() -> tuple[int, int]:
    gc.collect()
    objects = gc.get_objects()
    kinds = (list, dict, set, deque)
    return len(objects), sum(len(each) for each in objects if type(each) in kinds)


def _mlx_mb() -> float:
    import mlx.core as mx  # not at the top: mlx_simul loads a BLAS first

    return mx.get_active_memory() / 1e6


def _rss_mb() -> float:
    command = ["ps", "-o", "rss=", "-p", str(getpid())]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024


def _show(hour: Hour) -> None:
    if hour.hour == 1:
        print(" ".join(f"{field.name:>16}" for field in fields(Hour)))
    cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in asdict(hour).values())
    print(" ".join(f"{cell:>16}" for cell in cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a test set; its sources are the text")
    parser.add_argument("--model", help="folder or repository id; the packaged model by default")
    parser.add_argument("--from", dest="source_language", help="for a model that is not trained")
    parser.add_argument("--to", dest="target_language", help="for one pair of languages")
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--streams", type=int, default=1, help="more than one share their passes")
    parser.add_argument("--policy", default="wait-k:3", metavar="SPEC")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the sentences")
    parser.add_argument("--json", type=Path, help="write the figures here too, after each hour")
    args = parser.parse_args()

    model, tokenizer = mlx_simul.load(args.model)
    sources = [item.source for item in read_corpus(args.text)]
    texts = [words_of(sources, args.seed + i) for i in range(args.streams)]
    make_streams = partial(
        Streams,
        model,
        tokenizer,
        args.streams,
        policy=args.policy,
        source_language=args.source_language,
        target_language=args.target_language,
    )
    hours: list[Hour] = []
    for hour in run(make_streams, texts, args.hours):
        hours.append(hour)
        _show(hour)
        if args.json:
            setting = {"policy": args.policy, "streams": args.streams, "seed": args.seed}
            figures = setting | {"hours": [asdict(each) for each in hours]}
            args.json.write_text(json.dumps(figures, indent=1) + "\n")
    first, last = hours[0], hours[-1]
    ratio = last.cpu_ms_per_word / first.cpu_ms_per_word
    more_mb = last.rss_mb - first.rss_mb
    print(
        f"hour {last.hour} beside hour 1: time a word x {ratio:.3f}, passes a word x "
        f"{last.passes_per_word / first.passes_per_word:.3f}, memory {more_mb:+.1f} MB, "
        f"objects of Python {last.python_objects - first.python_objects:+d}, lag "
        f"{last.lag_words - first.lag_words:+.3f} words, lost {last.lost_words} words"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
