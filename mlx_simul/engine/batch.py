"""Streams over one model that share its passes: who lies in which row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx_simul import archs
from mlx_simul.archs.prepare import prepared
from mlx_simul.cache import LayerCache, QuantizedLayerCache
from mlx_simul.engine.base import Engine
from mlx_simul.engine.group import StreamingEngine
from mlx_simul.engine.runner import Part, Runner
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.requests import Pass, Reply

# A batch gives memory back once it holds this many times what its streams need.
MOST_TO_SPARE = 4


class SharedRunner(Runner):
    """A runner whose caches hold a row for each of several streams, the first rows."""

    def __init__(self, model: Any, caches: Iterable[Any]) -> None:
        super().__init__(model, list(caches), is_shared=True)
        self.streams: list[StreamingEngine] = []
        self._n_rows = 0

    def add(self, engine: StreamingEngine) -> None:
        """Give a stream that has not begun yet a row."""
        row = len(self.streams)
        if row == self._n_rows:
            n_more = max(1, self._n_rows)
            self.shard.add_rows(n_more)
            self._n_rows += n_more
        self.shard.clear_row(row)
        self.streams.append(engine)
        engine.live_in(self, row)

    def remove(self, engine: StreamingEngine) -> None:
        """Take a stream's row, in which the last one goes on.

        Memory comes back once much more is held than is needed.
        """
        row, last = engine.row or 0, self.streams.pop()
        if last is not engine:
            self._move(last, row)
        engine.live_in(None, None)
        n_streams = len(self.streams)
        if n_streams and self._n_rows >= MOST_TO_SPARE * n_streams:
            left = max(other.source_tokens for other in self.streams)
            right = max(other.target_tokens for other in self.streams)
            self.shard.keep_rows(n_streams, left, right)
            self._n_rows = n_streams

    def _move(self, engine: StreamingEngine, row: int) -> None:
        self.shard.move_row(engine.row or 0, row, engine.source_tokens, engine.target_tokens)
        self.streams[row] = engine
        engine.row = row

    def _in_order(self, parts: list[Part]) -> list[Part]:
        return sorted(parts, key=lambda part: part.engine.row or 0)


class Batch:
    """Streams over one model whose caches lie in the same arrays, a row each.

    It belongs to the thread that made it, as MLX's streams do.

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
    """

    def __init__(self, model: Any) -> None:
        self._model = model = prepared(model)
        self._fuses = archs.of(model).fuses_in(model)
        self._runner: SharedRunner | None = None
        self._storing = ""

    def __contains__(self, engine: Any) -> bool:
        return self._runner is not None and engine in self._runner.streams

    def takes(self, engine: StreamingEngine) -> bool:
        """Whether a stream can share passes: its family fuses, and its caches are plain ones."""
        kinds = (LayerCache, QuantizedLayerCache)
        return self._fuses and all(type(cache) in kinds for cache in engine.caches)

    def join(self, engine: StreamingEngine) -> None:
        """Give a stream that has not begun yet a row.

        Raises:
            InvalidOptionError: if it stores keys and values in another way than those here.
        """
        storing = _storing(engine)
        if self._runner is None:
            self._runner, self._storing = SharedRunner(self._model, engine.model_caches), storing
        if storing != self._storing:
            raise InvalidOptionError(
                f"a session that keeps keys and values in {storing} cannot join a batch that keeps "
                f"them in {self._storing}; give all of them the same kv_bits and kv_group_size."
            )
        self._runner.add(engine)

    def leave(self, engine: Engine) -> None:
        """Take a stream's row, if it has one; what it read and wrote is gone."""
        if self._runner is None or not isinstance(engine, StreamingEngine) or engine not in self:
            return
        self._runner.remove(engine)
        if not self._runner.streams:
            self._runner = None

    def run(
        self, requests: Iterable[tuple[StreamingEngine, Pass]]
    ) -> list[Reply | Pass | Exception]:
        """As :meth:`Runner.run`, of streams that have joined."""
        return [] if self._runner is None else self._runner.run(requests)


def _storing(engine: StreamingEngine) -> str:
    cache = engine.caches[0]
    if isinstance(cache, QuantizedLayerCache):
        return f"{cache.bits} bits in groups of {cache.group_size}"
    return "full precision"
