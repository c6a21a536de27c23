"""The laws of two groups: each says that two ways to the same place give the same logits.

φ is ``target_start`` (SPEC section 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.cache.positions import FixedStart, FollowStart, TargetStart
from mlx_simul.engine import Engine
from mlx_simul.testing.trial import Comparison, Law, Trial, law, relative_error

# Positions of source and target overlap, as they do wherever φ does not lie after the source.
_FIXED = FixedStart(3)
_STARTS: dict[str, TargetStart] = {"fixed start": _FIXED, "following": FollowStart(margin_tokens=2)}


@law
def any_chunking(trial: Trial) -> Iterator[Comparison]:
    """Any chunking of the source gives the same logits."""
    source, target = trial.stream.source, trial.stream.target
    whole = trial.engine(_FIXED, read=[source]).write(target)
    for size in (3, 5):
        engine = trial.engine(_FIXED, read=list(_pieces(source, size)))
        yield f"source read {size} at a time", engine.write(target), whole
    engine = trial.engine(_FIXED, read=trial.stream.segments)
    yield "source read by segments", engine.write(target), whole


@law
def any_target_chunking(trial: Trial) -> Iterator[Comparison]:
    """Target tokens give the same logits in one pass as in many."""
    source, target = trial.stream.source, trial.stream.target
    whole = trial.engine(_FIXED, read=[source]).write(target)
    for size in (1, 4):
        engine = trial.engine(_FIXED, read=[source])
        yield f"target written {size} at a time", _write(engine, target, size), whole


@law
def unread_source_changes_nothing(trial: Trial) -> Iterator[Comparison]:
    """Source that is read later alters nothing that was computed before."""
    segments, target = trial.stream.segments, trial.stream.target
    whole = trial.engine(_FIXED).forward([trial.stream.source], is_reading=True)
    for n_read in (1, len(segments) // 2):
        read, unread = segments[:n_read], segments[n_read:]
        before = list(chain.from_iterable(read))
        rows = trial.engine(_FIXED).forward([before], is_reading=True)
        yield f"rows of {n_read} source segments", whole[:, : len(before)], rows

        predicted = _write(trial.engine(_FIXED, read=read), target, size=3)
        mx.eval(predicted)
        engine = trial.engine(_FIXED, read=read)
        # MLX is lazy: this is not yet computed when the rest of the source arrives.
        pending = _write(engine, target, size=3)
        for segment in unread:
            engine.read(segment)
        yield f"target behind {n_read} source segments", pending, predicted


@law
def target_changes_no_source(trial: Trial) -> Iterator[Comparison]:
    """The source is encoded as if no target had been written."""
    segments, target = trial.stream.segments, trial.stream.target
    undisturbed = trial.engine(_FIXED, read=segments).write(target)
    engine = trial.engine(_FIXED)
    for segment in segments:
        engine.read(segment)
        engine.write(target[:2])
    engine.roll_back(engine.target_tokens)
    yield "target written between reads", engine.write(target), undisturbed


@law
def whole_source_equals_stock(trial: Trial) -> Iterator[Comparison]:
    """Source wholly read, positions consecutive: the logits of an ordinary forward pass."""
    source, target = trial.stream.source, trial.stream.target
    stock = trial.stock([*source, *target], len(target))
    for size in (len(target), 1):
        engine = trial.engine(FixedStart(len(source)), read=trial.stream.segments)
        yield f"target written {size} at a time", _write(engine, target, size), stock


@law
def roll_back_equals_never_written(trial: Trial) -> Iterator[Comparison]:
    """Target tokens that were rolled back leave no trace."""
    segments, target = trial.stream.segments, trial.stream.target
    for name, start in _STARTS.items():
        runs = []
        for detour in (target[::-1], ()):
            engine = trial.engine(start, read=segments[:2])
            logits = [engine.write(target[:2])]
            for segment, token in zip(segments[2:], target[2:], strict=False):
                if detour:
                    engine.write(detour)
                    engine.roll_back(len(detour))
                engine.read(segment)
                logits.append(engine.write([token]))
            runs.append(mx.concatenate(logits, axis=1))
        yield f"{len(target)} tokens rolled back before each read, {name}", *runs


@law
def restored_state_gives_same_logits(trial: Trial) -> Iterator[Comparison]:
    """A saved state, restored as often as one likes, goes on with the same logits."""
    segments, target = trial.stream.segments, trial.stream.target

    def go_on(engine: Engine) -> mx.array:
        engine.roll_back(1)
        before = _write(engine, target[2:4])
        for segment in segments[2:]:
            engine.read(segment)
        return mx.concatenate([before, _write(engine, target, size=3)], axis=1)

    for name, start in _STARTS.items():
        engine = trial.engine(start, read=segments[:2])
        engine.write(target[:2])
        saved = engine.state
        never_saved = go_on(engine)
        for attempt in ("restored", "restored after another stream left it"):
            fresh = trial.engine(start)
            fresh.state = saved
            yield f"{attempt}, {name}", go_on(fresh), never_saved
            astray = trial.engine(start)
            astray.state = saved
            astray.roll_back(2)
            astray.write(target[-2:])


@law
def moved_target_equals_written_there(trial: Trial) -> Iterator[Comparison]:
    """A target that was moved stands as if it had been written at its new place."""
    segments, target = trial.stream.segments, trial.stream.target
    architecture = archs.of(trial.model)
    if architecture.positions_fixed_because is not None:
        return
    if architecture.positions_absolute_because is not None:
        near, far = (trial.engine(FixedStart(start)).write(target[:3]) for start in (3, 43))
        if relative_error(near, far) > 1e-4:
            return  # What its layers compute differs from place to place, wherever its keys stand.
    # Without a source, hidden states do not depend on φ, so moving the keys is all there is to it.
    moved = trial.engine(FollowStart(margin_tokens=2))
    moved.write(target[:3])
    _read_and_move(moved, segments, target[0])
    place = moved.start
    there = trial.engine(FixedStart(place))
    there.write(target[:3])
    there.read(trial.stream.source)
    yield f"moved to position {place}", _write(moved, target[3:]), _write(there, target[3:])


@law
def moves_compose(trial: Trial) -> Iterator[Comparison]:
    """Many small moves of the target equal one large move."""
    (first, *rest), target = trial.stream.segments, trial.stream.target
    if archs.of(trial.model).positions_fixed_because is not None:
        return
    runs = []
    for pieces in (rest, [list(chain.from_iterable(rest))]):
        engine = trial.engine(FollowStart(margin_tokens=0), read=[first])
        engine.write(target[:3])
        _read_and_move(engine, pieces, target[0])
        runs.append(_write(engine, target[3:]))
    yield f"{len(rest)} moves or one", *runs


@law
def rows_of_a_batch_are_independent(trial: Trial) -> Iterator[Comparison]:
    """A batch gives each row the logits it has alone."""
    first, second, *rest = trial.stream.segments
    later = tuple(chain.from_iterable(rest))
    target = trial.stream.target
    streams = [(first + second, later, target), (second + first, later[::-1], target[::-1])]

    def run(rows: Sequence[tuple[tuple[int, ...], ...]]) -> mx.array:
        engine = trial.engine(_FIXED)
        begin, later, target = zip(*rows, strict=True)
        logits = [engine.forward(begin, is_reading=True)]
        logits.append(engine.forward(target, is_reading=False))
        engine.roll_back(2)
        logits.append(engine.forward(later, is_reading=True))
        logits.append(engine.forward(target, is_reading=False))
        return mx.concatenate(logits, axis=1)

    together = run(streams)
    for i, stream in enumerate(streams):
        yield f"row {i} of a batch of two", together[i : i + 1], run([stream])


@law
def fused_equals_read_then_write(trial: Trial) -> Iterator[Comparison]:
    """A pass to both groups gives the logits of a source pass and a target pass after it."""
    first, *rest = trial.stream.segments
    target = trial.stream.target
    for name, start in _STARTS.items():
        runs = []
        for is_fused in (True, False):
            engine = trial.engine(start, read=[first])
            logits = [engine.write(target[:2])]
            for i, segment in enumerate(rest):
                # The last token again, and some new ones; then the newest of them is forgotten.
                tokens = target[1 : 2 + i % 3]
                if is_fused:
                    logits.append(engine.read_and_write(segment, tokens, n_rewind=1))
                else:
                    engine.roll_back(1)
                    engine.read(segment)
                    logits.append(engine.write(tokens))
                engine.roll_back(len(tokens) - 1)
            runs.append(mx.concatenate([*logits, _write(engine, target[2:])], axis=1))
        yield f"{len(rest)} segments, each read with target tokens, {name}", *runs


@law
def hidden_source_is_not_read_yet(trial: Trial) -> Iterator[Comparison]:
    """Source that is encoded ahead and hidden changes nothing."""
    (first, *rest), target = trial.stream.segments, trial.stream.target
    for name, start in _STARTS.items():
        runs = []
        for is_ahead in (True, False):
            engine = trial.engine(start, read=trial.stream.segments if is_ahead else [first])
            n_hidden = len(trial.stream.source) - len(first) if is_ahead else 0
            logits = [engine.read_and_write((), target[:2], n_hidden=n_hidden)]
            for segment in rest:
                if is_ahead:
                    n_hidden -= len(segment)
                else:
                    engine.read(segment)
                logits.append(engine.read_and_write((), target[1:3], 1, n_hidden))
                engine.roll_back(1)
            runs.append(mx.concatenate([*logits, _write(engine, target[2:])], axis=1))
        yield f"{len(rest)} segments encoded ahead, {name}", *runs


@law
def tree_equals_its_branches(trial: Trial) -> Iterator[Comparison]:
    """A branch of a tree of target tokens gives the logits that it has alone."""
    segments, target = trial.stream.segments, trial.stream.target
    if not archs.of(trial.model).fuses_in(trial.model):
        return  # Such a family is fed branch by branch.
    # Two branches that part at once, the first of which parts again.
    tree, parents = (*target[2:], *target[:2]), (-1, 0, -1, 2, 0, 1)
    for name, start in _STARTS.items():
        for read in ((), segments[2]):
            engine = trial.engine(start, read=segments[:2])
            engine.write(target[:2])
            tokens = (target[1], *tree)
            engine.prepare(read, tokens, n_rewind=1)
            lane = replace(engine.lane(len(read), len(tokens)), parents=parents)
            logits = engine.runner.feed([[*read, *tokens]], [lane]).logits
            engine.count(len(read), len(tokens))
            for i in range(len(tree)):
                branch = _branch(tree, parents, i)
                alone = trial.engine(start, read=segments[:2])
                alone.write(target[:2])
                whole = alone.read_and_write(read, (target[1], *branch), n_rewind=1)
                what = f"branch of {len(branch)} tokens, {len(read)} source tokens read, {name}"
                yield what, logits[:, len(read) + 1 + i], whole[:, -1]
            # Nothing of it stays.
            engine.roll_back(len(tree))
            alone.roll_back(len(branch))
            what = f"behind a tree that is forgotten, {name}"
            yield what, _write(engine, target[2:]), _write(alone, target[2:])


LAWS: tuple[Law, ...] = (
    any_chunking,
    any_target_chunking,
    unread_source_changes_nothing,
    target_changes_no_source,
    whole_source_equals_stock,
    roll_back_equals_never_written,
    restored_state_gives_same_logits,
    moved_target_equals_written_there,
    moves_compose,
    rows_of_a_batch_are_independent,
    fused_equals_read_then_write,
    hidden_source_is_not_read_yet,
    tree_equals_its_branches,
)
"""Every law of two groups, for ``pytest.mark.parametrize``."""


def _pieces(tokens: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (tokens[i : i + size] for i in range(0, len(tokens), size))


def _write(engine: Engine, tokens: Sequence[int], size: int = 1) -> mx.array:
    """Write in passes of ``size`` tokens; (1, L, V) logits."""
    return mx.concatenate([engine.write(piece) for piece in _pieces(tokens, size)], axis=1)


def _branch(tree: Sequence[int], parents: Sequence[int], i: int) -> tuple[int, ...]:
    """The tokens of a tree that lead to one of them, itself included."""
    return () if i < 0 else (*_branch(tree, parents, parents[i]), tree[i])


def _read_and_move(engine: Engine, pieces: Iterable[Sequence[int]], any_token: int) -> None:
    """Read piece by piece; a target pass, forgotten at once, lets the target follow."""
    for piece in pieces:
        engine.read(piece)
        engine.write([any_token])
        engine.roll_back(1)
