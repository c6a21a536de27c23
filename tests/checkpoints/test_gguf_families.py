"""Every family that a GGUF file may hold: written as llama.cpp writes it, read as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_gguf import VARIATIONS, write_model

from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.loading import load_folder

TOKENS = mx.array([[(7 * i * i + 3 * i + 11) % 96 for i in range(24)]])
every_variation = pytest.mark.parametrize(
    ("model_type", "name"), VARIATIONS, ids=lambda part: str(part)
)


def error(got: Any, wanted: Any) -> float:
    """The largest difference of the logits, relative to what is largest."""
    left, right = (np.array(model(TOKENS)) for model in (got, wanted))
    return float(abs(left - right).max() / abs(right).max())


@every_variation
def test_a_family_is_read_as_it_was(tmp_path: Path, model_type: str, name: str) -> None:
    model, path = write_model(tmp_path / "m.gguf", model_type, name)
    folder = convert(path, tmp_path / "mlx")
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    converted, _ = load_folder(folder)
    assert error(converted, model) < 2e-6
