"""The law of a batch: what shares a pass gets the logits that it gets alone."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.cache.positions import FixedStart, FollowStart
from mlx_simul.engine import Engine, StreamingEngine
from mlx_simul.engine.batch import Batch
from mlx_simul.loop.requests import Pass
from mlx_simul.testing.trial import Comparison, Stream, Trial, law

_STARTS = (
    FixedStart(3),
    FollowStart(margin_tokens=2),
    FollowStart(margin_tokens=5),
    FixedStart(40),
)
_JOINS_AT, _LEAVES_AT = (0, 0, 2, 0), (None, None, None, 5)


@law
def shared_passes_equal_ones_alone(trial: Trial) -> Iterator[Comparison]:
    """Streams that share passes, join late, pause and leave have the logits they have alone."""
    if not archs.of(trial.model).fuses_in(trial.model):
        return
    together = _run_together(trial)
    for i, got in enumerate(together):
        listener = _Listener(trial.stream)
        engine = StreamingEngine(trial.model, _STARTS[i], logits_processors=[listener])
        for request in _requests(trial.stream, i):
            # The plain road, which has nothing in common with the one that is tried.
            Engine.run(engine, request)
        wanted = listener.heard if _LEAVES_AT[i] is None else listener.heard[: len(got)]
        yield f"stream {i} of {len(together)}", mx.concatenate(got), mx.concatenate(wanted)


class _Listener:
    """Notes logits; what is drawn is the next token of the script, whatever they are."""

    def __init__(self, stream: Stream) -> None:
        self._script = stream.target
        self.heard: list[mx.array] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self.heard.append(logits)
        wanted = self._script[tokens.size % len(self._script)]
        return (mx.arange(logits.shape[-1]) == wanted)[None].astype(mx.float32)


def _requests(stream: Stream, i: int) -> Iterator[Pass]:
    """What stream i asks for: words of other lengths for each, right drafts and wrong ones."""
    first, *rest = stream.segments[i:] + stream.segments[:i]
    target = stream.target
    yield Pass(first)
    yield Pass((), target[: 2 + i])
    for j, segment in enumerate(rest):
        written = target * 4
        right = written[j % len(target)]
        draft = right if (i + j) % 2 else right - 1 if right else 1
        source = segment[: 1 + (i * j) % len(segment)]
        yield Pass(source, (target[j % len(target)],), j % 2, (draft,), written=written[:j])
        if j % 3 == i:
            yield Pass(segment, n_rewind=1)


def _run_together(trial: Trial) -> list[list[mx.array]]:
    batch = Batch(trial.model)
    listeners = [_Listener(trial.stream) for _ in _STARTS]
    engines = [
        StreamingEngine(trial.model, start, logits_processors=[listener])
        for start, listener in zip(_STARTS, listeners, strict=True)
    ]
    scripts = [_requests(trial.stream, i) for i in range(len(engines))]
    asked: dict[int, Pass] = {}
    for step in range(100):
        for i, engine in enumerate(engines):
            if step == _JOINS_AT[i]:
                batch.join(engine)
            if step == _LEAVES_AT[i]:
                batch.leave(engine)
                asked.pop(i, None)
            # Now and then one pauses.
            if engine in batch and i not in asked and (step + i) % 4:
                request = next(scripts[i], None)
                if request is not None:
                    asked[i] = request
        outcomes = batch.run([(engines[i], request) for i, request in asked.items()])
        for i, outcome in zip(list(asked), outcomes, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Pass):
                asked[i] = outcome
            else:
                del asked[i]
    return [listener.heard for listener in listeners]
