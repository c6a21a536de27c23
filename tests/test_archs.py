"""The registry: lazy, complete, and helpful about what it does not know."""

from importlib.metadata import EntryPoint

import pytest

from mlx_simul import InvalidOptionError, UnknownArchitectureError, archs


@pytest.fixture
def registry(monkeypatch):
    """A registry that a test may add to."""
    monkeypatch.setattr(archs, "_registry", dict(archs._registry))
    return archs


@pytest.fixture
def plug_ins(monkeypatch):
    """Installs plug-ins for one test."""

    def install(**targets):
        points = [EntryPoint(n, t, archs.ENTRY_POINT_GROUP) for n, t in targets.items()]
        monkeypatch.setattr(archs, "entry_points", lambda group: points)
        archs._plug_ins.cache_clear()

    yield install
    archs._plug_ins.cache_clear()


@pytest.mark.parametrize("model_type", archs.registered_types())
def test_every_entry_leads_to_its_architecture(model_type):
    architecture = archs.find(model_type)
    assert architecture.model_type == model_type
    assert architecture.verified_against


def test_types_that_mlx_lm_runs_as_a_registered_one_stream_too():
    assert archs.find("iquestcoder") is archs.find("llama")
    assert "mistral" not in archs.remapped_types()


def test_an_unknown_type_is_told_what_there_is_and_how_to_add_it():
    with pytest.raises(UnknownArchitectureError) as caught:
        archs.find("perceiver")
    for part in ("'perceiver'", "qwen2", "llama", "mistral", "CONTRIBUTING.md", "mlx_simul.archs"):
        assert part in str(caught.value)


def test_a_type_is_registered_once(registry):
    registry.register("mine", "mlx_simul.archs.llama:LLAMA")
    assert registry.find("mine") is registry.find("llama")
    with pytest.raises(InvalidOptionError, match="registered already"):
        registry.register("mine", "mlx_simul.archs.qwen2:QWEN2")
    with pytest.raises(InvalidOptionError, match="module:name"):
        registry.register("other", "mlx_simul.archs.llama")


def test_plug_ins_are_found(plug_ins):
    plug_ins(theirs="mlx_simul.archs.llama:LLAMA")
    assert archs.find("theirs") is archs.find("llama")
    assert "theirs" in archs.registered_types()


def test_a_plug_in_must_not_replace_a_family(plug_ins):
    plug_ins(llama="elsewhere:LLAMA")
    with pytest.raises(InvalidOptionError, match="uninstall"):
        archs.find("llama")


def test_a_failing_import_is_not_swallowed(plug_ins):
    plug_ins(broken="no_such_package.module:NAME")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        archs.find("broken")
