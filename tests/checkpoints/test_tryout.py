"""Models of types that nobody declared: loaded if the laws hold on them, refused by name if not."""

import json
import sys
from types import ModuleType

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gpt2, llama, mamba
from streams import TEXT, run, writes
from tiny_checkpoints import golden_folder
from tiny_configs.base import TINY

import mlx_simul
from mlx_simul import archs
from mlx_simul.errors import ModelLoadError, UnknownArchitectureError, ValidationError


class SeesTheFuture(llama.Model):
    """Its caches' masks are not asked for."""

    def __call__(self, inputs, cache=None):
        for one in cache or []:
            one.make_mask = lambda *_, **__: None
        return super().__call__(inputs, cache)


class TouchesItsCache(llama.Model):
    """Wants more of a cache than mlx-lm's protocol has."""

    def __call__(self, inputs, cache=None):
        if cache is not None and cache[0].offset:
            cache[0].keys = cache[0].keys[:]
        return super().__call__(inputs, cache)


@pytest.fixture
def folder_of(monkeypatch, tmp_path):
    """Makes the folder of a checkpoint whose type mlx-lm knows and this library does not."""

    def make(module, model_class=None, **config):
        stranger = ModuleType("mlx_lm.models.stranger")
        stranger.Model, stranger.ModelArgs = model_class or module.Model, module.ModelArgs
        monkeypatch.setitem(sys.modules, "mlx_lm.models.stranger", stranger)
        folder = golden_folder(tmp_path / "stranger", "qwen2")
        config = {**TINY, "vocab_size": 1024, "model_type": "stranger", **config}
        mx.random.seed(1)
        model = stranger.Model(stranger.ModelArgs.from_dict(config))
        weights = {
            name: value + 0.1 * mx.random.normal(value.shape)
            for name, value in tree_flatten(model.parameters())
        }
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
        (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
        return folder

    return make


GPT2 = {"n_ctx": 256, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}
GPT2 |= {"layer_norm_epsilon": 1e-5, "num_key_value_heads": 4}
MAMBA = {"intermediate_size": 64, "state_size": 8, "conv_kernel": 4, "use_bias": False}
MAMBA |= {"use_conv_bias": True, "time_step_rank": 4}


@pytest.mark.parametrize(
    ("module", "config", "mode", "moves"),
    [
        pytest.param(llama, {}, "group", True, id="like most"),
        pytest.param(gpt2, GPT2, "group", False, id="no RoPE where most have it"),
        pytest.param(mamba, MAMBA, "reencode", None, id="recurrent"),
    ],
)
def test_a_stranger_streams_in_the_way_its_laws_allow(folder_of, module, config, mode, moves):
    folder = folder_of(module, **config)
    with pytest.raises(UnknownArchitectureError, match="allow_unverified=True"):
        mlx_simul.load(folder)
    model, tokenizer = mlx_simul.load(folder, allow_unverified=True)
    architecture = archs.of(model)
    assert architecture.modes[0] == mode
    if moves is not None:
        assert (architecture.positions_fixed_because is None) == moves
    start = {} if moves is None else {"target_start": 64}
    assert writes(run(model, tokenizer, TEXT, **start))


def test_a_stranger_that_breaks_laws_is_refused_by_their_names(folder_of):
    with pytest.raises(ValidationError) as caught:
        mlx_simul.load(folder_of(llama, SeesTheFuture), allow_unverified=True)
    assert "any_chunking is broken" in str(caught.value)
    assert "* again: " in str(caught.value)


def test_a_stranger_that_stumbles_over_our_caches_is_encoded_again(folder_of):
    model, _ = mlx_simul.load(folder_of(llama, TouchesItsCache), allow_unverified=True)
    assert archs.of(model).modes[0] == "reencode"
    assert "AttributeError" in archs.of(model).not_in_groups_because


def test_of_a_registered_type_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_simul.checkpoints.tryout.try_out", lambda model: pytest.fail("tried"))
    folder = golden_folder(tmp_path / "known", "qwen2")
    model, _ = mlx_simul.load(folder, allow_unverified=True)
    assert archs.of(model) is archs.find("qwen2")


def test_a_type_that_mlx_lm_does_not_know_either_is_refused(tmp_path):
    folder = golden_folder(tmp_path / "unheard", "qwen2")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "unheard_of"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="unheard_of"):
        mlx_simul.load(folder, allow_unverified=True)


def test_a_module_that_ends_the_process_only_ends_the_loading(tmp_path):
    folder = golden_folder(tmp_path / "olmo", "qwen2")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "olmo"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="cannot be imported here"):
        mlx_simul.load(folder, allow_unverified=True)
