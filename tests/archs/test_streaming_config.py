"""What a checkpoint says about how it was trained to stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from tiny_models import first_of, tiny_model

from mlx_simul import SimulWarning, archs
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import InvalidOptionError
from mlx_simul.training.options import LayoutOptions
from mlx_simul.training.prepare import layout_config

COUNTS = st.integers(0, 10**6)
LATENCIES = st.lists(st.integers(1, 99) | st.just("whole"), min_size=1)
TEXTS = st.text()
ENTRIES = {
    "mode": st.sampled_from(["auto", "group", "reencode", "interleaved"]),
    "target_start": COUNTS | st.sampled_from(["follow", "auto"]),
    "target_starts": st.tuples(COUNTS, COUNTS).map(sorted),
    "wait_k": LATENCIES,
    "instruction": TEXTS,
    "source_language": TEXTS,
    "target_language": TEXTS,
    "frame": st.sampled_from(["auto", "chat", "few-shot"]),
    "max_tokens_per_word": st.integers(1, 99),
    "gpe_compat": st.booleans(),
    "alignment_heads": st.lists(st.lists(COUNTS, min_size=2, max_size=2), min_size=1),
    "translates": st.lists(st.text(min_size=1), min_size=2, max_size=2),
}
STORED = st.fixed_dictionaries({}, optional=ENTRIES)


@given(STORED)
def test_what_is_stored_comes_back(stored):
    config = StreamingConfig.from_json(json.loads(json.dumps(stored)))
    assert config.to_json() == stored
    assert StreamingConfig.from_json(config.to_json()) == config
    assert hash(config) == hash(StreamingConfig.from_json(stored))


@given(STORED, STORED)
def test_two_are_joined_as_dictionaries_are(one, other):
    joined = StreamingConfig.from_json(one) | StreamingConfig.from_json(other)
    assert joined.to_json() == one | other


def test_unknown_entries_are_kept_and_said():
    stored = {"target_start": 64, "target_strat": 3, "later": {"a": [1]}}
    with pytest.warns(SimulWarning, match="later, target_strat"):
        config = StreamingConfig.from_json(stored)
    assert config.to_json() == stored
    assert (config | StreamingConfig(mode="group")).to_json() == stored | {"mode": "group"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "batch"),
        ("mode", ["group"]),
        ("target_start", -1),
        ("target_start", True),
        ("target_start", "64"),
        ("target_start", 6.4),
        ("target_starts", [3]),
        ("target_starts", [4, 3]),
        ("wait_k", []),
        ("wait_k", [0]),
        ("wait_k", "whole"),
        ("instruction", 5),
        ("source_language", ["French"]),
        ("target_language", {}),
        ("frame", "card"),
        ("max_tokens_per_word", 0),
        ("gpe_compat", 1),
        ("alignment_heads", []),
        ("alignment_heads", "0-1"),
        ("alignment_heads", [[0, 1, 2]]),
        ("alignment_heads", [[0, -1]]),
        ("translates", ["English"]),
        ("translates", "ab"),
        ("translates", ["English", ""]),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name, value):
    with pytest.raises(InvalidOptionError, match=rf"mlx_simul\.{name} in config\.json must be"):
        StreamingConfig.from_json({name: value})


@pytest.mark.parametrize("stored", [5, "group", [1], True])
def test_what_is_not_an_object_is_refused(stored):
    with pytest.raises(InvalidOptionError, match="must be an object"):
        StreamingConfig.of_checkpoint({"mlx_simul": stored})


@pytest.mark.parametrize(
    "options",
    [
        LayoutOptions(),
        LayoutOptions(target_start=(16, 64), wait_k=(1, None), source_language="Dutch"),
        LayoutOptions(mode="batch", instruction="Translate", frame="few-shot"),
    ],
)
def test_what_training_writes_is_what_is_read(options):
    config = layout_config(options)
    assert StreamingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_it_is_not_a_part_of_a_model_s_parameters():
    model = tiny_model(first_of("llama"))
    assert isinstance(model.streaming_config, StreamingConfig)
    assert "streaming_config" not in model
    assert not [name for name, _ in tree_flatten(model.parameters()) if "streaming" in name]


def test_a_mapping_that_somebody_gave_a_model_is_read_like_a_file(monkeypatch):
    model = tiny_model(first_of("llama"))
    monkeypatch.setattr(model, "streaming_config", {"target_start": 5})
    assert archs.streaming_config(model) == StreamingConfig(target_start=5)
    monkeypatch.setattr(model, "streaming_config", {"target_start": -5})
    with pytest.raises(InvalidOptionError, match="target_start"):
        archs.streaming_config(model)
