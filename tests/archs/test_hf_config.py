"""What a config.json leaves out means what it means to transformers, whatever mlx-lm takes."""

from __future__ import annotations

import dataclasses
import json
from pkgutil import iter_modules
from typing import Any

import mlx.core as mx
import mlx_lm.models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.utils import MODEL_REMAPPING, _get_classes
from mlx_lm.utils import load_model as load_with_mlx_lm
from tiny_checkpoints import golden_config, golden_folder, golden_weights
from transformers import CONFIG_MAPPING

from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.loading import load_folder

MODULES = {found.name for found in iter_modules(mlx_lm.models.__path__)} - {"olmo"}
TYPES = sorted((MODULES | MODEL_REMAPPING.keys()) & set(CONFIG_MAPPING.keys()))
"""All that both know; mlx-lm's ``olmo`` cannot be imported without a package of its own."""

IN_OTHER_WORDS = {
    ("exaone4", "sliding_window_pattern"): "a letter for each layer",
    ("granitemoehybrid", "layer_types"): "other names for the same kinds",
    ("bailing_moe_v3", "num_experts_per_tok"): "renamed",
}
"""Differences that stay, and why."""

NO_SUCH_MODEL = {"pixtral": "transformers' config of that name is that of the vision tower"}


def sparse_config(model_type: str) -> dict[str, Any]:
    """A config.json that says nothing but the type."""
    meaning = CONFIG_MAPPING[model_type]()
    text = getattr(meaning, "text_config", None)
    nested = {} if text is None else {"text_config": {"model_type": text.model_type}}
    return {"model_type": model_type, **nested}


def arguments(model_type: str) -> dict[str, dataclasses.Field[Any]]:
    return {
        field.name: field
        for field in dataclasses.fields(_get_classes({"model_type": model_type})[1])
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def seen_by_mlx_lm(model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    """Value by argument, as mlx-lm takes them from a config: the entry, else its own default."""
    fields = arguments(model_type)
    return {name: config.get(name, default_of(field)) for name, field in fields.items()}


def differences(model_type: str, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where mlx-lm takes another value than transformers, by argument."""
    theirs = CONFIG_MAPPING[model_type]().to_dict()
    found = {}
    for name, ours in seen_by_mlx_lm(model_type, config).items():
        # RoPE's settings have other places in transformers: see the law below.
        if name in theirs and name not in ("model_type", "rope_scaling", "rope_parameters"):
            both = (ours, theirs[name])
            if not isinstance(theirs[name], dict) and both[0] != both[1]:
                found[name] = both
    return found


@pytest.mark.parametrize("model_type", [t for t in TYPES if t not in NO_SUCH_MODEL])
def test_every_default_is_transformers(model_type: str):
    config = sparse_config(model_type)
    left = differences(model_type, config | overrides_for_mlx_lm(config))
    assert {(model_type, name) for name in left} <= IN_OTHER_WORDS.keys(), left


def test_the_defaults_do_differ():
    """Else the test above could not fail."""
    n = sum(len(differences(t, sparse_config(t))) for t in TYPES if t not in NO_SUCH_MODEL)
    assert n > 300
    assert differences("llama", {"model_type": "llama"})["tie_word_embeddings"] == (True, False)
    assert differences("phimoe", {"model_type": "phimoe"})["rms_norm_eps"] == (1e-6, 1e-5)
    assert differences("mistral", {"model_type": "mistral"})["sliding_window"] == (None, 4096)


@pytest.mark.parametrize("model_type", [t for t in TYPES if t not in NO_SUCH_MODEL])
def test_the_base_frequency_is_transformers(model_type: str):
    config = sparse_config(model_type)
    rope = getattr(CONFIG_MAPPING[model_type](), "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    fields = arguments(model_type)
    seen = seen_by_mlx_lm(model_type, config | overrides_for_mlx_lm(config))
    for name in {"rope_theta", "partial_rotary_factor"} & rope.keys() & fields.keys():
        # Families that read rope_parameters themselves, or ask for the entry, cannot miss it.
        if seen[name] not in (None, dataclasses.MISSING) and "rope_parameters" not in fields:
            assert seen[name] == rope[name], name


@pytest.mark.parametrize("model_type", [t for t in TYPES if "text_config" in sparse_config(t)])
def test_the_text_side_of_a_wrapper_has_them_too(model_type: str):
    config = sparse_config(model_type)
    text = overrides_for_mlx_lm(config)["text_config"]
    theirs = CONFIG_MAPPING[model_type](text_config=config["text_config"]).text_config
    for name in ("hidden_size", "num_hidden_layers", "rms_norm_eps", "tie_word_embeddings"):
        if hasattr(theirs, name):
            assert text[name] == getattr(theirs, name)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tie_word_embeddings": st.booleans(),
            "rms_norm_eps": st.sampled_from([1e-5, 1e-6]),
            "num_key_value_heads": st.sampled_from([1, 2, 4, None]),
            "head_dim": st.sampled_from([8, 16, None]),
            "rope_theta": st.sampled_from([1e4, 1e6]),
            "attention_bias": st.booleans(),
        },
    )
)
def test_what_a_config_says_stands(said: dict[str, Any]):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, **said}
    seen = config | overrides_for_mlx_lm(config)
    for name, value in said.items():
        assert value is None or seen[name] == value
    assert seen["head_dim"] == (said.get("head_dim") or 16)
    assert seen["num_key_value_heads"] == (said.get("num_key_value_heads") or 4)


def test_a_type_that_transformers_does_not_know_gets_none():
    assert overrides_for_mlx_lm({"model_type": "spark2_5"}) == {}


def test_a_config_that_transformers_refuses_is_told_of(caplog):
    config = {"model_type": "llama", "hidden_size": "wide"}
    assert "tie_word_embeddings" not in overrides_for_mlx_lm(config)
    assert "'llama'" in caplog.text and "mlx-lm's defaults" in caplog.text


def untied_folder(path, family: str, drop: str):
    """A golden checkpoint with a head of its own, and a config.json without an entry."""
    folder = golden_folder(path, family)
    weights = golden_weights(family)
    head = np.random.default_rng(0).normal(size=weights["model.embed_tokens.weight"].shape)
    weights = {k: mx.array(v) for k, v in weights.items()}
    weights["lm_head.weight"] = mx.array(head.astype(np.float32))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = golden_config(family) | {"tie_word_embeddings": False}
    del config[drop]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("tie", ["left out", True])
def test_a_head_in_the_files_is_used_and_kept(tmp_path, tie):
    folder = untied_folder(tmp_path / "source", "llama", "tie_word_embeddings")
    if tie != "left out":
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": tie}))
    wanted = mx.load(str(folder / "model.safetensors"))["lm_head.weight"]
    model, _ = load_folder(folder)
    assert mx.array_equal(model.lm_head.weight, wanted).item()
    # Plain mlx-lm would drop it from the source, but must not from what we write.
    assert "lm_head" not in load_with_mlx_lm(folder)[0]
    converted = convert(folder, tmp_path / "target")
    again = dict(tree_flatten(load_with_mlx_lm(converted)[0].parameters()))
    assert mx.array_equal(again["lm_head.weight"], wanted).item()
