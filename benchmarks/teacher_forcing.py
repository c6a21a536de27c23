"""What a model thinks of a given translation while it streams: eight pairs, nats per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
from rich.console import Console
from rich.table import Table

from mlx_simul.engine import Engine
from mlx_simul.policies import calculate_wait_words
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.prompts import StreamingDataPreparator

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
WHOLE_SOURCE = 10_000


def column_of(k: int) -> str:
    """The name of a wait-k, for a table."""
    return "whole source" if k == WHOLE_SOURCE else f"wait-{k}"


def mean_loss(make_engine: Callable[[], Engine], tokenizer, prompt, k: int) -> float:
    """Nats per target token over all pairs, under wait-k."""
    losses = [loss(make_engine(), tokenizer, prompt, k, *pair) for pair in PAIRS]
    return sum(nats for nats, _ in losses) / sum(n_tokens for _, n_tokens in losses)


def loss(
    engine: Engine,
    tokenizer,
    prompt: StreamingDataPreparator,
    k: int,
    source_text: str,
    target_text: str,
) -> tuple[float, int]:
    """Nats of a reference translation under wait-k on a fresh engine, and its tokens."""
    source = prompt.tokenize(source_text)
    engine.read(source.segments[0])
    header = list(source.header)
    fed, n_read, nats, n_tokens = header, 0, 0.0, 0
    for i, word in enumerate(target_words(tokenizer, target_text)):
        wanted = calculate_wait_words([len(s) for s in source.segments], i, k)
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
    ends = WordBoundaryStoppingCriteria(tokenizer)
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


def show(figures: dict[str, dict[str, float]], first: str) -> None:
    """Print a table; ``first`` heads the column of names."""
    columns = list(next(iter(figures.values())))
    table = Table(first, *columns, title=f"nats per target token, {len(PAIRS)} pairs")
    for name, row in figures.items():
        table.add_row(name, *(f"{row[c]:.3f}" if c in row else "" for c in columns))
    Console().print(table)
