"""What a law is: two ways to the same place, tried on one model.

Shape legend: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlx_simul.archs.base import vocab_size_of
from mlx_simul.archs.prepare import prepared
from mlx_simul.cache import SourceTargetCache
from mlx_simul.cache.positions import TargetStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.errors import InvalidOptionError, SimulError, SimulWarning, ValidationError

EngineFactory: TypeAlias = Callable[[nn.Module, TargetStart], Any]
# What was done, the logits it gave, and the logits it should have given.
Comparison: TypeAlias = tuple[str, mx.array, mx.array]

TOLERANCES = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest deviation of a logit, relative to the largest logit, by the dtype a model computes in."""


def engine_with(cache_class: Callable[[], SourceTargetCache]) -> EngineFactory:
    """Makes engines that differ in their caches only.

    Args:
        cache_class: makes an empty cache.
    """

    def make_engine(model: nn.Module, start: TargetStart) -> StreamingEngine:
        caches = [cache_class() for _ in make_prompt_cache(model)]
        return StreamingEngine(model, start, caches=caches)

    return make_engine


@dataclass(frozen=True)
class Stream:
    """Tokens to try a law on.

    Attributes:
        segments: source tokens, in the pieces in which they are read; at least three pieces.
        target: target tokens, at least four.

    Raises:
        InvalidOptionError: if there are fewer, or a piece is empty.
    """

    segments: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.segments) < 3 or not all(self.segments) or len(self.target) < 4:
            raise InvalidOptionError(
                "a stream to try laws on needs three source segments with tokens in each and four "
                f"target tokens, got segments of {[len(s) for s in self.segments]} tokens and "
                f"{len(self.target)} target tokens."
            )

    @property
    def source(self) -> tuple[int, ...]:
        """All source tokens."""
        return tuple(chain.from_iterable(self.segments))

    @classmethod
    def random(cls, vocab_size: int, seed: int = 0) -> Stream:
        """28 source and 6 target tokens: more than a tiny model's window."""
        draw = random.Random(seed)
        segments = [
            [draw.randrange(vocab_size) for _ in range(n)] for n in (7, 1, 4, 2, 1, 6, 3, 4)
        ]
        target = [draw.randrange(vocab_size) for _ in range(6)]
        return cls(tuple(map(tuple, segments)), tuple(target))


class Trial:
    """One model, one stream, and engines to run it on."""

    def __init__(self, model: nn.Module, stream: Stream, make_engine: EngineFactory) -> None:
        self.model = prepared(model)
        self.stream = stream
        self._make_engine = make_engine

    def engine(self, start: TargetStart, read: Sequence[Sequence[int]] = ()) -> Any:
        """A fresh engine that has read these pieces of source."""
        engine = self._make_engine(self.model, start)
        for piece in read:
            engine.read(piece)
        return engine

    def stock(self, tokens: Sequence[int], n_last: int) -> mx.array:
        """An ordinary forward pass over the model's own caches.

        Returns:
            (1, n_last, V) logits of the last tokens.
        """
        inputs = mx.array([list(tokens)], mx.int32)
        return self.model(inputs, cache=make_prompt_cache(self.model))[:, -n_last:]


@dataclass(frozen=True)
class LawResult:
    """What a law found.

    Attributes:
        name: of the law.
        statement: what it says.
        error: largest deviation of a logit, relative to the largest logit.
        tolerance: the largest error with which it holds.
        detail: what was done when the error was largest.
        n_compared: how many comparisons it made; none where it does not apply.
    """

    name: str
    statement: str
    error: float
    tolerance: float
    detail: str
    n_compared: int

    @property
    def holds(self) -> bool:
        """Whether the model keeps the law."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "is broken"
        return (
            f"{self.name} {verdict} ({self.statement} Largest relative error {self.error:.2g}, "
            f"tolerance {self.tolerance:.2g}: {self.detail}.)"
        )

    def require(self) -> None:
        """Check that the law holds.

        Raises:
            ValidationError: if it does not.
        """
        if not self.holds:
            raise ValidationError(str(self))


@dataclass(frozen=True)
class Law:
    """One law; call it on a model.

    Attributes:
        name: a Python name.
        statement: what it says, in a sentence.
    """

    name: str
    statement: str
    _compare: Callable[[Trial], Iterator[Comparison]]

    @property
    def __name__(self) -> str:
        """The name by which pytest calls a test of it."""
        return self.name

    def __call__(
        self,
        model: nn.Module,
        *,
        stream: Stream | None = None,
        make_engine: EngineFactory = StreamingEngine,
        tolerance: float | None = None,
    ) -> LawResult:
        """Try the law.

        Args:
            model: an mlx-lm model whose ``model_type`` is registered.
            stream: the tokens to try it on; random ones by default.
            make_engine: makes the engine, so that other caches and engines can be tried.
            tolerance: largest relative error; by default that of the model's dtype.
        """
        stream = stream or Stream.random(vocab_size_of(model) or 2)
        tolerance = tolerance_of(model) if tolerance is None else tolerance
        worst, detail, n_compared = 0.0, "it does not apply", 0
        try:
            with warnings.catch_warnings():
                # That a stream outgrows the trained length, or cannot follow, breaks no law.
                warnings.simplefilter("ignore", SimulWarning)
                for what, got, wanted in self._compare(Trial(model, stream, make_engine)):
                    error, n_compared = relative_error(got, wanted), n_compared + 1
                    if error >= worst:
                        worst, detail = error, what
        except SimulError as error:
            worst, detail = math.inf, f"stopped by {type(error).__name__}: {error}"
        return LawResult(self.name, self.statement, worst, tolerance, detail, n_compared)


def law(compare: Callable[[Trial], Iterator[Comparison]]) -> Law:
    """Make a law of a generator of comparisons; its docstring is the statement."""
    return Law(compare.__name__, " ".join((compare.__doc__ or "").split()), compare)


def relative_error(got: mx.array, wanted: mx.array) -> float:
    """Largest deviation, relative to the largest wanted value; infinite where one is not finite."""
    got, wanted = got.astype(mx.float32), wanted.astype(mx.float32)
    if not (mx.isfinite(got).all() & mx.isfinite(wanted).all()).item():
        return math.inf
    deviation, scale = mx.abs(got - wanted).max(), mx.abs(wanted).max()
    return (deviation / mx.maximum(scale, 1e-30)).item()  # pyright: ignore[reportReturnType]


MAX_FLOAT32_BYTES = 8 << 30


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Let a model compute in float32, where half precision would hide small mistakes.

    A model that would take more than 8 GB so is left as it is.
    """
    own: Any = model.parameters()
    arrays: Any = [array for _, array in tree_flatten(own)]
    n_numbers = sum(x.size for x in arrays if mx.issubdtype(x.dtype, mx.floating))
    if 4 * n_numbers > MAX_FLOAT32_BYTES:
        yield
        return
    model.set_dtype(mx.float32)
    try:
        yield
    finally:
        model.update(own)


def tolerance_of(model: nn.Module) -> float:
    """The tolerance of the least precise dtype that a model's parameters have."""
    parameters: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # pyright: ignore
    dtypes = {str(p.dtype).removeprefix("mlx.core.") for _, p in parameters}
    return max((TOLERANCES[d] for d in dtypes & TOLERANCES.keys()), default=TOLERANCES["float32"])
