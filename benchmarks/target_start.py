"""Where must the target start for a stock model to stream? The table of SPEC section 1.

Teacher-forced nats per target token of a model that was never trained for streaming, over the
position φ at which its target starts: with the whole source read, and under wait-k.

    python benchmarks/target_start.py --model FOLDER_OR_REPO [--wait-k 1 3 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mlx_simul
from mlx_simul.engine import StreamingEngine
from mlx_simul.positions import FixedStart, FollowStart, TargetStart

INSTRUCTION = "Translate the following English paragraph to French"
PAIRS = [
    (
        "The museum is closed on Mondays, but the garden stays open all week.",
        "Le musée est fermé le lundi, mais le jardin reste ouvert toute la semaine.",
    ),
    (
        "My brother works in a small bakery near the railway station.",
        "Mon frère travaille dans une petite boulangerie près de la gare.",
    ),
    (
        "If it rains tomorrow, we will stay at home and read a book.",
        "S'il pleut demain, nous resterons à la maison et lirons un livre.",
    ),
    (
        "She opened the window because the room was very hot.",
        "Elle a ouvert la fenêtre parce que la pièce était très chaude.",
    ),
    (
        "The doctor told him to drink more water and to sleep early.",
        "Le médecin lui a dit de boire plus d'eau et de dormir tôt.",
    ),
    (
        "We bought bread, cheese and apples at the market this morning.",
        "Nous avons acheté du pain, du fromage et des pommes au marché ce matin.",
    ),
    (
        "The government announced a new plan to protect the rivers of the country.",
        "Le gouvernement a annoncé un nouveau plan pour protéger les rivières du pays.",
    ),
    (
        "Our train was late, so we missed the beginning of the film.",
        "Notre train était en retard, alors nous avons manqué le début du film.",
    ),
]
STARTS = (0, 8, 16, 32, 64, 128, 256, 512, 1024)
WHOLE_SOURCE = 10_000


class Contiguous:
    """The target right behind the source: with the whole source read, the ordinary batch."""

    def position(self, n_source: int, current: int | None) -> int:
        return n_source if current is None else current


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or repository id")
    parser.add_argument("--wait-k", type=int, nargs="*", default=[1, 3, 5])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()

    model, tokenizer = mlx_simul.load(args.model)
    prompt = mlx_simul.StreamingDataPreparator(tokenizer, instruction=INSTRUCTION)
    starts: dict[str, TargetStart] = {f"φ = {n}": FixedStart(n) for n in STARTS}
    starts["follow, margin 8"] = FollowStart(8)
    starts["contiguous"] = Contiguous()

    columns = [WHOLE_SOURCE, *args.wait_k]
    figures: dict[str, dict[str, float]] = {}
    jobs = [(name, start, k) for name, start in starts.items() for k in columns]
    for name, start, k in track(jobs, description="nats per target token"):
        if name == "contiguous" and k != WHOLE_SOURCE:
            continue
        column = "whole source" if k == WHOLE_SOURCE else f"wait-{k}"
        losses = [loss(model, tokenizer, prompt, start, k, *pair) for pair in PAIRS]
        n_tokens = sum(n for _, n in losses)
        figures.setdefault(name, {})[column] = sum(nats for nats, _ in losses) / n_tokens
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def loss(
    model: nn.Module,
    tokenizer,
    prompt: mlx_simul.StreamingDataPreparator,
    start: TargetStart,
    k: int,
    source_text: str,
    target_text: str,
) -> tuple[float, int]:
    """Nats of a reference translation under wait-k, and its tokens."""
    source = prompt.tokenize(source_text)
    engine = StreamingEngine(model, start)
    engine.read(source.segments[0])
    header = list(source.header)
    fed, n_read, nats, n_tokens = header, 0, 0.0, 0
    for i, word in enumerate(target_words(tokenizer, target_text)):
        wanted = mlx_simul.calculate_wait_words([len(s) for s in source.segments], i, k)
        for segment in source.segments[n_read + 1 : wanted + 1]:
            engine.read(segment)
        n_read = max(n_read, wanted)
        if engine.target_tokens:
            # The last token is fed again, so that it sees what was read since.
            engine.roll_back(1)
        logits = engine.write([*fed, *word[:-1]])[0, -len(word) :]
        losses = nn.losses.cross_entropy(logits, mx.array(word))
        nats, n_tokens = nats + losses.sum().item(), n_tokens + len(word)
        engine.write(word[-1:])
        fed = word[-1:]
    return nats, n_tokens


def target_words(tokenizer, text: str) -> Iterator[list[int]]:
    """The text's tokens, word by word, by the rule the engine uses."""
    ends = mlx_simul.WordBoundaryStoppingCriteria(tokenizer)
    word: list[int] = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        should_stop, is_look_ahead = ends([*word, token])
        if should_stop and is_look_ahead:
            yield word
            word = [token]
        else:
            word = [*word, token]
            if should_stop:
                yield word
                word = []
    if word:
        yield word


def show(figures: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(figures.values())))
    table = Table("target starts at", *columns, title=f"nats per target token, {len(PAIRS)} pairs")
    for name, row in figures.items():
        table.add_row(name, *(f"{row[c]:.3f}" if c in row else "" for c in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
