"""``--arch NAME,...`` selects the laws of the types that begin so, ``--arch all`` all laws."""

import pytest
from tiny_models import MAIN, VARIATIONS
from without_metal import replace_kernels

from mlx_simul import archs
from mlx_simul.testing import LAWS_OF_MODE


def pytest_generate_tests(metafunc):
    """A test of a law on a variation gets those of ``--arch``; of the main families by default."""
    if not {"variation", "fusing"} & {*metafunc.fixturenames}:
        return
    wanted = metafunc.config.getoption("--arch")
    names = tuple((wanted or "").split(","))
    known = archs.registered_types()
    alike = [model_type for model_type in known if model_type.startswith(names)]
    chosen = {None: MAIN, "all": known}.get(wanted, alike)
    if not chosen:
        raise pytest.UsageError(f"--arch {wanted}: there are only all, {', '.join(known)}.")
    if "fusing" in metafunc.fixturenames:
        cases = [v for v in VARIATIONS if v.model_type in chosen and fuses(v)]
        metafunc.parametrize("fusing", cases, ids=str)
        return
    cases = [
        pytest.param(variation, mode, law, id=f"{variation}-{mode}-{law.name}")
        for variation in VARIATIONS
        if variation.model_type in chosen
        for mode in archs.find(variation.model_type).modes
        for law in LAWS_OF_MODE[mode]
    ]
    metafunc.parametrize(("variation", "mode", "law"), cases)


def fuses(variation):
    """Whether a family streams in passes to both groups."""
    architecture = archs.find(variation.model_type)
    return architecture.fuses and architecture.modes[0] == "group"


@pytest.fixture(autouse=True)
def no_metal(monkeypatch):
    """Families whose kernels are for Metal alone run here all the same."""
    replace_kernels(monkeypatch)
