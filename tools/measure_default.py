"""How good a packed model is: its translations of a test set, through real sessions, judged."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import sacrebleu
from mlx_lm.generate import generate_step

from mlx_simul.checkpoints.loading import load
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.latency import latency, mean_latency
from mlx_simul.evaluation.quality import text_quality
from mlx_simul.evaluation.units import reference_length, target_units
from mlx_simul.events import Finished, Write
from mlx_simul.machine.blas import describe
from mlx_simul.policies import WaitK
from mlx_simul.serving.sessions import Sessions
from mlx_simul.session import SimulSession
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.training.augment import caption, with_disfluencies, without_punctuation
from mlx_simul.training.options import AugmentOptions

WAIT_K = {"1": 1, "3": 3, "5": 5, "7": 7, "whole": 1 << 20}
"""As the record calls them; no source has so many words that it is not read whole by the last."""

PASSAGE_SENTENCES = (2, 4, 8)
PASSAGE_WAIT_K = "3"
NOISY_WAIT_K = "3"
HISTORY_PAIRS = (1, 3)
N_TOGETHER = 48

Pairs: TypeAlias = Sequence[tuple[str, str]]


def spoken(text: str) -> str:
    """A sentence with fillers and repeated words, the same ones each time."""
    return with_disfluencies(text, AugmentOptions().fillers, random.Random(text))


LOOKS: Mapping[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no punctuation": without_punctuation,
    "captions": caption,
    "speech": lambda text: caption(spoken(text)),
}


def measure(packed: Path, unpacked: Path, items: Sequence[Item]) -> dict[str, Any]:
    """Everything the model card says about quality, as JSON has it.

    Args:
        packed: the folder of the packed model.
        unpacked: the checkpoint that it was packed from.
        items: the test set.
    """
    model, tokenizer = load(packed, dequantize=True)
    translator = Translator(model, tokenizer)
    before = Translator(*load(unpacked))
    alone = [turn.text for turn in translator(items, NOISY_WAIT_K)]
    finished = list(zip((item.source for item in items), alone, strict=True))
    return {
        "n_sources": len(items),
        "n_references": sum(len(item.references) for item in items),
        "versions": {name: version(name) for name in ("mlx-simul", "mlx", "mlx-lm", "sacrebleu")},
        "device": f"{mx.default_device()}, {describe()}",
        "signatures": signatures(items),
        "wait_k": {k: judged(f"k = {k}", translator, items, k) for k in WAIT_K},
        "plain": plain(model, tokenizer, items),
        "unpacked": judged("before packing, k = 3", before, items, "3"),
        "passages": {
            str(n): judged(f"passages of {n}", translator, passages(items, n), PASSAGE_WAIT_K)
            for n in PASSAGE_SENTENCES
            if n <= len(items)
        },
        "passage_wait_k": PASSAGE_WAIT_K,
        "noisy": {
            name: judged(
                name, translator, [replace(i, source=look(i.source)) for i in items], NOISY_WAIT_K
            )
            for name, look in LOOKS.items()
        }
        | {
            f"{n} turns of history": judged(
                f"behind {n} turns",
                translator,
                items,
                NOISY_WAIT_K,
                [finished[max(0, i - n) : i] for i in range(len(items))],
            )
            for n in HISTORY_PAIRS
        },
        "noisy_wait_k": NOISY_WAIT_K,
    }


def passages(items: Sequence[Item], n_sentences: int) -> list[Item]:
    """Sentences of a test set put together, in its order, with the first reference of each."""
    groups = zip(*[iter(items)] * n_sentences, strict=False)
    return [
        Item(
            " ".join(item.source for item in group),
            (" ".join(item.references[0] for item in group),),
        )
        for group in groups
    ]


@dataclass(frozen=True)
class Turn:
    """A source's translation.

    Attributes:
        text: the translation.
        delays: for each word, the source words read when it was written.
        source_words: words of the source.
        ended: whether the model ended it by itself.
    """

    text: str
    delays: tuple[int, ...]
    source_words: int
    ended: bool


class Translator:
    """Translates a test set, many sources at a time, each in a session of its own."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._prompt = StreamingDataPreparator(tokenizer)

    def __call__(
        self, items: Sequence[Item], wait_k: str, history: Sequence[Pairs] | None = None
    ) -> list[Turn]:
        """Translate under one policy.

        Args:
            items: the test set.
            wait_k: as in ``WAIT_K``.
            history: for each item the finished pairs before it; none by default.
        """
        turns: list[Turn] = []
        for start in range(0, len(items), N_TOGETHER):
            some = slice(start, start + N_TOGETHER)
            behind = history[some] if history else [[]] * len(items[some])
            turns += self._together(items[some], wait_k, behind)
        return turns

    def _together(self, items: Sequence[Item], wait_k: str, history: Sequence[Pairs]) -> list[Turn]:
        batch = Sessions(self._model, self._tokenizer, policy=WaitK(WAIT_K[wait_k]))
        sources = [
            self._prompt.behind(pairs).tokenize(item.source)
            for item, pairs in zip(items, history, strict=True)
        ]
        lengths = [len(source.segments) - 2 for source in sources]
        sessions = [
            batch.add(source=source, max_tokens=64 + 8 * n)
            for source, n in zip(sources, lengths, strict=True)
        ]
        pieces: dict[SimulSession, list[tuple[str, int, float]]] = defaultdict(list)
        ends: dict[SimulSession, Finished] = {}
        for session, event in batch.events():
            if isinstance(event, Write):
                pieces[session].append((event.text, event.source_words_read, 0.0))
            elif isinstance(event, Finished):
                ends[session] = event
        return [
            Turn(
                " ".join(ends[session].text.split()),
                target_units(pieces[session], "word").delays,
                n,
                ends[session].reason == "end_of_turn",
            )
            for session, n in zip(sessions, lengths, strict=True)
        ]


def judged(
    what: str,
    translator: Translator,
    items: Sequence[Item],
    wait_k: str,
    history: Sequence[Pairs] | None = None,
) -> dict[str, Any]:
    """Quality and latency under one policy, and how translations end."""
    turns = translator(items, wait_k, history)
    lags = mean_latency(
        latency(turn.delays, turn.source_words, reference_length(item.references[0], "word"))
        for turn, item in zip(turns, items, strict=True)
    )
    short = sum(
        len(turn.text.split()) <= 2 * len(item.source.split())
        for turn, item in zip(turns, items, strict=True)
    )
    return _noted(
        what,
        {
            **_quality(items, [turn.text for turn in turns]),
            "laal": lags and round(lags.laal, 2),
            "ended": sum(turn.ended for turn in turns) / len(items),
            "within_twice_the_source": short / len(items),
        },
    )


def plain(model: Any, tokenizer: Any, items: Sequence[Item]) -> dict[str, Any]:
    """The same weights as an ordinary language model: mlx-lm's generation, positions in a row."""
    texts, n_ended = [], 0
    for item in items:
        turn = [{"role": "user", "content": item.source}]
        prompt = mx.array(tokenizer.apply_chat_template(turn, add_generation_prompt=True))
        ids = list(_until_end(prompt, model, tokenizer, 64 + 8 * len(item.source.split())))
        n_ended += bool(ids) and ids[-1] in tokenizer.eos_token_ids
        texts.append(tokenizer.decode([i for i in ids if i not in tokenizer.eos_token_ids]))
    return _noted("plain mlx-lm", {**_quality(items, texts), "ended": n_ended / len(items)})


def signatures(items: Sequence[Item]) -> dict[str, str]:
    """sacrebleu's, of both metrics."""
    n_most = max(len(item.references) for item in items)
    streams = [[*item.references, *[None] * (n_most - len(item.references))] for item in items]
    metrics = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["" for _ in items], list(zip(*streams, strict=True)))  # pyright: ignore
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def _until_end(prompt: mx.array, model: Any, tokenizer: Any, max_tokens: int) -> Iterable[int]:
    for token, _ in generate_step(prompt, model, max_tokens=max_tokens):
        yield int(token)
        if int(token) in tokenizer.eos_token_ids:
            return


def _quality(items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
    scores = text_quality(texts, [item.references for item in items])
    return {name: round(value, 3) for name, value in asdict(scores).items()}


def _noted(what: str, scores: dict[str, Any]) -> dict[str, Any]:
    print(f"{what}: {scores}", file=sys.stderr)
    return scores
