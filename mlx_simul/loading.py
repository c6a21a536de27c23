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
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_config, load_model, load_tokenizer

from mlx_simul import archs
from mlx_simul.archs.base import ModelClasses
from mlx_simul.errors import ModelLoadError, SimulError

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

    Returns:
        The model and mlx-lm's tokenizer wrapper, as ``mlx_lm.load`` does.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` does not stream.
    """
    folder = find_folder(path_or_hf_repo, revision)
    model, config = load_folder(folder, lazy=lazy, model_config=model_config)
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
    """RoPE's settings, where mlx-lm's families look for them.

    transformers 5 writes them into ``rope_parameters``, which these families do not read: they
    would run with a default base frequency and no scaling, without a word. Of YaRN's settings they
    ignore ``attention_factor``, and guess the trained length where it is not given.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found = {}
    if "rope_theta" in rope:
        found["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", rope.get("type")) == "yarn":
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
        if rope.get("attention_factor") is not None and rope["factor"] > 1:
            # The factor that mlx-lm computes is 0.1 * mscale * ln(factor) + 1.
            rope["mscale"] = (rope["attention_factor"] - 1) / (0.1 * math.log(rope["factor"]))
            rope["mscale_all_dim"] = 0
    if rope:
        found["rope_scaling"] = rope
    return found


def registered_classes(config: dict[str, Any]) -> ModelClasses:
    """The registry's ``(Model, ModelArgs)`` for a config."""
    return archs.find(config["model_type"]).classes


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


def trained_target_start(model: nn.Module) -> int | str | None:
    """Where the checkpoint's target positions started in training, if its config says so."""
    config: Mapping[str, Any] = getattr(model, "streaming_config", {})
    return config.get("target_start")


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
