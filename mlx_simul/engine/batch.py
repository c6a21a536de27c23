"""Passes of several streams at once, to each as if it were alone.

Shape legend: B streams in a pass, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.prepare import prepared
from mlx_simul.cache import DualStreamingCache, QuantizedStreamingCache
from mlx_simul.cache.batched import Lane, RaggedPass, batched_cache
from mlx_simul.cache.buffer import Place, Storage
from mlx_simul.engine.base import MAX_SOURCE_TOKENS_PER_PASS, Engine, likeliest
from mlx_simul.engine.group import StreamingEngine
from mlx_simul.errors import InvalidOptionError
from mlx_simul.passes import Pass, Reply

# What a pass costs beside its tokens, in tokens: measured on a CPU, see docs/speed.md.
PASS_OVERHEAD_TOKENS = 32


@dataclass(eq=False)
class Part:
    """One stream's part in a pass of a batch.

    Attributes:
        engine: of the stream.
        request: what it asked for, as far as it is not fed yet.
        outcome: what it gets, once that is known.
    """

    engine: StreamingEngine
    request: Pass
    outcome: Reply | Exception | None = None
    # What the next pass takes of it: how many source and target tokens, drafts among those.
    n_source: int = 0
    n_target: int = 0
    n_drafts: int = 0

    @property
    def only_reads(self) -> bool:
        """Whether its source takes a pass without the target."""
        return self.engine.reads_alone(self.request.source_ids, self.request.n_hidden)

    def n_tokens(self, is_reading: bool) -> int:
        """What is still to be fed."""
        request = self.request
        n_target = 0 if is_reading else len(request.target_ids) + len(request.draft_ids)
        return len(request.source_ids) + n_target

    def take(self, n_tokens: int, is_reading: bool) -> list[int]:
        """What a pass of so many tokens takes: all but some drafts, or a part of the source."""
        engine, request = self.engine, self.request
        n_free = n_tokens - len(request.source_ids) - len(request.target_ids)
        source_ids, target_ids, drafts = request.source_ids[:n_tokens], (), ()
        if n_free >= 0 and request.target_ids and not is_reading:
            drafts = request.draft_ids[:n_free]
            target_ids = (*request.target_ids, *drafts)
        engine.prepare(source_ids, target_ids, request.n_rewind, request.n_hidden)
        self.n_source, self.n_target = len(source_ids), len(target_ids)
        self.n_drafts = len(drafts)
        return [*source_ids, *target_ids, *[0] * (n_tokens - len(source_ids) - len(target_ids))]

    def lane(self) -> Lane:
        """The same for the caches."""
        engine = self.engine
        return Lane(
            self.n_source,
            self.n_target,
            engine.source_tokens,
            engine.target_tokens,
            self.request.n_hidden if self.n_target else 0,
            engine.start or 0,
            engine.caches[0].windows_target,
        )

    def rows_to_draw_from(self, logits: mx.array) -> mx.array:
        """(1 + number of drafts, V) of (L, V) logits."""
        end = self.n_source + self.n_target
        return logits[end - 1 - self.n_drafts : end]

    def has_fed(self) -> None:
        """Count what the pass took."""
        request = self.request
        self.engine.count_pass()
        for cache in _plain(self.engine):
            cache.grow(self.n_source, self.n_target)
        rest = request.source_ids[self.n_source :]
        n_passes = request.n_passes + 1
        # The first part has rolled the target back.
        self.request = replace(request, source_ids=rest, n_rewind=0, n_passes=n_passes)
        if not rest and not request.target_ids:
            self._is_answered(())

    def draw(self, logits: mx.array, found: Iterator[tuple[float, int]]) -> None:
        """Draw from rows of logits, or take what was found in them already."""
        engine, request = self.engine, self.request
        drafts = request.draft_ids[: self.n_drafts]
        if engine.is_greedy:
            drawn = engine.agree(list(islice(found, 1 + self.n_drafts)), drafts)
        else:
            drawn = engine.draw(logits, request.written, drafts)
        self._is_answered(drawn)

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong is this stream's own."""
        try:
            yield
        except Exception as error:
            self.outcome = error

    def _is_answered(self, token_ids: Sequence[int]) -> None:
        self.outcome = Reply(tuple(token_ids), self.request.n_passes)


class Batch:
    """Streams over one model whose caches lie in the same arrays, a row each.

    It belongs to the thread that made it, as MLX's streams do.

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
    """

    def __init__(self, model: Any) -> None:
        self._model = model = prepared(model)
        self._fuses = archs.of(model).fuses_in(model)
        self._storages: list[Storage] = []
        self._n_rows = 0
        self._places: dict[StreamingEngine, Place] = {}
        self._findings: dict[str, str | None] = {}

    def __contains__(self, engine: Any) -> bool:
        return engine in self._places

    def takes(self, engine: StreamingEngine) -> bool:
        """Whether a stream can share passes: its family fuses, and its caches are plain ones."""
        return self._fuses and len(_plain(engine)) == len(engine.caches)

    def join(self, engine: StreamingEngine) -> None:
        """Give a stream that has not begun yet a row.

        Raises:
            InvalidOptionError: if it stores keys and values in another way than those here.
        """
        other = next(iter(self._places), engine)
        if _storing(engine) != _storing(other):
            raise InvalidOptionError(
                f"a session that keeps keys and values in {_storing(engine)} cannot join a batch "
                f"that keeps them in {_storing(other)}; give all of them the same kv_bits and "
                "kv_group_size."
            )
        if not self._storages:
            self._storages = [Storage(0) for _ in engine.caches]
        taken = {place.row for place in self._places.values()}
        if len(taken) == self._n_rows:
            n_more = max(1, self._n_rows)
            for storage in self._storages:
                storage.add_rows(n_more)
            self._n_rows += n_more
        place = Place(next(row for row in range(self._n_rows) if row not in taken))
        for cache, storage in zip(_plain(engine), self._storages, strict=True):
            cache.live_in(storage, place)
        engine.findings = self._findings
        self._places[engine] = place

    def leave(self, engine: Engine) -> None:
        """Take a stream's row, if it has one; what it read and wrote is gone."""
        if not isinstance(engine, StreamingEngine) or self._places.pop(engine, None) is None:
            return
        for cache in _plain(engine):
            cache.live_in(Storage())
        if not self._places:
            self._storages, self._n_rows = [], 0

    def run(
        self, requests: Iterable[tuple[StreamingEngine, Pass]]
    ) -> list[Reply | Pass | Exception]:
        """Run one pass for all, and before it one for those that have much source to read.

        A stream that has more to feed than is worth the others' waiting feeds a part of its source.

        Args:
            requests: streams that have joined, and what each asks for.

        Returns:
            What a stream alone would have got, or what it would have raised; a Pass if that is
            left to be run of its own.
        """
        parts = [Part(engine, request) for engine, request in requests]
        self._share([part for part in parts if part.only_reads], is_reading=True)
        self._share([part for part in parts if part.outcome is None and not part.only_reads])
        return [part.outcome or part.request for part in parts]

    def _share(self, parts: Sequence[Part], is_reading: bool = False) -> None:
        """Run one pass, of source tokens only or of both groups."""
        if not parts:
            return
        n_tokens = _length_of_pass(parts, is_reading)
        rows: dict[Part, list[int]] = {}
        for part in parts:
            with part.failing_alone():
                rows[part] = part.take(n_tokens, is_reading)
        parts = self._to_the_front(rows)
        if not parts:
            return
        try:
            logits = self._feed(parts, [rows[part] for part in parts])
            draws = any(part.n_target for part in parts)
            mx.eval([storage.planes for storage in self._storages], [logits] if draws else [])
        except Exception as error:
            for part in parts:
                part.outcome = error
            return
        drawing = [
            (part, part.rows_to_draw_from(logits[i]))
            for i, part in enumerate(parts)
            if part.n_target
        ]
        greedy = [rows for part, rows in drawing if part.engine.is_greedy]
        found = iter(likeliest(mx.concatenate(greedy)) if greedy else ())
        for part in parts:
            part.has_fed()
        for part, logits in drawing:
            with part.failing_alone():
                part.draw(logits, found)

    def _feed(self, parts: Sequence[Part], rows: list[list[int]]) -> mx.array:
        """One pass over the model; (B, L, V) logits."""
        ragged = RaggedPass([part.lane() for part in parts], len(rows[0]))
        own = _plain(parts[0].engine)
        caches = [
            batched_cache(storage, cache, ragged)
            for storage, cache in zip(self._storages, own, strict=True)
        ]
        return self._model(mx.array(rows, mx.int32), cache=caches)

    def _to_the_front(self, parts: Iterable[Part]) -> list[Part]:
        """Let these have the first rows, so that a pass over them is one over slices."""
        places = {part: self._places[part.engine] for part in parts}
        rows = {place.row for place in places.values()}
        free = [row for row in range(len(rows)) if row not in rows]
        behind = sorted(row for row in rows if row >= len(rows))
        if free:
            swapped = dict(zip([*behind, *free], [*free, *behind], strict=True))
            for storage in self._storages:
                storage.move_rows(list(swapped), list(swapped.values()))
            for place in self._places.values():
                place.row = swapped.get(place.row, place.row)
        return sorted(places, key=lambda part: places[part].row)


def _length_of_pass(parts: Sequence[Part], is_reading: bool) -> int:
    """Tokens for which a pass feeds most for what it costs; all targets, drafts excepted, fit."""
    lengths = [part.n_tokens(is_reading) for part in parts]
    targets = [0 if is_reading else len(part.request.target_ids) for part in parts]
    shortest = max(1, *targets)
    longest = max(shortest, min(max(lengths), MAX_SOURCE_TOKENS_PER_PASS))

    def worth(n_tokens: int) -> float:
        n_fed = sum(min(length, n_tokens) for length in lengths)
        return n_fed / (PASS_OVERHEAD_TOKENS + len(parts) * n_tokens)

    return max(range(shortest, longest + 1), key=worth)


def _plain(engine: StreamingEngine) -> list[DualStreamingCache]:
    """The caches of a stream that know how to live among others."""
    kinds = (DualStreamingCache, QuantizedStreamingCache)
    return [cache for cache in engine.caches if type(cache) in kinds]  # pyright: ignore


def _storing(engine: StreamingEngine) -> str:
    cache = engine.caches[0]
    if isinstance(cache, QuantizedStreamingCache):
        return f"{cache.bits} bits in groups of {cache.group_size}"
    return "full precision"
