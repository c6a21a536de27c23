"""A training run's options as TOML and JSON have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_simul.machine.fields import as_table, make
from mlx_simul.training.options import TrainOptions

WHOLE = "whole"
"""Stands for "wait for the whole source" in a file, where there is no ``None``."""


def make_options(tables: Mapping[str, Any]) -> TrainOptions:
    """Options of a run.

    Args:
        tables: a table for each group of options: data, model, layout, batches, optimiser, run.

    Raises:
        InvalidOptionError: for an unknown or missing entry, or a value of another type or range.
    """
    return make(TrainOptions, tables, none=WHOLE)


def as_tables(options: Any) -> dict[str, Any]:
    """Options as plain JSON, the way :func:`make_options` takes them."""
    return as_table(options, none=WHOLE)
