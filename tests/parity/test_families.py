"""A whole pass over every family gives transformers' logits, from the folder that it writes."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_config, load_model
from tiny_checkpoints import GOLDEN
from tiny_configs import CONFIGS, NOT_COMPARED, TRANSFORMERS, WEIGHTS, full_config
from without_metal import replace_kernels

from mlx_simul import prepare
from mlx_simul.checkpoints import checkpoint
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.loading import load_folder, stock_classes
from mlx_simul.errors import ConversionError, InvalidOptionError

pytestmark = pytest.mark.parity

TOKENS = [(7 * i * i + 3 * i + 11) % 96 for i in range(48)]
TOLERANCE = 2e-5
SPECIAL_TOKENS = {"eos_token_id": 2, "bos_token_id": None, "pad_token_id": None}
UNKNOWN = "not in transformers"

# Of these transformers builds the text side alone: the rest would need more packages.
TEXT_ONLY = {"gemma3n"}

VARIATIONS = [
    pytest.param(model_type, name, id=f"{model_type}-{name}")
    for model_type, variations in CONFIGS.items()
    for name in variations
    if model_type not in NOT_COMPARED and f"{model_type}-{name}" not in NOT_COMPARED
]


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_kernels(monkeypatch)


@pytest.fixture
def read_no_tokenizer(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert with the golden cases' tokenizer, in whatever way the config would have it read."""
    monkeypatch.setattr(checkpoint, "_folder_tokenizer", lambda *_: tokenizer)


@pytest.mark.parametrize(("model_type", "name"), VARIATIONS)
def test_whole_pass(model_type: str, name: str, tmp_path: Path, record):
    error = relative_error(model_type, name, tmp_path)
    assert error < TOLERANCE
    record(model_type, "transformers", name, error)


@pytest.mark.parametrize(("model_type", "name"), VARIATIONS)
def test_a_converted_folder_computes_the_same(
    model_type: str, name: str, read_no_tokenizer: None, tmp_path: Path
):
    source = tmp_path / "source"
    write_checkpoint(model_type, name, source)
    shutil.copy(GOLDEN / "tokenizer.json", source)
    converted = convert(source, tmp_path / "target")
    # A turned weight that lies in memory as it was read is multiplied in another order.
    assert difference(logits(converted), logits(source)) < 1e-6


@pytest.mark.parametrize(("model_type", "name"), VARIATIONS)
def test_a_config_that_leaves_out_all_defaults(model_type: str, name: str, tmp_path: Path):
    wanted = write_checkpoint(model_type, name, tmp_path)
    leave_out_defaults(tmp_path / "config.json")
    assert difference(logits(tmp_path), wanted) < TOLERANCE


def test_a_head_that_the_config_ties_by_mistake(tmp_path: Path):
    """transformers uses a head that differs from the embeddings, whatever the config says."""
    from transformers import AutoModelForCausalLM

    write_checkpoint("llama", "tied", tmp_path)
    weights: Any = dict(mx.load(str(tmp_path / "model.safetensors")))
    embeddings = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embeddings[::-1]
    mx.eval(weights)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights, metadata={"format": "pt"})
    import torch

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    assert difference(logits(tmp_path), wanted) < TOLERANCE


@pytest.mark.parametrize(("model_type", "name"), VARIATIONS)
def test_a_folder_that_mlx_lm_loads_is_put_right_or_refused(
    model_type: str, name: str, tmp_path: Path
):
    wanted = write_checkpoint(model_type, name, tmp_path)
    try:
        stock, _ = load_model(tmp_path)
    except (Exception, SystemExit):  # weights or settings that mlx-lm cannot read
        pytest.skip("mlx-lm does not load this folder")
    try:
        prepare(stock, load_config(tmp_path))
    except InvalidOptionError as refusal:
        assert "mlx_simul.load(" in str(refusal)
        return
    got = np.array(stock(mx.array([TOKENS]), cache=make_prompt_cache(stock))[0])
    assert difference(got, wanted) < TOLERANCE


def test_what_mlx_lms_classes_would_drop_is_not_converted(
    read_no_tokenizer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "source"
    write_checkpoint("ernie4_5_moe", "dense-first", source)
    shutil.copy(GOLDEN / "tokenizer.json", source)
    monkeypatch.setattr(checkpoint, "registered_classes", stock_classes)
    with pytest.raises(ConversionError, match="would drop it"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("model_type", "name", "wrong"),
    [
        ("llama", "tied", {"rope_theta": 1001.0}),
        ("qwen2", "windowed", {"sliding_window": 6}),
        ("gemma3_text", "two-ropes", {"query_pre_attn_scalar": 12.1}),
        ("granite", "biased", {"residual_multiplier": 1.001}),
    ],
)
def test_what_is_slightly_wrong_shows(
    model_type: str, name: str, wrong: dict[str, Any], tmp_path: Path
):
    assert relative_error(model_type, name, tmp_path, **wrong) > TOLERANCE


@pytest.mark.parametrize("key", NOT_COMPARED)
def test_what_is_not_compared_cannot_be(key: str):
    known = {*CONFIGS, *(f"{t}-{name}" for t, names in CONFIGS.items() for name in names)}
    assert key in known, "there is no such tiny configuration"
    if NOT_COMPARED[key].startswith(UNKNOWN) and auto_class(key) is not None:
        # News, and not a fault of ours: the summary of the run tells it.
        pytest.skip("transformers has it by now: compare it")


def relative_error(model_type: str, name: str, folder: Path, **overrides: Any) -> float:
    """The largest difference of a whole pass's logits, relative to the largest logit.

    Args:
        model_type: the family.
        name: of the variation.
        folder: an empty one, for the checkpoint.
        overrides: entries that mlx-lm is to see in place of those in the checkpoint's config.
    """
    wanted = write_checkpoint(model_type, name, folder)
    return difference(logits(folder, **overrides), wanted)


def write_checkpoint(model_type: str, name: str, folder: Path) -> np.ndarray:
    """Let transformers write one of a variation, as there are on the hub; its logits (L, V)."""
    import torch

    theirs = torch_model(transformers_config(model_type, name))
    if model_type == "bitnet":
        make_ternary(theirs)
    theirs.save_pretrained(folder)
    rewrite_folder(folder, model_type)
    with torch.no_grad():
        return language_model(theirs)(torch.tensor([TOKENS])).logits[0].numpy()


def logits(folder: Path, **overrides: Any) -> np.ndarray:
    """Ours (L, V), of the model in a folder."""
    ours, _ = load_folder(folder, model_config=overrides)
    # Without caches, layers that share keys and values make their own in mlx-lm (gemma3n).
    return np.array(ours(mx.array([TOKENS]), cache=make_prompt_cache(ours))[0])


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest, relative to what is largest."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def transformers_config(model_type: str, name: str) -> dict[str, Any]:
    """The config of a variation, in transformers' words."""
    config = copy.deepcopy({**SPECIAL_TOKENS, **full_config(model_type, name)})
    if model_type in TEXT_ONLY:
        config = {**SPECIAL_TOKENS, **config["text_config"]}
    return config | TRANSFORMERS.get(model_type, {}) | TRANSFORMERS.get(f"{model_type}-{name}", {})


def leave_out_defaults(path: Path) -> None:
    """Drop from a config.json what transformers would take in its place anyway."""
    from transformers import CONFIG_MAPPING

    def shortened(config: dict[str, Any]) -> dict[str, Any]:
        known = config.get("model_type") in CONFIG_MAPPING
        defaults = CONFIG_MAPPING[config["model_type"]]().to_dict() if known else {}
        kept = {
            name: shortened(value) if name == "text_config" else value
            for name, value in config.items()
            if name == "model_type" or name not in defaults or defaults[name] != value
        }
        return kept

    path.write_text(json.dumps(shortened(json.loads(path.read_text()))))


def auto_class(model_type: str, is_wrapper: bool = False) -> Any:
    """transformers' class that builds a type's model with logits; None if it knows no such type."""
    from transformers.models.auto import modeling_auto as auto

    by_names = [
        (auto.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (auto.AutoModelForImageTextToText, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    ]
    # Of some wrappers the class for causal language models writes the text side alone.
    ordered = reversed(by_names) if is_wrapper else by_names
    return next((found for found, names in ordered if model_type in names), None)


def torch_model(config: dict[str, Any]) -> Any:
    """transformers' model for a config, with random weights.

    Raises:
        LookupError: if transformers has none.
    """
    import torch
    from transformers import CONFIG_MAPPING

    model_type = config.pop("model_type")
    auto = auto_class(model_type, is_wrapper="vision_config" in config)
    if auto is None:
        raise LookupError(f"{model_type!r} is {UNKNOWN}: list it in NOT_COMPARED.")
    torch.manual_seed(0)
    model = auto.from_config(CONFIG_MAPPING[model_type](**config), dtype=torch.float32)
    # Fresh biases are zero and fresh norms one, which would hide a mistake in either; what decides
    # which experts are chosen is a buffer.
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("_bias")]
    with torch.no_grad():
        for parameter in (*model.parameters(), *biases):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def language_model(model: Any) -> Any:
    """What gives the logits of a text: of a wrapper around a whole language model, that model.

    transformers 5.24.0 cannot run the wrapper of Llama 4: it asks its language model for images.
    """
    inner = getattr(model, "language_model", None)
    return model if getattr(inner, "lm_head", None) is None else inner


def rewrite_folder(folder: Path, model_type: str) -> None:
    """Make of transformers' folder one as there are on the hub."""
    weights, path = folder / "model.safetensors", folder / "config.json"
    config = json.loads(path.read_text())
    if model_type in TEXT_ONLY:
        config = {"text_config": config}
    # transformers calls some types otherwise.
    path.write_text(json.dumps({**config, "model_type": model_type}))
    if model_type in TEXT_ONLY:
        rename_weights(weights, {"model.": ("model.language_model.",)})
    if model_type == "bitnet":
        pack_ternary(weights)
    rename_weights(weights, WEIGHTS.get(model_type, {}))


def rename_weights(path: Path, names: Mapping[str, tuple[str, ...]]) -> None:
    """Replace parts of the names of weights, each by any number of others."""
    renamed = {}
    for name, weight in mx.load(str(path)).items():
        found = [name]
        for theirs, ours in names.items():
            found = [
                old.replace(theirs, new)
                for old in found
                for new in (ours if theirs in old else (theirs,))
            ]
        renamed |= dict.fromkeys(found, weight)
    mx.eval(renamed)
    mx.save_safetensors(str(path), renamed)


def make_ternary(model: Any) -> None:
    """Let the weights of the layers be -0.3, 0 and 0.3."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj." in name:
                weight.copy_(0.3 * torch.randint(-1, 2, weight.shape))


def pack_ternary(path: Path) -> None:
    """Put four rows of such weights into one of bytes, as BitNet's checkpoints have them."""
    weights: Any = mx.load(str(path))
    for name in [name for name in weights if "_proj." in name]:
        scale = mx.abs(weights[name]).max()
        digits = (mx.round(weights[name] / scale) + 1).astype(mx.uint8)
        rows = digits.reshape(4, -1, digits.shape[1])
        weights[name] = rows[0] | rows[1] << 2 | rows[2] << 4 | rows[3] << 6
        weights[name.replace("weight", "weight_scale")] = scale[None]
    mx.eval(weights)
    mx.save_safetensors(str(path), weights)
