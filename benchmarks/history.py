"""What is history worth? Talks with none, 1, 2 and 4 finished pairs before each turn.

Beside them stand the same talks with each sentence read whole before it is translated, as an
offline model does, and the same sentences with a session each. All run at once, in passes that they
share, and each writes what it would write by itself. So quality is that of ``mlx-simul evaluate
--sentences-per-talk N --history N``; times would not be, and are left out.

    python benchmarks/history.py --corpus dev.tsv --model FOLDER_OR_REPO --from English --to French
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import mlx_simul
from mlx_simul.evaluation.columns import HISTORY_COLUMNS
from mlx_simul.evaluation.conditions import shown
from mlx_simul.evaluation.quality import paired_bootstrap, text_quality
from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talk_sentences import realigned_talk
from mlx_simul.evaluation.talks import Talk, read_talks
from mlx_simul.events import Event, Finished, TurnEnd
from mlx_simul.options import Frame
from mlx_simul.policies import WHOLE
from mlx_simul.text.prompts import StreamingDataPreparator

# So many words in a row, so often in one turn, are a loop.
LOOP_WORDS, LOOP_TIMES = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", required=True, help="a test set, as for mlx-simul evaluate")
    parser.add_argument("--model", help="folder or repository id; the packaged model by default")
    parser.add_argument("--from", dest="source_language")
    parser.add_argument("--to", dest="target_language")
    parser.add_argument("--frame", choices=get_args(Frame), default="auto")
    parser.add_argument("--policy", default="wait-k:3")
    parser.add_argument("--history", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--sentences-per-talk", type=int, default=25)
    parser.add_argument("--talks", type=int, default=4, help="the first so many")
    parser.add_argument("--json", type=Path, help="write figures and turns here too")
    args = parser.parse_args()

    talks = read_talks(args.corpus, sentences_per_talk=args.sentences_per_talk)[: args.talks]
    model, tokenizer = mlx_simul.load(args.model) if args.model else mlx_simul.load()
    asked = {
        "source_language": args.source_language,
        "target_language": args.target_language,
        "frame": args.frame,
    }
    lanes = [
        *(Lane(pairs_of(n), talk, args.policy, n) for n in args.history for talk in talks),
        *(Lane(f"{pairs_of(0)}, each sentence whole", talk, WHOLE, 0) for talk in talks),
        *(Lane("each sentence alone", talk, args.policy, 0, is_alone=True) for talk in talks),
    ]
    translate(mlx_simul.Sessions(model, tokenizer, **asked), lanes)
    figures = quality(lanes)
    prompt = StreamingDataPreparator(tokenizer, **asked)
    for name, row in figures.items():
        row |= figures_of_turns([lane for lane in lanes if lane.name == name], prompt)
    print_table(figures)
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        options |= {"corpus": shown(args.corpus), "model": args.model and shown(args.model)}
        corpus = {
            "n_sentences": sum(len(talk.sentences) for talk in talks),
            "source_words": sum(len(talk.said_ms) for talk in talks),
        }
        results = {"options": options, "corpus": corpus, "figures": figures}
        args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        said = [[lane.name, [turn_of(end) for end in lane.ends]] for lane in lanes]
        turns = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
        args.json.with_suffix(".turns.json").write_text(turns, "utf-8")


@dataclass
class Lane:
    """A talk, translated in one way.

    Attributes:
        name: of the way.
        talk: what is said.
        policy: when to read and when to write.
        n_pairs: of history.
        is_alone: each sentence has a session to itself.
        ends: of the turns, in order.
        display: what was shown of a talk.
        texts: of sentences alone.
    """

    name: str
    talk: Talk
    policy: str
    n_pairs: int
    is_alone: bool = False
    ends: list[TurnEnd] = field(default_factory=list)
    display: Display = field(default_factory=Display)
    texts: list[str] = field(default_factory=list)

    def sources(self) -> Iterator[str]:
        """What each of its sessions is fed, one session after another."""
        if not self.is_alone:
            yield self.talk.source
        else:
            yield from (sentence.source for sentence in self.talk.sentences)

    def see(self, event: Event) -> None:
        if isinstance(event, TurnEnd):
            self.ends.append(event)
        if not self.is_alone:
            self.display.see(event, 0.0)
        elif isinstance(event, Finished):
            n_turns = event.turns or 0
            self.texts.append(" ".join(end.target_text for end in self.ends[-n_turns:]))

    def translations(self) -> list[str]:
        """One for each sentence."""
        if self.is_alone:
            return self.texts
        fed_ms = (0.0,) * len(self.talk.said_ms)
        record = TalkRecord(0, self.talk, tuple(self.display.shown), fed_ms)
        return [sentence.prediction for sentence in realigned_talk(record, "word").sentences]


def translate(batch: mlx_simul.Sessions, lanes: Sequence[Lane]) -> None:
    """Run all lanes side by side."""
    sources = [lane.sources() for lane in lanes]
    lane_of: dict[Any, int] = {}

    def begin(i: int) -> None:
        if (source := next(sources[i], None)) is not None:
            session = batch.add(policy=lanes[i].policy, history=lanes[i].n_pairs)
            lane_of[session] = i
            session.push(source)
            session.close()

    for i in range(len(lanes)):
        begin(i)
    with Progress() as progress:
        task = progress.add_task("words", total=sum(len(lane.talk.said_ms) for lane in lanes))
        while (said := batch.step()) is not None:
            for session, event in said:
                lanes[lane_of[session]].see(event)
                if isinstance(event, TurnEnd):
                    first, end = event.source_span_words
                    progress.advance(task, end - first)
                elif isinstance(event, Finished):
                    begin(lane_of.pop(session))


def quality(lanes: Sequence[Lane]) -> dict[str, dict[str, Any]]:
    """BLEU and chrF of each way; the first is what the others are compared with."""
    texts: dict[str, list[str]] = {}
    for lane in lanes:
        texts.setdefault(lane.name, []).extend(lane.translations())
    first = lanes[0].name
    spoken = [lane.talk for lane in lanes if lane.name == first]
    references = [sentence.references for talk in spoken for sentence in talk.sentences]
    confidence, _ = paired_bootstrap(texts, first, references)
    return {
        name: {
            **{metric: vars(held) for metric, held in confidence[name].items()},
            "length_ratio": text_quality(texts[name], references).length_ratio,
        }
        for name in texts
    }


def figures_of_turns(lanes: Sequence[Lane], prompt: StreamingDataPreparator) -> dict[str, Any]:
    """Tokens before a turn, and turns that show a model that has lost its way."""
    turns = [end for lane in lanes for end in lane.ends]
    n_prefix_tokens = [n for lane in lanes for n in prefix_tokens(lane, prompt)]
    return {
        "prefix_tokens": sum(n_prefix_tokens) / len(n_prefix_tokens),
        "n_turns": len(turns),
        "n_not_ended": sum(not end.is_complete for end in turns),
        "n_copies": sum(words(end.source_text) == words(end.target_text) for end in turns),
        "n_repeats": sum(
            bool(end.target_text) and words(end.target_text) == words(before.target_text)
            for lane in lanes
            for before, end in pairwise(lane.ends)
        ),
        "n_loops": sum(has_loop(words(end.target_text)) for end in turns),
    }


def prefix_tokens(lane: Lane, prompt: StreamingDataPreparator) -> Iterator[int]:
    """Of each turn, tokens before its source."""
    pairs: list[tuple[str, str]] = []
    for end in lane.ends:
        yield len(prompt.behind(pairs[len(pairs) - lane.n_pairs :]).prefix_ids)
        if lane.n_pairs and end.target_text:
            pairs = [*pairs, (end.source_text, end.target_text)][-lane.n_pairs :]


def words(text: str) -> list[str]:
    """Without case and punctuation."""
    return "".join(char if char.isalnum() else " " for char in text.lower()).split()


def has_loop(said: Sequence[str]) -> bool:
    """Whether some words in a row come again and again."""
    runs = zip(*(said[i:] for i in range(LOOP_WORDS)), strict=False)
    return max(Counter(runs).values(), default=0) >= LOOP_TIMES


def pairs_of(n: int) -> str:
    return "1 pair" if n == 1 else f"{n} pairs"


def turn_of(end: TurnEnd) -> dict[str, str]:
    return {"source": end.source_text, "target": end.target_text, "reason": end.reason}


def print_table(figures: dict[str, dict[str, Any]]) -> None:
    table = Table("", *HISTORY_COLUMNS)
    for name, row in figures.items():
        table.add_row(name, *(cell(row) for cell in HISTORY_COLUMNS.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
