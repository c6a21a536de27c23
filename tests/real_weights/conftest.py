"""Real weights, fetched and converted once for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from repository import ROOT

from mlx_simul.checkpoints.convert import convert


def fetch(name: str) -> Path:
    """The GGUF file of a model, by tools/fetch_weights.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return import_module("fetch_weights").fetch(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="session")
def converted() -> Callable[[str, str], Path]:
    """Makes the float32 folder of a model, again whenever the package has changed."""

    def make(name: str, folder: str) -> Path:
        file = fetch(name)
        target = file.parent / folder
        config = target / "config.json"
        changed_s = max(path.stat().st_mtime for path in (ROOT / "mlx_simul").rglob("*.py"))
        if not config.is_file() or config.stat().st_mtime < changed_s:
            convert(file, target, dtype="float32", force=True)
        return target

    return make
