"""Passes over one model: for one stream, or for many at once, to each as if it were alone.

Shape legend: B streams in a pass, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_simul.cache import Lane, SourceTargetCache
from mlx_simul.engine.attention import View
from mlx_simul.engine.costs import MAX_SOURCE_TOKENS_PER_PASS, PASS_OVERHEAD_TOKENS
from mlx_simul.engine.drawing import Drawing, Drawn, draw_all
from mlx_simul.engine.shard import Fed, make_shard
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.policies.base import Head

if TYPE_CHECKING:
    from mlx_simul.engine.group import StreamingEngine


class Runner:
    """Runs passes over one model for the streams whose tokens lie in its caches.

    Args:
        model: an mlx-lm model.
        caches: what the model is called with, built from :class:`SourceTargetCache`.
        is_shared: a row of them for each of several streams, none as yet.
    """

    def __init__(self, model: Any, caches: Sequence[Any], is_shared: bool = False) -> None:
        self.shard = make_shard(model, caches, is_shared)
        self.findings: dict[str, str | None] = {}
        """What was found out about the model, for all streams."""

    @property
    def caches(self) -> list[SourceTargetCache]:
        """The cache of each layer."""
        return self.shard.caches

    def watch(self, heads: Iterable[Head]) -> None:
        """Let passes record the attention of these heads, too.

        Raises:
            InvalidOptionError: if it cannot be seen.
        """
        self.shard.watch(tuple(heads))

    def feed(
        self,
        rows: Sequence[Sequence[int]],
        lanes: Sequence[Lane],
        views: Iterable[View] = (),
        predicts: bool = True,
    ) -> Fed:
        """One pass over the model, as :meth:`Shard.feed`; what is not to predict is computed."""
        fed = self.shard.feed(tuple(map(tuple, rows)), tuple(lanes), tuple(views), predicts)
        if not predicts:
            self.shard.settle()
        return fed

    def run(
        self, requests: Iterable[tuple[StreamingEngine, Pass]]
    ) -> list[Reply | Pass | Exception]:
        """Run one pass for all, and before it one for those that have much source to read.

        A stream that has more to feed than is worth the others' waiting feeds a part of its source.

        Args:
            requests: streams that live here, and what each asks for.

        Returns:
            What each stream gets, or the error that it would have raised alone; a Pass if that is
            left to be run after this one.
        """
        parts = [Part(engine, request) for engine, request in requests]
        for part in parts:
            part.answer_if_idle()
        parts, everyone = [part for part in parts if part.outcome is None], parts
        self._share([part for part in parts if part.only_reads], is_reading=True)
        self._share([part for part in parts if part.outcome is None and not part.only_reads])
        return [part.outcome or part.request for part in everyone]

    def _share(self, parts: Sequence[Part], is_reading: bool = False) -> None:
        """Run one pass, of source tokens only or of both groups."""
        if not parts:
            return
        n_tokens = _length_of_pass(parts, is_reading)
        rows: dict[Part, list[int]] = {}
        for part in parts:
            with part.failing_alone():
                rows[part] = part.take(n_tokens, is_reading)
        parts = self._in_order(list(rows))
        if not parts:
            return
        if len(parts) == 1:
            # Those that it would have been filled up beside may have failed.
            rows = {part: rows[part][: part.n_source + part.n_target] for part in parts}
        try:
            self._run_pass(parts, rows)
        except Exception as error:
            for part in parts:
                part.outcome = error

    def _run_pass(self, parts: Sequence[Part], rows: dict[Part, list[int]]) -> None:
        views = {part: view for i, part in enumerate(parts) if (view := part.view(i))}
        tokens, lanes = [rows[part] for part in parts], [part.lane for part in parts]
        predicts = any(part.n_target for part in parts)
        fed = self.feed(tokens, lanes, views.values(), predicts)
        drawings: dict[Part, Drawing] = {}
        for i, part in enumerate(parts):
            part.has_fed()
            if part.n_target:
                columns = fed.layout.source_columns(i) if part in views else ()
                drawings[part] = part.drawing(fed.logits[i], views.get(part), columns)
        outcomes = draw_all([*drawings.values()], fed.recorded)
        for part, drawn in zip(drawings, outcomes, strict=True):
            part.take_drawn(drawn)

    def _in_order(self, parts: list[Part]) -> list[Part]:
        """Parts in the order of their rows."""
        return parts


@dataclass(eq=False)
class Part:
    """One stream's part in a pass.

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

    @property
    def n_least(self) -> int:
        """What cannot be fed in parts: a target, and the source that goes with it."""
        request = self.request
        return len(request.source_ids) + self.n_least_target if request.target_ids else 0

    @property
    def n_least_target(self) -> int:
        """The target tokens among those; a tree goes as a whole."""
        request = self.request
        return len(request.target_ids) + len(request.draft_parents)

    def take(self, n_tokens: int, is_reading: bool) -> list[int]:
        """What a pass of this many tokens takes: all but some drafts, or a part of the source."""
        engine, request = self.engine, self.request
        n_free = n_tokens - len(request.source_ids) - len(request.target_ids)
        source_ids, target_ids, drafts = request.source_ids[:n_tokens], (), ()
        n_tree = len(request.draft_parents)
        if n_free >= n_tree and request.target_ids and not is_reading:
            drafts = request.draft_ids[:n_free]
            target_ids = (*request.target_ids, *drafts)
        engine.prepare(source_ids, target_ids, request.n_rewind, request.n_hidden)
        self.n_source, self.n_target = len(source_ids), len(target_ids)
        self.n_drafts = len(drafts)
        return [*source_ids, *target_ids, *[0] * (n_tokens - len(source_ids) - len(target_ids))]

    @property
    def lane(self) -> Lane:
        """The same for the caches."""
        n_hidden = self.request.n_hidden if self.n_target else 0
        lane = self.engine.lane(self.n_source, self.n_target, n_hidden)
        return replace(lane, parents=self.request.draft_parents if self.n_target else ())

    @property
    def predicting(self) -> slice:
        """The tokens of the pass after which it predicts: its last, and its drafts."""
        end = self.n_source + self.n_target
        return slice(end - 1 - self.n_drafts, end)

    def view(self, row: int) -> View | None:
        """Whose attention is to be recorded for it, if any is asked for."""
        heads = self.request.wanted.heads if self.request.wanted and self.n_target else ()
        return View(heads, self.predicting, row) if heads else None

    def answer_if_idle(self) -> None:
        """Without tokens to feed there is nothing to run, only something to forget."""
        request = self.request
        if not request.source_ids and not request.target_ids:
            with self.failing_alone():
                self.engine.roll_back(request.n_rewind)
                self._is_answered()

    def has_fed(self) -> None:
        """Count what the pass took."""
        request = self.request
        self.engine.count(self.n_source, self.n_target)
        rest = request.source_ids[self.n_source :]
        n_passes = request.n_passes + 1
        # The first part has rolled the target back.
        self.request = replace(request, source_ids=rest, n_rewind=0, n_passes=n_passes)
        if not rest and not request.target_ids:
            self._is_answered()

    def drawing(self, logits: mx.array, view: View | None, columns: Sequence[int]) -> Drawing:
        """What it draws from, of (L, V) logits."""
        drafts = self.request.draft_ids[: self.n_drafts]
        return Drawing(self.engine, self.request, logits[self.predicting], drafts, view, columns)

    def take_drawn(self, drawn: Drawn | Exception) -> None:
        """Get what was drawn for it."""
        if isinstance(drawn, Exception):
            self.outcome = drawn
        else:
            n_passes = self.request.n_passes
            self.outcome = Reply(drawn.token_ids, n_passes, drawn.evidence, drawn.candidates)

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong is this stream's own."""
        try:
            yield
        except Exception as error:
            self.outcome = error

    def _is_answered(self) -> None:
        """The reply without a prediction."""
        self.outcome = Reply((), self.request.n_passes)


def _length_of_pass(parts: Sequence[Part], is_reading: bool) -> int:
    """Tokens for which a pass feeds most for what it costs; all targets, drafts excepted, fit."""
    lengths = [part.n_tokens(is_reading) for part in parts]
    targets = [0 if is_reading else part.n_least_target for part in parts]
    shortest = max(1, *targets)
    longest = max(shortest, min(max(lengths), MAX_SOURCE_TOKENS_PER_PASS))
    if len(parts) == 1:
        # A single stream is not padded to the length of others: its target goes in one pass.
        return longest if is_reading else max(longest, parts[0].n_least)

    def worth(n_tokens: int) -> float:
        n_fed = sum(min(length, n_tokens) for length in lengths)
        return n_fed / (PASS_OVERHEAD_TOKENS + len(parts) * n_tokens)

    return max(range(shortest, longest + 1), key=worth)
