"""``--arch NAME`` selects the laws of one architecture."""

import pytest
from tiny_models import VARIATIONS

from mlx_simul import archs


def pytest_generate_tests(metafunc):
    """A test that asks for a ``variation`` gets every one, or those of ``--arch``."""
    if "variation" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--arch")
    known = archs.registered_types()
    if wanted is not None and wanted not in known:
        raise pytest.UsageError(f"--arch {wanted}: there are only {', '.join(known)}.")
    chosen = [v for v in VARIATIONS if wanted in (None, v.model_type)]
    metafunc.parametrize("variation", chosen, ids=str)
