"""What many sessions at once cost, compared with mlx-lm's ``batch_generate`` on the same texts.

Both are given all texts at the beginning, write the same number of tokens for each, and are timed
with their prompts. They take turns, so that both meet the same noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import mlx_lm

from mlx_simul.evaluation.speed import INSTRUCTION, TEXT, Figures, Run, never_ending, rate, timed
from mlx_simul.events import Finished
from mlx_simul.generation import stream_generate
from mlx_simul.policies import WaitK
from mlx_simul.serving.sessions import Sessions
from mlx_simul.text.prompts import StreamingDataPreparator, TokenizedSource


class BatchBench:
    """One model, texts that differ, and the two ways to write of all of them at once.

    Args:
        model: of an architecture whose sessions share passes.
        tokenizer: its tokenizer.
        n_tokens: target tokens of each stream.
        k: of wait-k.
    """

    def __init__(self, model: Any, tokenizer: Any, n_tokens: int, k: int = 3) -> None:
        self.model, self.tokenizer, self.n_tokens = model, tokenizer, n_tokens
        self._prompt = StreamingDataPreparator(tokenizer, instruction=INSTRUCTION)
        self._options: Any = {
            "policy": WaitK(k),
            "max_tokens": n_tokens,
            "logits_processors": never_ending(tokenizer),
        }

    def source(self, i: int) -> TokenizedSource:
        """The text, begun at another sentence or in the middle of one."""
        words = TEXT.split()
        begin = 7 * i % len(words)
        return self._prompt.tokenize(" ".join(words[begin:] + words[:begin]))

    def ours(self, n_sessions: int) -> Run:
        """This many sessions in shared passes; their tokens one after the other."""
        sources = [self.source(i) for i in range(n_sessions)]

        def write() -> tuple[Iterable[int], int]:
            batch = Sessions(self.model, self.tokenizer, **self._options)
            sessions = [batch.add(source=source) for source in sources]
            ends = {
                session: event for session, event in batch.events() if isinstance(event, Finished)
            }
            n_passes = max(end.n_passes for end in ends.values())
            return chain.from_iterable(ends[session].token_ids for session in sessions), n_passes

        return timed(write)

    def alone(self, i: int) -> tuple[int, ...]:
        """What session i writes when it is alone."""
        *_, finished = stream_generate(self.model, self.tokenizer, self.source(i), **self._options)
        return finished.token_ids  # pyright: ignore[reportAttributeAccessIssue]

    def offline(self, n_sessions: int) -> Run:
        """mlx-lm, with each whole source before its stream."""
        prompts = [
            [token for part in (*source.segments, source.header) for token in part]
            for source in map(self.source, range(n_sessions))
        ]

        def write() -> tuple[Iterable[int], int]:
            response = mlx_lm.batch_generate(
                self.model,
                self.tokenizer,
                prompts,
                max_tokens=self.n_tokens,
                return_token_ids=True,
                logits_processors=self._options["logits_processors"],
                completion_batch_size=n_sessions,
                prefill_batch_size=n_sessions,
            )
            return chain.from_iterable(response.token_ids or ()), 1 + self.n_tokens

        return timed(write)


def throughput(bench: BatchBench, sizes: Sequence[int], n_repeats: int) -> Iterator[Figures]:
    """Tokens a second of this many sessions at once, beside one session's and mlx-lm's."""
    sizes = sorted({1, *sizes})
    rounds = [
        {n: (bench.ours(n), bench.offline(n)) for n in sizes} for _ in range(max(1, n_repeats))
    ]
    for n in sizes:
        ours, offline = rounds[0][n]
        yield {
            "sessions": n,
            "tokens": len(ours.token_ids),
            "same_tokens_as_alone": ours.token_ids[-bench.n_tokens :] == bench.alone(n - 1),
            "passes_per_token": ours.n_passes / bench.n_tokens,
            "tokens_per_s": rate(each[n][0] for each in rounds),
            "offline_tokens_per_s": rate(each[n][1] for each in rounds),
            "times_one": statistics.median(_speed_up(each[1][0], each[n][0], n) for each in rounds),
            "offline_times_one": statistics.median(
                _speed_up(each[1][1], each[n][1], n) for each in rounds
            ),
            "cpu_times_one": statistics.median(
                n * each[1][0].cpu_seconds / each[n][0].cpu_seconds for each in rounds
            ),
            "offline_cpu_times_one": statistics.median(
                n * each[1][1].cpu_seconds / each[n][1].cpu_seconds for each in rounds
            ),
            "cpu_times_offline": statistics.median(
                each[n][1].cpu_seconds / each[n][0].cpu_seconds for each in rounds
            ),
            "peak_mb": ours.peak_bytes / 1e6,
            "offline_peak_mb": offline.peak_bytes / 1e6,
        }


def _speed_up(one: Run, many: Run, n: int) -> float:
    return n * one.seconds / many.seconds
