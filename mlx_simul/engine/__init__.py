"""Passes over one model: feed the source, feed the target, predict, roll back.

:mod:`group` is how the library streams. The other modes, :mod:`reencode` and :mod:`interleaved`,
keep all tokens in one :mod:`row`, on a :mod:`tape` of the model's own caches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlx_simul import archs
from mlx_simul.archs.base import KVBits, Mode
from mlx_simul.archs.prepare import prepared
from mlx_simul.cache.positions import TargetStart, make_target_start
from mlx_simul.engine.base import Engine, LogitsProcessor, Sampler
from mlx_simul.engine.group import StreamingEngine
from mlx_simul.engine.interleaved import InterleavedEngine
from mlx_simul.engine.reencode import ReencodeEngine
from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.arithmetic import check_arithmetic

__all__ = [
    "Engine",
    "InterleavedEngine",
    "LogitsProcessor",
    "ReencodeEngine",
    "Sampler",
    "StreamingEngine",
    "make_engine",
    "mode_of",
]


def mode_of(model: Any, mode: Mode | str = "auto") -> Mode | str:
    """The mode in which a model streams: the one that is asked for.

    ``"auto"`` is the one that the checkpoint was trained in, else the first that its architecture
    has.

    Args:
        model: prepared.
        mode: as an option of a session.
    """
    if mode == "auto":
        mode = archs.streaming_config(model).mode or "auto"
    return archs.of(model).modes[0] if mode == "auto" else mode


def make_engine(
    model: Any,
    *,
    mode: Mode | str = "auto",
    target_start: int | str | TargetStart = "auto",
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    gpe_compat: bool = False,
    sampler: Sampler | None = None,
    logits_processors: Iterable[LogitsProcessor] | None = None,
) -> Engine:
    """The engine of one stream, as the options and the checkpoint say.

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
        mode: ``"group"``, ``"reencode"``, ``"interleaved"``; ``"auto"`` as the checkpoint was
            trained, else the first that its architecture has.
        target_start: where target positions start, in mode ``"group"``; elsewhere positions are
            consecutive.
        kv_bits: store keys and values in this many bits, in mode ``"group"``.
        kv_group_size: numbers that share a scale, with ``kv_bits``.
        gpe_compat: sliding windows bind the source only, as in EIT-NLP/StreamingLLM.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's.

    Raises:
        InvalidOptionError: for a mode the architecture does not have, or options of another mode.
        UnknownArchitectureError: if the model's type is not registered.
    """
    check_arithmetic()
    model = prepared(model)
    architecture = archs.of(model)
    mode = mode_of(model, mode)
    architecture.require(mode)
    if mode == "group":
        start = make_target_start(target_start, archs.streaming_config(model).target_start)
        kv = None if kv_bits is None else KVBits(kv_bits, kv_group_size)
        caches = architecture.make_cache(model, kv)
        if kv is not None:
            architecture.require_quantizable(model, kv)
        return StreamingEngine(model, start, sampler, logits_processors, caches, not gpe_compat)
    if gpe_compat:
        raise InvalidOptionError(
            "gpe_compat=True reproduces a reference that keeps two groups, and this stream runs in "
            f"mode={mode!r}; leave one of them out."
        )
    given = [f"target_start={target_start!r}"] if target_start != "auto" else []
    given += [f"kv_bits={kv_bits!r}"] if kv_bits is not None else []
    if given:
        raise InvalidOptionError(
            f"{' and '.join(given)}: only for mode='group', and this stream runs in mode={mode!r}; "
            "leave it out."
        )
    engine = ReencodeEngine if mode == "reencode" else InterleavedEngine
    return engine(model, sampler, logits_processors)
