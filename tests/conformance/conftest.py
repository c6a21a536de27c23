"""``--arch NAME`` selects the laws of one architecture, ``--arch all`` those of every one."""

import pytest
from tiny_models import MAIN, VARIATIONS

from mlx_simul import archs
from mlx_simul.testing import LAWS_OF_MODE


def pytest_generate_tests(metafunc):
    """A test of a law on a variation gets those of ``--arch``; of the main families by default."""
    if "variation" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--arch")
    known = archs.registered_types()
    if wanted not in (None, "all", *known):
        raise pytest.UsageError(f"--arch {wanted}: there are only all, {', '.join(known)}.")
    chosen = {None: MAIN, "all": known}.get(wanted, [wanted])
    cases = [
        pytest.param(variation, mode, law, id=f"{variation}-{mode}-{law.name}")
        for variation in VARIATIONS
        if variation.model_type in chosen
        for mode in archs.find(variation.model_type).modes
        for law in LAWS_OF_MODE[mode]
    ]
    metafunc.parametrize(("variation", "mode", "law"), cases)
