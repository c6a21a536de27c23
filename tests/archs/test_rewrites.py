"""The classes over mlx-lm's read every kind of checkpoint, and convert it without loss."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import MODEL_REMAPPING, save_model
from tiny_checkpoints import GOLDEN
from tiny_configs import CONFIGS, full_config
from tiny_models import fresh_model
from without_metal import replace_kernels

from mlx_simul import archs
from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.archs.rewrites import HOMES
from mlx_simul.archs.rewrites.weights import Weights
from mlx_simul.checkpoints import checkpoint
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.loading import load_folder

CASES = [
    pytest.param(model_type, name, id=f"{model_type}-{name}")
    for model_type in sorted(HOMES)
    for name in CONFIGS[model_type]
]
TOKENS = mx.array([[7, 3, 11, 2, 60, 41, 5, 23, 90, 1, 17, 8]])


def translated_config(model_type: str, name: str) -> dict[str, Any]:
    config = full_config(model_type, name)
    return config | overrides_for_mlx_lm(config)


def our_model(model_type: str, name: str) -> Any:
    mx.random.seed(0)
    return fresh_model(model_type, translated_config(model_type, name))


def stock_model(model_type: str, name: str) -> Any:
    module = import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")
    mx.random.seed(1)
    return module.Model(module.ModelArgs.from_dict(translated_config(model_type, name)))


def parameters(model: nn.Module) -> Weights:
    return dict(tree_flatten(model.parameters()))  # pyright: ignore


def sanitized(model: Any, weights: Weights) -> Weights:
    """What the model makes of a checkpoint with these weights."""
    return model.sanitize(dict(weights)) if hasattr(type(model), "sanitize") else weights


def changed(model: Any, weights: Weights) -> set[str]:
    """Names of those weights that the model does not take as they are."""
    found = sanitized(model, weights)
    return {
        name
        for name, weight in weights.items()
        if name not in found or not mx.array_equal(found[name], weight)
    }


def quantise(model: nn.Module) -> None:
    def fits(path: str, module: Any) -> bool:
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0

    nn.quantize(model, group_size=32, bits=4, class_predicate=fits)


@pytest.mark.parametrize("is_quantised", [False, True])
@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_own_weights_are_taken_as_they_are(model_type: str, name: str, is_quantised: bool):
    model = our_model(model_type, name)
    if is_quantised:
        quantise(model)
    weights = parameters(model)
    assert not changed(model, weights)
    assert sanitized(model, weights).keys() == weights.keys()


@pytest.mark.parametrize("is_quantised", [False, True])
@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_weights_of_stock_mlx_lm_are_taken_as_they_are(
    model_type: str, name: str, is_quantised: bool
):
    ours, stock = our_model(model_type, name), stock_model(model_type, name)
    if is_quantised:
        quantise(ours)
        quantise(stock)
    weights = parameters(stock)
    assert not changed(ours, weights)
    assert sanitized(ours, weights).keys() == parameters(ours).keys()


def test_what_takes_weights_otherwise_shows():
    class Permuting(archs.find("gpt_bigcode").classes[0]):
        def sanitize(self, weights: Weights) -> Weights:
            return {k: w[::-1] if ".c_attn." in k else w for k, w in weights.items()}

    model = our_model("gpt_bigcode", "multi-head")
    weights = parameters(model)
    model.__class__ = Permuting
    assert changed(model, weights) == {name for name in weights if ".c_attn." in name}


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_a_converted_folder_computes_the_same(
    model_type: str, name: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replace_kernels(monkeypatch)
    model = our_model(model_type, name)
    # Nothing else of a tokenizer matters, and transformers 5.23 cannot look for one beside a config
    # of a type that it does not know, with YaRN or LongRoPE.
    monkeypatch.setattr(checkpoint, "_folder_tokenizer", lambda *_: tokenizer)
    source = folder_of(model, full_config(model_type, name), tmp_path / "source")
    wanted = logits_of(model)
    assert mx.array_equal(logits(source), wanted)
    assert mx.array_equal(logits(convert(source, tmp_path / "target")), wanted)


def test_what_corrects_the_choice_of_experts_is_not_cast(tmp_path: Path):
    model = our_model("ernie4_5_moe", "dense-first")
    source = folder_of(model, full_config("ernie4_5_moe", "dense-first"), tmp_path / "source")
    cast, _ = load_folder(convert(source, tmp_path / "target", dtype="bfloat16"))
    kept = {name for name, weight in parameters(cast).items() if weight.dtype == mx.float32}
    assert kept == {"model.layers.1.mlp.e_score_correction_bias"}


def folder_of(model: nn.Module, config: dict[str, Any], folder: Path) -> Path:
    """A checkpoint with a model's own weights."""
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    return folder


def logits(folder: Path) -> mx.array:
    return logits_of(load_folder(folder)[0])


def logits_of(model: Any) -> mx.array:
    return model(TOKENS, cache=make_prompt_cache(model))


def test_logits_of_tied_minicpm_are_scaled_as_those_of_an_untied_one():
    tied = our_model("minicpm", "tied")
    config = {**translated_config("minicpm", "tied"), "tie_word_embeddings": False}
    untied = fresh_model("minicpm", config)
    weights = sanitized(untied, parameters(tied))
    untied.load_weights(list(weights.items()))
    assert mx.allclose(logits_of(tied), logits_of(untied), rtol=0, atol=1e-5)
    assert sanitized(tied, weights).keys() == parameters(tied).keys()


@pytest.mark.parametrize("model_type", ["minicpm", "minicpm3", "phi3", "phimoe"])
def test_longrope_takes_the_short_factors_alone(model_type: str):
    def logits_with(**entries: Any) -> mx.array:
        config = translated_config(model_type, "longrope")
        config["rope_scaling"] = config["rope_scaling"] | entries
        mx.random.seed(0)
        return logits_of(fresh_model(model_type, config))

    scaling = translated_config(model_type, "longrope")["rope_scaling"]
    doubled = [2 * factor for factor in scaling["long_factor"]]
    wanted = logits_with()
    assert mx.array_equal(logits_with(long_factor=doubled, long_mscale=3.0), wanted)
    assert not mx.allclose(logits_with(short_factor=doubled), wanted, atol=1e-3)


def test_one_rope_for_all_layers_leaves_the_other_default_alone():
    full, sliding = ({"rope_type": "default", "rope_theta": theta} for theta in (1000.0, 100.0))
    one = overrides_for_mlx_lm({"rope_parameters": {"full_attention": full}})
    two = {"full_attention": full, "sliding_attention": sliding}
    assert one == {"rope_theta": 1000.0, "rope_scaling": None}
    assert overrides_for_mlx_lm({"rope_parameters": two}) == {**one, "rope_local_base_freq": 100.0}
