"""What is history worth? Talks with none, 1, 2 and 4 finished pairs before each turn.

All talks run at once, with every length of history, in passes that they share. Each writes what it
would write alone, so quality is that of ``mlx-simul evaluate --sentences-per-talk N --history N``;
times are not, and are left out.

    python benchmarks/history.py --corpus dev.tsv --model FOLDER_OR_REPO --from English --to French
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import mlx_simul
from mlx_simul.evaluation.quality import paired_bootstrap, text_quality
from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talk_sentences import realigned_talk
from mlx_simul.evaluation.talks import Talk, read_talks
from mlx_simul.events import TurnEnd
from mlx_simul.options import Frame
from mlx_simul.text.prompts import StreamingDataPreparator

_LOOP_WORDS = 3
_LOOP_TIMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="a test set, as for mlx-simul evaluate")
    parser.add_argument("--model", help="folder or repository id; the packaged model by default")
    parser.add_argument("--from", dest="source_language")
    parser.add_argument("--to", dest="target_language")
    parser.add_argument("--frame", choices=get_args(Frame), default="auto")
    parser.add_argument("--policy", default="wait-k:3")
    parser.add_argument("--history", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--sentences-per-talk", type=int, default=25)
    parser.add_argument("--talks", type=int, help="the first so many")
    parser.add_argument("--json", type=Path, help="write figures and turns here too")
    args = parser.parse_args()

    talks = read_talks(args.corpus, sentences_per_talk=args.sentences_per_talk)[: args.talks]
    model, tokenizer = mlx_simul.load(args.model) if args.model else mlx_simul.load()
    asked = {
        "source_language": args.source_language,
        "target_language": args.target_language,
        "frame": args.frame,
    }
    streams = translated(model, tokenizer, talks, args.history, policy=args.policy, **asked)
    prompt = StreamingDataPreparator(tokenizer, **asked)
    figures = quality(talks, {n: [display for display, _ in streams[n]] for n in streams})
    for n, held in streams.items():
        figures[n] |= figures_of_turns([ends for _, ends in held], prompt, n)
    show(figures)
    if args.json:
        turns = {n: [[pair(end) for end in ends] for _, ends in streams[n]] for n in streams}
        text = json.dumps({"figures": figures, "turns": turns}, indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", "utf-8")


def translated(
    model: Any, tokenizer: Any, talks: Sequence[Talk], lengths: Sequence[int], **options: Any
) -> dict[int, list[tuple[Display, list[TurnEnd]]]]:
    """For each length of history, what each talk showed, and how its turns ended."""
    batch = mlx_simul.Sessions(model, tokenizer, **options)
    streams: dict[int, list[tuple[Display, list[TurnEnd]]]] = {n: [] for n in lengths}
    of_session: dict[Any, tuple[Display, list[TurnEnd]]] = {}
    for n in lengths:
        for talk in talks:
            session = batch.add(history=n)
            streams[n].append((Display(), []))
            of_session[session] = streams[n][-1]
            session.push(talk.source)
            session.close()
    with Progress() as progress:
        task = progress.add_task("words", total=len(lengths) * sum(len(t.said_ms) for t in talks))
        for session, event in batch.events():
            display, ends = of_session[session]
            display.see(event, 0.0)
            if isinstance(event, TurnEnd):
                ends.append(event)
                first, end = event.source_span_words
                progress.advance(task, end - first)
    return streams


def quality(talks: Sequence[Talk], shown: dict[int, list[Display]]) -> dict[int, dict[str, Any]]:
    """BLEU and chrF over realigned sentences; the first length of history is the baseline."""
    texts: dict[str, list[str]] = {}
    references = [sentence.references for talk in talks for sentence in talk.sentences]
    for n, displays in shown.items():
        texts[str(n)] = []
        for i, (talk, display) in enumerate(zip(talks, displays, strict=True)):
            fed_ms = (0.0,) * len(talk.said_ms)
            record = TalkRecord(i, talk, tuple(display.shown), fed_ms, tuple(display.ends))
            sentences = realigned_talk(record, "word").sentences
            texts[str(n)] += [sentence.prediction for sentence in sentences]
    confidence, _ = paired_bootstrap(texts, next(iter(texts)), references)
    figures: dict[int, dict[str, Any]] = {}
    for n in shown:
        scores = {name: vars(held) for name, held in confidence[str(n)].items()}
        length = text_quality(texts[str(n)], references).length_ratio
        figures[n] = scores | {"length_ratio": length}
    return figures


def figures_of_turns(
    streams: Sequence[Sequence[TurnEnd]], prompt: StreamingDataPreparator, n_pairs: int
) -> dict[str, Any]:
    """Tokens before a turn, and turns that show a model that has lost its way."""
    turns = [end for ends in streams for end in ends]
    n_tokens = []
    for ends in streams:
        pairs = [(end.source_text, end.target_text) for end in ends if end.target_text]
        before = 0
        for end in ends:
            known = pairs[max(0, before - n_pairs) : before]
            n_tokens.append(len(prompt.behind(known).prefix_ids))
            before += bool(end.target_text)
    return {
        "prefix_tokens": sum(n_tokens) / len(n_tokens),
        "n_turns": len(turns),
        "n_not_ended": sum(not end.is_complete for end in turns),
        "n_copies": sum(words(end.source_text) == words(end.target_text) for end in turns),
        "n_repeated": sum(
            bool(end.target_text) and words(end.target_text) == words(before.target_text)
            for ends in streams
            for before, end in pairwise(ends)
        ),
        "n_loops": sum(loops(words(end.target_text)) for end in turns),
    }


def words(text: str) -> list[str]:
    """Without case and punctuation."""
    return "".join(char if char.isalnum() else " " for char in text.lower()).split()


def loops(said: Sequence[str]) -> bool:
    """Whether some words in a row come again and again."""
    runs = zip(*(said[i:] for i in range(_LOOP_WORDS)), strict=False)
    return max(Counter(runs).values(), default=0) >= _LOOP_TIMES


def pair(end: TurnEnd) -> dict[str, str]:
    return {"source": end.source_text, "target": end.target_text, "reason": end.reason}


def show(figures: dict[int, dict[str, Any]]) -> None:
    table = Table("pairs", "BLEU", "p", "chrF", "p", "length", "prefix tokens", "turns")
    for title in ("not ended", "copies", "repeated", "loops"):
        table.add_column(title)
    for n, row in figures.items():
        scores = []
        for name in ("bleu", "chrf"):
            held = row[name]
            p = "" if held["p"] is None else f"{held['p']:.3f}"
            scores += [f"{held['score']:.1f} ± {held['ci']:.1f}", p]
        counts = [
            row[f"n_{name}"] for name in ("turns", "not_ended", "copies", "repeated", "loops")
        ]
        rest = [f"{row['length_ratio'] or 0:.2f}", f"{row['prefix_tokens']:.0f}", *map(str, counts)]
        table.add_row(str(n), *scores, *rest)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
