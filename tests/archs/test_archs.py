"""The registry: lazy, complete, and helpful about what it does not know."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
import pytest
from repository import ROOT
from tiny_configs import CONFIGS, NOT_COMPARED
from tiny_models import first_of, tiny_model

from mlx_simul import archs
from mlx_simul.archs import registry as home
from mlx_simul.archs.base import Architecture
from mlx_simul.cache.positions import rotate
from mlx_simul.errors import InvalidOptionError, UnknownArchitectureError
from mlx_simul.machine import plug_ins as plug_in_module
from mlx_simul.testing import LAWS_OF_MODE, TOLERANCES, relative_error

MINE = Architecture("mine")


@pytest.fixture
def registry(monkeypatch):
    """A registry that a test may add to."""
    monkeypatch.setattr(home, "_added", {})
    return archs


@pytest.fixture
def plug_ins(monkeypatch):
    """Installs plug-ins for one test."""

    def install(**targets):
        points = [EntryPoint(n, t, archs.ENTRY_POINT_GROUP) for n, t in targets.items()]
        monkeypatch.setattr(plug_in_module, "entry_points", lambda group: points)
        plug_in_module._plug_ins.cache_clear()

    yield install
    plug_in_module._plug_ins.cache_clear()


@pytest.mark.parametrize("model_type", archs.registered_types())
def test_every_entry_leads_to_its_architecture(model_type):
    architecture = archs.find(model_type)
    assert architecture.model_type == model_type
    model_class, args_class = architecture.classes
    assert callable(args_class.from_dict)
    assert issubclass(model_class, nn.Module)


def mlx_lm_types():
    """The modules of mlx-lm that hold a model; some cannot be imported, so they are read."""
    modules = Path(mlx_lm.models.__file__).parent.glob("*.py")
    return {path.stem for path in modules if "\nclass Model(" in path.read_text("utf-8")}


def test_every_model_of_mlx_lm_streams_or_is_left_out_for_a_reason():
    """A new release of mlx-lm with a new family fails here."""
    known = set(archs.registered_types()) | archs.LEFT_OUT.keys()
    assert mlx_lm_types() - known == set()


def test_nothing_is_left_out_that_streams_or_is_not_there():
    assert archs.LEFT_OUT.keys() <= mlx_lm_types()
    assert not archs.LEFT_OUT.keys() & set(archs.registered_types())


@pytest.mark.parametrize("model_type", sorted(archs.LEFT_OUT))
def test_what_is_left_out_says_why(model_type):
    with pytest.raises(UnknownArchitectureError) as caught:
        archs.find(model_type)
    assert archs.LEFT_OUT[model_type] in str(caught.value)


def test_every_registered_type_has_tiny_models():
    assert CONFIGS.keys() - archs.LEFT_OUT.keys() == set(archs.registered_types())


def test_every_family_has_an_environment_in_tox():
    """Each stands for the types that begin with its name."""
    text = (ROOT / "tox.ini").read_text("utf-8")
    (header,) = re.findall(r"\[testenv:\{(afm7,[^}]*)\}\]", text)
    names = header.split(",")
    types = archs.registered_types()
    assert {t for t in types if not t.startswith(tuple(names))} == set()
    assert {n for n in names if not any(t.startswith(n) for t in types)} == set()


def n_laws(architecture, mode):
    """How many laws apply: what cannot be moved keeps none of those about moving, and what takes no
    masks token by token none about trees.
    """
    everything = len(LAWS_OF_MODE[mode])
    if mode != "group":
        return everything
    # In mistral3 the text side says so.
    everything -= not (architecture.fuses or architecture.model_type == "mistral3")
    if architecture.positions_fixed_because:
        return everything - 2
    # Of these no tiny model computes the same at every place.
    return everything - (architecture.model_type in {"hunyuan_v1_dense", "iquestloopcoder"})


def test_what_was_measured_is_of_the_types_and_modes_that_there_are():
    measured = archs.verified()
    assert measured.keys() == set(archs.registered_types())
    for model_type, figures in measured.items():
        modes = archs.find(model_type).modes
        assert figures.keys() - {"transformers"} == set(modes)
        for mode in modes:
            assert figures[mode]["laws"] == n_laws(archs.find(model_type), mode)
            assert figures[mode]["error"] < TOLERANCES["float32"]


def test_what_is_compared_with_transformers_is_what_can_be():
    compared = {t for t, figures in archs.verified().items() if "transformers" in figures}
    wholly_left_out = NOT_COMPARED.keys() & CONFIGS.keys()
    assert compared == set(archs.registered_types()) - wholly_left_out


def test_the_page_of_architectures_is_up_to_date():
    tool = ROOT / "tools" / "architectures.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model_type", archs.BUILT_IN["reencoded"])
def test_groups_are_refused_with_the_reason_where_they_cannot_be(model_type):
    architecture = archs.find(model_type)
    with pytest.raises(InvalidOptionError) as caught:
        architecture.require("group")
    assert architecture.not_in_groups_because in str(caught.value)
    architecture.require("reencode")


def test_an_unknown_mode_is_told_which_there_are():
    with pytest.raises(InvalidOptionError, match="'group', 'reencode', 'interleaved'"):
        archs.find("llama").require("batch")


def test_types_that_mlx_lm_runs_as_a_registered_one_stream_too():
    assert archs.find("iquestcoder") is archs.find("llama")
    assert "mistral" not in archs.remapped_types()


def test_an_unknown_type_is_told_what_there_is_and_how_to_add_it():
    with pytest.raises(UnknownArchitectureError) as caught:
        archs.find("perceiver")
    for part in ("'perceiver'", "qwen2", "llama", "mistral", "CONTRIBUTING.md", "mlx_simul.archs"):
        assert part in str(caught.value)


def test_a_type_is_registered_once(registry):
    registry.register("mine", f"{__name__}:MINE")
    assert registry.find("mine") is MINE
    with pytest.raises(InvalidOptionError, match="registered already"):
        registry.register("mine", "mlx_simul.archs.windows:ARCHITECTURES")
    with pytest.raises(InvalidOptionError, match="module:name"):
        registry.register("other", "mlx_simul.archs.stock")


def test_plug_ins_are_found(plug_ins):
    plug_ins(theirs=f"{__name__}:MINE")
    assert archs.find("theirs") is MINE
    assert "theirs" in archs.registered_types()


def test_a_plug_in_must_not_replace_a_family(plug_ins):
    plug_ins(llama="elsewhere:LLAMA")
    with pytest.raises(InvalidOptionError, match="uninstall"):
        archs.find("llama")


def test_a_failing_import_is_not_swallowed(plug_ins):
    plug_ins(broken="no_such_package.module:NAME")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        archs.find("broken")


@pytest.mark.parametrize("model_type", ["hunyuan", "hunyuan_v1_dense"])
def test_keys_normalised_after_rope_are_moved_as_if_normalised_there(model_type):
    """No law sees it: with weights after RoPE, hidden states depend on the place itself."""
    layer = tiny_model(first_of(model_type)).layers[0]
    attention = layer.self_attn

    def cached(offset):
        return attention.key_layernorm(attention.rope(keys, offset=offset))

    keys = mx.random.normal((1, 2, 5, attention.key_layernorm.weight.size), key=mx.random.key(1))
    rope = archs.find(model_type).rope(layer)
    wanted = cached(9)
    assert relative_error(rotate(rope, cached(3), 6), wanted) < 1e-5
    assert relative_error(rotate(attention.rope, cached(3), 6), wanted) > 1e-3
