"""How good a packed model is: its translations of a test set, through real sessions, judged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
import sacrebleu
from mlx_lm.generate import generate_step

from mlx_simul.blas import describe
from mlx_simul.events import Finished
from mlx_simul.latency import length_adaptive_average_lagging
from mlx_simul.loading import load
from mlx_simul.policies import WaitK
from mlx_simul.session import SimulSession

WAIT_K = (1, 3, 5, 7)
WHOLE = 1 << 20
"""More words than any source has: wait-k with such a k reads everything first."""

PASSAGE_SENTENCES = (2, 4, 8)
PASSAGE_WAIT_K = 3

Texts = Mapping[str, Sequence[str]]
"""References by source."""


def measure(packed: Path, unpacked: Path, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Everything the model card says about quality, as JSON has it.

    Args:
        packed: the folder of the packed model.
        unpacked: the checkpoint that it was packed from.
        pairs: source and reference; those with the same source belong together.
    """
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    model, tokenizer = load(packed, dequantize=True)

    def at(wait_k: int) -> Callable[[str], Finished]:
        return lambda text: _streamed(model, tokenizer, text, wait_k)

    return {
        "n_sources": len(references),
        "n_references": sum(map(len, references.values())),
        "versions": {name: version(name) for name in ("mlx-simul", "mlx", "mlx-lm", "sacrebleu")},
        "device": f"{mx.default_device()}, {describe()}",
        "signatures": _signatures(references),
        "wait_k": {
            name: _noted(f"k = {name}", _judged, references, at(k))
            for name, k in [*((str(k), k) for k in WAIT_K), ("whole", WHOLE)]
        },
        "plain": _noted("plain mlx-lm", _plain, model, tokenizer, references),
        "unpacked": _unpacked(unpacked, references),
        "passages": {
            str(n): _noted(
                f"passages of {n}",
                _judged,
                passages(references, n),
                at(PASSAGE_WAIT_K),
            )
            for n in PASSAGE_SENTENCES
            if n <= len(references)
        },
    }


def passages(references: Texts, n_sentences: int) -> dict[str, list[str]]:
    """Sentences of a test set put together, in its order, with the first reference of each."""
    sources, joined = iter(references), {}
    while len(group := list(islice(sources, n_sentences))) == n_sentences:
        joined[" ".join(group)] = [" ".join(references[source][0] for source in group)]
    return joined


def _noted(what: str, judge: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    scores = judge(*args)
    print(f"{what}: {scores}", file=sys.stderr)
    return scores


def _streamed(model: Any, tokenizer: Any, text: str, wait_k: int) -> Finished:
    # Room to ramble in: whoever does not end by itself is counted.
    limit = 64 + 8 * len(text.split())
    session = SimulSession(model, tokenizer, policy=WaitK(wait_k), max_tokens=limit)
    session.push(text)
    return next(event for event in session.finish() if isinstance(event, Finished))


def _judged(references: Texts, translate: Callable[[str], Finished]) -> dict[str, Any]:
    ends = {source: translate(source) for source in references}
    lags = [
        length_adaptive_average_lagging(
            end.delays, end.source_words, len(references[source][0].split())
        )
        for source, end in ends.items()
        if end.delays
    ]
    n_words = {source: len(end.text.split()) for source, end in ends.items()}
    short = sum(n_words[source] <= 2 * len(source.split()) for source in ends)
    return {
        **_scores(references, [end.text for end in ends.values()]),
        "laal": round(sum(lags) / len(lags), 2) if lags else None,
        "ended": sum(end.reason == "end_of_turn" for end in ends.values()) / len(ends),
        "within_twice_the_source": short / len(ends),
    }


def _plain(model: Any, tokenizer: Any, references: Texts) -> dict[str, Any]:
    """The same weights as an ordinary language model: mlx-lm's generation, positions in a row."""
    texts, ended = [], 0
    for source in references:
        turn = [{"role": "user", "content": source}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True)
        ids: list[int] = []
        limit = 64 + 8 * len(source.split())
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=limit):
            if int(token) in tokenizer.eos_token_ids:
                ended += 1
                break
            ids.append(int(token))
        texts.append(tokenizer.decode(ids))
    return {**_scores(references, texts), "ended": ended / len(references)}


def _unpacked(folder: Path, references: Texts) -> dict[str, Any]:
    model, tokenizer = load(folder)

    def streamed(text: str) -> Finished:
        return _streamed(model, tokenizer, text, 3)

    return _noted("before packing, k = 3", _judged, references, streamed)


def _scores(references: Texts, texts: Sequence[str]) -> dict[str, float]:
    streams = _streams(references)
    bleu = sacrebleu.corpus_bleu(texts, streams)  # pyright: ignore[reportArgumentType]
    chrf = sacrebleu.corpus_chrf(texts, streams)  # pyright: ignore[reportArgumentType]
    return {
        "bleu": round(bleu.score, 2),
        "chrf": round(chrf.score, 2),
        "length_ratio": round(bleu.sys_len / bleu.ref_len, 3),
    }


def _signatures(references: Texts) -> dict[str, str]:
    metrics = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["" for _ in references], _streams(references))  # pyright: ignore
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def _streams(references: Texts) -> list[list[str | None]]:
    """References as sacrebleu wants them: as many streams as the most of one source."""
    n_most = max(map(len, references.values()))
    return [
        [given[i] if i < len(given) else None for given in references.values()]
        for i in range(n_most)
    ]
