"""The laws of the other modes, and which laws and which engine belong to which mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlx_simul.archs.base import Mode
from mlx_simul.cache.positions import FixedStart
from mlx_simul.engine import InterleavedEngine, ReencodeEngine, StreamingEngine
from mlx_simul.testing.groups import (
    LAWS,
    any_chunking,
    any_target_chunking,
    restored_state_gives_same_logits,
    roll_back_equals_never_written,
    target_changes_no_source,
    whole_source_equals_stock,
)
from mlx_simul.testing.trial import Comparison, EngineFactory, Law, Trial, law

# These modes know no φ.
_ANY = FixedStart(0)


@law
def reencoded_equals_stock(trial: Trial) -> Iterator[Comparison]:
    """At every moment the logits are those of an ordinary pass over the source read so far."""
    source: list[int] = []
    written: list[int] = []
    engine = trial.engine(_ANY)
    for i, segment in enumerate(trial.stream.segments):
        engine.read(segment)
        source += segment
        for token in trial.stream.target[i : i + 2]:
            written.append(token)
            stock = trial.stock([*source, *written], 1)
            yield f"{len(source)} source tokens read", engine.write([token]), stock
        if i % 2 and written:
            engine.roll_back(1)
            written.pop()


@law
def interleaved_equals_stock(trial: Trial) -> Iterator[Comparison]:
    """The logits are those of an ordinary pass over the tokens in order of arrival."""
    row: list[int] = []
    engine = trial.engine(_ANY)
    for i, segment in enumerate(trial.stream.segments):
        engine.read(segment)
        # The last target token is put after what was read after it.
        held = [row.pop()] if i else []
        row += [*segment, *held, *trial.stream.target[i % 4 : i % 4 + 2]]
        logits = engine.write(row[-2:])
        yield f"{i + 1} source segments read", logits, trial.stock(row, 2)


LAWS_OF_MODE: Mapping[Mode, tuple[Law, ...]] = {
    "group": LAWS,
    "reencode": (
        any_chunking,
        any_target_chunking,
        target_changes_no_source,
        whole_source_equals_stock,
        roll_back_equals_never_written,
        restored_state_gives_same_logits,
        reencoded_equals_stock,
    ),
    "interleaved": (
        any_chunking,
        any_target_chunking,
        whole_source_equals_stock,
        roll_back_equals_never_written,
        restored_state_gives_same_logits,
        interleaved_equals_stock,
    ),
}
"""Every law of a mode, to be tried with an engine of :data:`ENGINE_OF_MODE`."""

ENGINE_OF_MODE: Mapping[Mode, EngineFactory] = {
    "group": StreamingEngine,
    "reencode": lambda model, start: ReencodeEngine(model),
    "interleaved": lambda model, start: InterleavedEngine(model),
}
"""Makes the engine of a mode."""
