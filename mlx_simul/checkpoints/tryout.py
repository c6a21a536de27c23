"""A model of an undeclared type: find out from the laws whether it streams, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.nn as nn

from mlx_simul.archs.base import Architecture
from mlx_simul.archs.prepare import prepared_copy
from mlx_simul.errors import ValidationError
from mlx_simul.testing import ENGINE_OF_MODE, LAWS_OF_MODE, Stream, in_float32

# Short, because the laws take hundreds of passes; real weights, so any tokens will do.
_SEGMENTS, _TARGET = ((1, 5, 3), (2,), (7, 4)), (6, 3, 8, 2)


def try_out(model: nn.Module) -> Architecture:
    """The first way of streaming in which every law of its mode holds on this very model.

    Tried are: two groups with RoPE where most families have it, two groups whose target stays where
    it is put, and encoding again. The laws are tried on a dozen tokens, so a window longer than
    that is not seen to be kept; and in float32 where memory allows, since half precision would let
    small mistakes pass.

    Args:
        model: loaded, of a type that is not registered.

    Raises:
        ValidationError: if no way keeps the laws; it says which law failed in each.
    """
    model_type = str(model.model_type)
    # Nothing tries whether its attention can read quantised keys.
    likely = Architecture(model_type, quantizes_kv=False)
    fixed = replace(
        likely,
        rope=lambda layer: None,
        positions_fixed_because="where its layers keep their RoPE is not known",
    )
    failures: dict[str, str] = {}
    with in_float32(model):
        for name, way in (("two groups", likely), ("two groups, target fixed", fixed)):
            failure = next(_failures(model, way), None)
            if failure is None:
                return way
            failures[name] = failure
        because = f"in two groups it breaks a law: {failures['two groups']}"
        again = replace(likely, not_in_groups_because=because)
        failure = next(_failures(model, again), None)
    if failure is None:
        return again
    told = "\n".join(f"* {name}: {why}" for name, why in {**failures, "again": failure}.items())
    raise ValidationError(
        f"model_type {model_type!r} does not stream: it breaks a law in each way that was "
        f"tried.\n{told}\nIt needs an Architecture of its own (CONTRIBUTING.md, 'Add an "
        "architecture')."
    )


def _failures(model: Any, architecture: Architecture) -> Iterator[str]:
    """Which laws fail, one by one, with the model streaming in this way."""
    mode = architecture.modes[0]
    stream = Stream(_SEGMENTS, _TARGET)
    model = prepared_copy(model, architecture)
    for law in LAWS_OF_MODE[mode]:
        try:
            result = law(model, stream=stream, make_engine=ENGINE_OF_MODE[mode])
        except Exception as error:  # code that has never seen such caches may raise anything
            yield f"{law.name} stopped with {type(error).__name__}: {error}"
        else:
            if not result.holds:
                yield str(result)
