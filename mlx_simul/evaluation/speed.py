"""What streaming costs, each figure next to its baseline from the same run.

The baselines are mlx-lm writing offline with the whole source before it, and the plain loop of SPEC
section 2: a pass for each read, and one more for each look-ahead token that is thrown away. All
take turns, so that all meet the same noise. End-of-turn is forbidden, so that all write as much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors

from mlx_simul.cache.positions import FollowStart
from mlx_simul.engine import StreamingEngine, make_engine
from mlx_simul.engine.group import StreamState
from mlx_simul.errors import InvalidOptionError
from mlx_simul.generation import stream_generate
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import WaitK, calculate_wait_words
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.prompts import StreamingDataPreparator, TokenizedSource
from mlx_simul.text.vocabulary import end_of_turn_ids_of

Figures = Mapping[str, Any]

INSTRUCTION = "Translate the following English paragraph to French"
CORRECTING = "Correct the spelling of the following text"
TEXT = (
    "The weather was fine on Monday, so we walked along the river to the old bridge. After lunch "
    "my sister bought three apples and a newspaper. The man at the shop told us that the museum "
    "would close at five, and that the last train leaves before midnight. We went home early, "
    "because it was getting cold and the children were tired. In the evening my father made soup, "
    "and we talked about the summer we had spent by the sea, where the nights were short and the "
    "wind never slept. Nobody wanted to leave, but the school was waiting for us."
)
TINY_LAYERS = 24
"""Layers of the model whose passes are nearly all overhead; small language models have about as
many."""

TOKENS_PER_WORD = 1.4
"""Tokens of source and of target each, to fill a cache as a session of that many words does."""


@dataclass(frozen=True)
class Run:
    """One stream: what it wrote, in how many passes, how long it took and what memory it had.

    ``cpu_seconds`` is the work of this process, whatever else the machine was doing.
    """

    token_ids: tuple[int, ...]
    n_passes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Bench:
    """One model, one text, and the three ways to write.

    Args:
        model: of an architecture that keeps groups.
        tokenizer: its tokenizer.
        n_tokens: target tokens that every stream writes.
        text: the source; it should have about as many words as tokens are written.
        instruction: what to do with it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        n_tokens: int,
        text: str = TEXT,
        instruction: str = INSTRUCTION,
    ) -> None:
        self.model, self.tokenizer, self.n_tokens = model, tokenizer, n_tokens
        prompt = StreamingDataPreparator(tokenizer, instruction=instruction)
        self.source: TokenizedSource = prompt.tokenize(text)
        self._processors = never_ending(tokenizer)

    def offline(self) -> Run:
        """mlx-lm, with the whole source before it."""
        prompt = [token for segment in self.source.segments for token in segment]
        prompt += self.source.header

        def write() -> tuple[Iterable[int], int]:
            steps = mlx_lm.stream_generate(
                self.model,
                self.tokenizer,
                prompt,
                max_tokens=self.n_tokens,
                logits_processors=self._processors,
            )
            return [step.token for step in steps], 1 + self.n_tokens

        return timed(write)

    def ours(self, k: int, **options: Any) -> Run:
        """This library, under wait-k, with options of a session."""

        def write() -> tuple[Iterable[int], int]:
            *_, finished = stream_generate(
                self.model,
                self.tokenizer,
                self.source,
                policy=WaitK(k),
                max_tokens=self.n_tokens,
                logits_processors=self._processors,
                **options,
            )
            return finished.token_ids, finished.n_passes  # pyright: ignore

        return timed(write)

    def plain(self, k: int) -> Run:
        """The loop of SPEC section 2, step by step."""
        segments = self.source.segments
        lengths = [len(segment) for segment in segments]
        ends_word = WordBoundaryStoppingCriteria(self.tokenizer)

        def write() -> tuple[Iterable[int], int]:
            engine = make_engine(self.model, logits_processors=self._processors)
            engine.read(segments[0])
            feed, n_read, n_words = list(self.source.header), 0, 0
            written: list[int] = []
            word: list[int] = []
            while len(written) < self.n_tokens:
                wanted = calculate_wait_words(lengths, n_words, k)
                for segment in segments[n_read + 1 : wanted + 1]:
                    engine.read(segment)
                n_read = max(n_read, wanted)
                if not feed:
                    engine.roll_back(1)
                    feed = written[-1:]
                token = engine.predict(feed, written)
                stops, is_look_ahead = ends_word([*word, token])
                feed = [] if is_look_ahead else [token]
                written += feed
                word += feed
                if stops:
                    n_words += 1
                    word = []
            return written, engine.n_passes

        return timed(write)


def speed(bench: Bench, ks: Sequence[int], n_repeats: int) -> Iterator[Figures]:
    """Passes and tokens a second, beside both baselines."""
    for k in ks:
        rounds = [
            (bench.offline(), bench.plain(k), bench.ours(k)) for _ in range(max(1, n_repeats))
        ]
        offline, plain, ours = rounds[0]
        yield {
            "wait_k": k,
            "tokens": len(ours.token_ids),
            "same_tokens_as_plain": ours.token_ids == plain.token_ids,
            "passes_per_token": ours.n_passes / len(ours.token_ids),
            "plain_passes_per_token": plain.n_passes / len(plain.token_ids),
            "cpu_ms_per_token": cpu_ms(run[2] for run in rounds),
            "offline_cpu_ms_per_token": cpu_ms(run[0] for run in rounds),
            "tokens_per_s": rate(run[2] for run in rounds),
            "offline_tokens_per_s": rate(run[0] for run in rounds),
            "plain_tokens_per_s": rate(run[1] for run in rounds),
            "times_offline": statistics.median(a.seconds / c.seconds for a, _, c in rounds),
            "times_plain": statistics.median(b.seconds / c.seconds for _, b, c in rounds),
            "cpu_times_offline": statistics.median(
                a.cpu_seconds / c.cpu_seconds for a, _, c in rounds
            ),
            "cpu_times_plain": statistics.median(
                b.cpu_seconds / c.cpu_seconds for _, b, c in rounds
            ),
            "peak_mb": ours.peak_bytes / 1e6,
            "offline_peak_mb": offline.peak_bytes / 1e6,
        }


def speed_of_ranks(bench: Bench, ks: Sequence[int], n_repeats: int) -> Iterator[Figures]:
    """As :func:`speed`, of a model that is spread over ranks: mlx-lm's own loop has no part in it.

    The other ranks follow sessions; in a pass that rank 0 alone begins they take no part.
    """
    for k in ks:
        rounds = [(bench.plain(k), bench.ours(k)) for _ in range(max(1, n_repeats))]
        plain, ours = rounds[0]
        yield {
            "wait_k": k,
            "tokens": len(ours.token_ids),
            "same_tokens_as_plain": ours.token_ids == plain.token_ids,
            "passes_per_token": ours.n_passes / len(ours.token_ids),
            "plain_passes_per_token": plain.n_passes / len(plain.token_ids),
            "cpu_ms_per_token": cpu_ms(run for _, run in rounds),
            "tokens_per_s": rate(run for _, run in rounds),
            "times_plain": statistics.median(b.seconds / c.seconds for b, c in rounds),
            "peak_mb": ours.peak_bytes / 1e6,
        }


def drafting(bench: Bench, ks: Sequence[int], n_repeats: int, **options: Any) -> Iterator[Figures]:
    """Passes and time with a session's drafting options, beside the same stream without."""
    for k in ks:
        rounds = [(bench.ours(k), bench.ours(k, **options)) for _ in range(max(1, n_repeats))]
        plain, drafted = rounds[0]
        yield {
            "wait_k": k,
            "tokens": len(plain.token_ids),
            "same_tokens_as_plain": drafted.token_ids == plain.token_ids,
            "passes_per_token": plain.n_passes / len(plain.token_ids),
            "drafted_passes_per_token": drafted.n_passes / len(drafted.token_ids),
            "times_plain": statistics.median(a.seconds / b.seconds for a, b in rounds),
            "cpu_times_plain": statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in rounds),
        }


def growth(model: Any, words: Sequence[int], n_steps: int) -> Iterator[Figures]:
    """Milliseconds a pass as the session grows, beside mlx-lm's own cache with as many keys.

    The caches are filled with noise, since the text written here is not read.
    """
    for n_words in words:
        n_tokens = round(n_words * TOKENS_PER_WORD)
        engine, stock = _filled(model, n_tokens), _filled_stock(model, 2 * n_tokens)
        # The first step warms up.
        steps = [_step(model, engine, stock) for _ in range(1 + n_steps)][1:]
        ms = {name: [step[name] for step in steps] for name in steps[0]}
        yield {
            "words": n_words,
            "keys": 2 * n_tokens,
            **{f"{name}_ms": statistics.median(values) for name, values in ms.items()},
            **{f"{name}_p95_ms": _p95(values) for name, values in ms.items()},
            "write_times_stock": _paired(ms["write"], ms["stock_1"]),
            "read_write_times_stock": _paired(ms["read_write"], ms["stock_3"]),
        }


def never_ending(tokenizer: Any) -> Any:
    """Logits processors that forbid what ends a turn."""
    forbidden = {token: -float("inf") for token in end_of_turn_ids_of(tokenizer)}
    return make_logits_processors(logit_bias=forbidden)


def tiny_like(tokenizer: Any) -> Any:
    """A model of many tiny layers with random weights.

    It has hardly any arithmetic, so its time is what the host takes to prepare each pass. On a fast
    GPU this is what limits a small model.
    """
    n_vocabulary = 1 + max(tokenizer.get_vocab().values())
    mx.random.seed(0)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=TINY_LAYERS,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=n_vocabulary,
        tie_word_embeddings=True,
    )
    model = llama.Model(args)
    mx.eval(model.parameters())
    return model


def timed(write: Callable[[], tuple[Iterable[int], int]]) -> Run:
    """Run a stream, or several in a row of tokens, and note what it took."""
    mx.clear_cache()
    mx.reset_peak_memory()
    began, worked = time.perf_counter(), time.process_time()
    token_ids, n_passes = write()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    return Run(tuple(token_ids), n_passes, seconds, cpu_seconds, mx.get_peak_memory())


def rate(runs: Iterable[Run]) -> float:
    """Tokens a second, the median."""
    return statistics.median(len(run.token_ids) / run.seconds for run in runs)


def cpu_ms(runs: Iterable[Run]) -> float:
    """Milliseconds of CPU time per token, the least: what else a machine does only ever adds."""
    return min(1000 * run.cpu_seconds / len(run.token_ids) for run in runs)


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def _ms(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return (time.perf_counter() - began) * 1000


def _step(model: Any, engine: StreamingEngine, stock: Sequence[Any]) -> dict[str, float]:
    """Milliseconds of one pass of each kind."""
    both = Pass((5,), (6,), n_rewind=1, draft_ids=(7,))
    return {
        "read_write": _ms(lambda: engine.run(both)),
        "stock_3": _ms(lambda: _stock_step(model, stock, 3)),
        "write": _ms(lambda: engine.run(Pass((), (6,)))),
        "stock_1": _ms(lambda: _stock_step(model, stock, 1)),
    }


def _filled(model: Any, n_tokens: int) -> StreamingEngine:
    """An engine with this many source and target tokens of noise."""
    engine = StreamingEngine(model, FollowStart())
    engine.run(Pass((3, 4), (5,)))
    layers: Any = engine.state.layers
    layers = tuple(tuple(_noise(layer, 2 * n_tokens)) for layer in layers)
    engine.state = StreamState(n_tokens, n_tokens, n_tokens, layers)
    return engine


def _filled_stock(model: Any, n_tokens: int) -> list[Any]:
    caches = make_prompt_cache(model)
    if not all(type(cache) is KVCache for cache in caches):
        raise InvalidOptionError("growth is measured beside plain KVCaches; this model has others.")
    model(mx.array([[3, 4, 5]]), cache=caches)
    for cache in caches:
        cache.update_and_fetch(*_noise(cache.state[:2], n_tokens))
    return caches


def _noise(like: Sequence[mx.array], n_tokens: int) -> list[mx.array]:
    made = []
    for held in like:
        B, K, _, D = held.shape
        made.append(mx.random.normal((B, K, n_tokens, D)).astype(held.dtype))
    mx.eval(made)
    return made


def _stock_step(model: Any, caches: Sequence[Any], n_tokens: int) -> None:
    """A pass of this many tokens, of which mlx-lm's caches keep one, as ours keeps one a word."""
    logits = model(mx.array([[6] * n_tokens]), cache=caches)
    mx.argmax(logits[:, -1], axis=-1).item()
    for cache in caches:
        cache.trim(n_tokens - 1)
