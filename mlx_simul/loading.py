"""load: a repository id or a folder in, a model that streams and its tokenizer out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import mlx_simul.before_mlx

import mlx.nn as nn
import mlx_lm.utils
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_config, load_model, load_tokenizer

from mlx_simul import archs
from mlx_simul.archs.base import ModelClasses
from mlx_simul.errors import ModelLoadError, SimulError
from mlx_simul.tryout import try_out

CONFIG_KEY = "mlx_simul"
"""Where a checkpoint's config.json says how it was trained for streaming."""

# Weights, configuration and tokenizer; no code, no pickles.
_HUB_PATTERNS = ["*.json", "*.jsonl", "*.jinja", "*.txt", "tokenizer.model", "model*.safetensors"]


def load(
    path_or_hf_repo: str | PathLike[str],
    *,
    adapter_path: str | PathLike[str] | None = None,
    revision: str | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
    lazy: bool = False,
    allow_unverified: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """Load a model for streaming, through mlx-lm's own loader.

    Quantised, sharded and adapter checkpoints load as they do in mlx-lm; the registry in
    :mod:`mlx_simul.archs` chooses the classes from the config's ``model_type``.

    Args:
        path_or_hf_repo: a folder, or the id of a Hugging Face repository, fetched once.
        adapter_path: a folder with LoRA or DoRA adapters, or fully fine-tuned weights.
        revision: branch, tag or commit of the repository.
        tokenizer_config: extra arguments for the tokenizer.
        model_config: entries that override config.json.
        lazy: leave the weights to be read when they are first used.
        allow_unverified: of a type that is not registered here but known to mlx-lm, try the laws
            on the weights (hundreds of short passes), and load it if they hold.

    Returns:
        The model and mlx-lm's tokenizer wrapper, as ``mlx_lm.load`` does.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` is not registered.
        ValidationError: if it is tried and breaks a law.
    """
    folder = find_folder(path_or_hf_repo, revision)
    with _explained(f"the model in {folder}"):
        is_known = archs.is_registered(str(load_config(folder).get("model_type")))
    try_it_out = allow_unverified and not is_known
    model, config = load_folder(
        folder,
        lazy=lazy,
        model_config=model_config,
        get_model_classes=stock_classes if try_it_out else registered_classes,
    )
    if try_it_out:
        model.streaming_architecture = try_out(model)
    with _explained(f"{CONFIG_KEY!r} in {folder / 'config.json'}"):
        model.streaming_config = dict(config.get(CONFIG_KEY) or {})
    if adapter_path is not None:
        with _explained(f"the adapters in {adapter_path}"):
            model = load_adapters(model, str(adapter_path))
            model.eval()
    with _explained(f"the tokenizer in {folder}"):
        tokenizer = load_tokenizer(
            folder, dict(tokenizer_config or {}), eos_token_ids=config.get("eos_token_id")
        )
        # Without its files transformers makes up a tokenizer that knows no text.
        if not tokenizer.encode("a", add_special_tokens=False):
            raise ValueError("its vocabulary is empty: tokenizer.json is missing")
    return model, tokenizer


def load_folder(
    folder: Path,
    *,
    lazy: bool = False,
    model_config: Mapping[str, Any] | None = None,
    get_model_classes: Callable[[dict[str, Any]], ModelClasses] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model of a folder, without its tokenizer.

    Args:
        folder: config.json and model*.safetensors.
        lazy: leave the weights to be read when they are first used.
        model_config: entries that override config.json.
        get_model_classes: from the config; the registry's by default.

    Returns:
        The model, and its config with all overrides.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` does not stream.
    """
    with _explained(f"the model in {folder}"):
        given = dict(model_config or {})
        overrides = rope_overrides(load_config(folder) | given) | given
        return load_model(
            folder,
            lazy=lazy,
            model_config=overrides,
            get_model_classes=get_model_classes or registered_classes,
        )


def rope_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says in transformers 5's words, where mlx-lm's families look for it.

    They would otherwise run with a default base frequency, without scaling, or windowed in other
    layers, without a word, or not load at all. A nested ``text_config`` is translated as well.
    """
    found = _rope_settings(config) | _layer_kinds(config)
    for ours, theirs in _RENAMED.get(config.get("model_type", ""), {}).items():
        said = {**config, **found}
        if ours not in config and theirs in said:
            found[ours] = said[theirs]
    if isinstance(config.get("text_config"), Mapping):
        found["text_config"] = {**config["text_config"], **rope_overrides(config["text_config"])}
    return found


_RENAMED = {
    "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    "internlm3": {"bias": "mlp_bias", "qkv_bias": "attention_bias"},
    "mellum": {"num_experts": "num_local_experts"},
}
"""By model type: mlx-lm's name for an entry, and transformers 5's."""

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's settings, which transformers 5 keeps in ``rope_parameters``.

    Of YaRN's settings mlx-lm ignores ``attention_factor``, and guesses the trained length where it is
    not given.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling")
    if not given:
        return {}
    found: dict[str, Any] = {}
    if _SLIDING in given:
        found["rope_local_base_freq"] = given[_SLIDING].get("rope_theta")
    if _FULL in given or _SLIDING in given:
        given = given.get(_FULL) or given[_SLIDING]
    rope = dict(given)
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            found[name] = rope.pop(name)
    kind = rope.setdefault("rope_type", rope.get("type", "default"))
    rope["type"] = kind
    if kind == "yarn":
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
        if rope.get("attention_factor") is not None and rope["factor"] > 1:
            # The factor that mlx-lm computes is 0.1 * mscale * ln(factor) + 1.
            rope["mscale"] = (rope["attention_factor"] - 1) / (0.1 * math.log(rope["factor"]))
            rope["mscale_all_dim"] = 0
    is_plain = rope == {"rope_type": "default", "type": "default"}
    return {**found, "rope_scaling": None if is_plain else rope}


def _layer_kinds(config: Mapping[str, Any]) -> dict[str, Any]:
    """``layer_types`` as the pattern, and ``per_layer_config`` as the widths, that a family reads."""
    kinds = config.get("layer_types") or []
    model_type = config.get("model_type")
    found: dict[str, Any] = {}
    if model_type == "exaone4":
        letters = "".join("L" if kind == _SLIDING else "G" for kind in kinds)
        found["sliding_window_pattern"] = letters if "L" in letters else None
    elif model_type in ("cohere2", "gemma3_text") and _FULL in kinds:
        found["sliding_window_pattern"] = kinds.index(_FULL) + 1
    elif model_type == "gemma4_text":
        for i, layer in (config.get("per_layer_config") or {}).items():
            if kinds[int(i)] == _FULL:
                found["global_head_dim"] = layer.get("head_dim", config.get("head_dim"))
                found["num_global_key_value_heads"] = layer.get("num_key_value_heads")
    return found


def registered_classes(config: dict[str, Any]) -> ModelClasses:
    """The registry's ``(Model, ModelArgs)`` for a config."""
    model_type = config["model_type"]
    # mlx-lm 0.32 tells some families apart by the class that the config names.
    by_class = getattr(mlx_lm.utils, "MODEL_ARCHITECTURE_REMAPPING", {})
    for name in config.get("architectures") or ():
        model_type = by_class.get((model_type, name), model_type)
    return archs.find(model_type).classes


def stock_classes(config: dict[str, Any]) -> ModelClasses:
    """mlx-lm's own ``(Model, ModelArgs)`` for a config."""
    return mlx_lm.utils._get_classes(config)


def find_folder(path_or_hf_repo: str | PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint; a repository is fetched, or found in the hub's local cache.

    Raises:
        ModelLoadError: if there is neither such a folder nor such a repository.
    """
    folder = Path(path_or_hf_repo)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelLoadError(
            f"{folder} is a file; give the folder that holds config.json and model*.safetensors "
            "(a GGUF file is converted by `mlx-simul convert` first)."
        )
    try:
        fetched = snapshot_download(
            str(path_or_hf_repo), revision=revision, allow_patterns=_HUB_PATTERNS
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{str(path_or_hf_repo)!r} is no folder here, and the Hugging Face hub did not give "
            f"it: {error}"
        ) from error
    return Path(fetched)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what mlx-lm, safetensors and transformers raise into one error with a way out."""
    try:
        yield
    except SimulError:
        raise
    except KeyError as error:
        raise ModelLoadError(f"{what} cannot be loaded: its config has no {error}.") from error
    except Exception as error:  # a config that does not fit makes mlx-lm raise anything
        raise ModelLoadError(
            f"{what} cannot be loaded: {error}\nIf files are missing or cut short, fetch them "
            "again; `mlx-simul validate` checks a folder piece by piece."
        ) from error
