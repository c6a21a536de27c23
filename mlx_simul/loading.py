"""load: a repository id or a folder in, a model that streams and its tokenizer out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import mlx_simul.before_mlx

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import (
    dequantize_model,
    load_adapters,
    load_config,
    load_model,
    load_tokenizer,
)
from transformers import CONFIG_MAPPING, PretrainedConfig

from mlx_simul import archs
from mlx_simul.archs.base import Architecture, ModelClasses
from mlx_simul.archs.prepare import prepare_as
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.configs import overrides_for_mlx_lm
from mlx_simul.errors import ModelLoadError, SimulError
from mlx_simul.tryout import try_out

_logger = logging.getLogger(__name__)

DEFAULT_MODEL = Path(__file__).parent / "models" / "en-fr"
"""The model that comes with the package: English to French (docs/default-model.md)."""

# Weights, configuration and tokenizer; no code, no pickles.
_HUB_PATTERNS = ["*.json", "*.jsonl", "*.jinja", "*.txt", "tokenizer.model", "model*.safetensors"]


def load(
    path_or_hf_repo: str | PathLike[str] | None = None,
    *,
    adapter_path: str | PathLike[str] | None = None,
    revision: str | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
    lazy: bool = False,
    dequantize: bool | None = None,
    allow_unverified: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """Load a model for streaming, through mlx-lm's own loader.

    Quantised, sharded and adapter checkpoints load as they do in mlx-lm; the registry in
    :mod:`mlx_simul.archs` chooses the classes from the config's ``model_type``. A model that cannot
    keep source and target apart is loaded with a line in the log that says why.

    Args:
        path_or_hf_repo: a folder, or the id of a Hugging Face repository, fetched once; by default
            the model that comes with the package, which translates English to French.
        adapter_path: a folder with LoRA or DoRA adapters, or fully fine-tuned weights.
        revision: branch, tag or commit of the repository.
        tokenizer_config: extra arguments for the tokenizer.
        model_config: entries that override config.json.
        lazy: leave the weights to be read when they are first used.
        dequantize: turn quantised weights into float32, which a CPU multiplies several times
            faster and which takes 4 (of 8 bits) to 8 (of 4) times the memory. By default only of
            the model that comes with the package, on a CPU.
        allow_unverified: of a type that is not registered here but known to mlx-lm, try the laws
            on the weights (hundreds of short passes), and load it if they hold.

    Returns:
        The model and mlx-lm's tokenizer wrapper, as ``mlx_lm.load`` does.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` is not registered.
        ValidationError: if it is tried and breaks a law.
    """
    folder = _packaged() if path_or_hf_repo is None else find_folder(path_or_hf_repo, revision)
    if dequantize is None:
        is_packaged = folder.resolve() == DEFAULT_MODEL.resolve()
        dequantize = is_packaged and mx.default_device() == mx.Device(mx.cpu)
    with _explained(f"the model in {folder}"):
        config = load_config(folder) | dict(model_config or {})
        is_known = archs.is_registered(str(config.get("model_type")))
    try_it_out = allow_unverified and not is_known
    model, config = load_folder(
        folder,
        lazy=lazy,
        model_config=model_config,
        dequantize=dequantize,
        get_model_classes=stock_classes if try_it_out else None,
    )
    if try_it_out:
        prepare_as(model, try_out(model), config)
    architecture = archs.of(model)
    if architecture.not_in_groups_because is not None:
        _logger.warning(
            "model_type %r streams by encoding the target again after each read: %s.",
            architecture.model_type,
            architecture.not_in_groups_because,
        )
    if adapter_path is not None:
        with _explained(f"the adapters in {adapter_path}"):
            model = load_adapters(model, str(adapter_path))
            model.eval()
            adapters = json.loads(Path(adapter_path, "adapter_config.json").read_text("utf-8"))
            trained = StreamingConfig.of_checkpoint(adapters)
            model.streaming_config = archs.streaming_config(model) | trained
    with _explained(f"the tokenizer in {folder}"):
        tokenizer = load_tokenizer(
            folder,
            tokenizer_options(config) | dict(tokenizer_config or {}),
            eos_token_ids=config.get("eos_token_id"),
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
    dequantize: bool = False,
    get_model_classes: Callable[[dict[str, Any]], ModelClasses] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Load the model of a folder, without its tokenizer.

    Args:
        folder: config.json and model*.safetensors.
        lazy: leave the weights to be read when they are first used.
        model_config: entries that override config.json.
        dequantize: turn quantised weights into float32.
        get_model_classes: from the config; the registry's by default.

    Returns:
        The model, and its config with all overrides.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` does not stream.
    """
    with _explained(f"the model in {folder}"):
        given = dict(model_config or {})
        overrides = overrides_for_mlx_lm(load_config(folder) | given) | given
        model, config = load_model(
            folder,
            lazy=lazy or dequantize,
            model_config=overrides,
            get_model_classes=get_model_classes or registered_classes,
        )
        if dequantize:
            _dequantize(model)
            if not lazy:
                mx.eval(model.parameters())
    return model, config


def _packaged() -> Path:
    if not (DEFAULT_MODEL / "config.json").is_file():
        raise ModelLoadError(
            f"the model that comes with the package is not in {DEFAULT_MODEL}: reinstall "
            "mlx-simul, or name a model."
        )
    return DEFAULT_MODEL


def _dequantize(model: nn.Module) -> None:
    """Turn quantised layers into ordinary ones of float32, and the rest into float32 with them."""
    # The scales first: multiplied in half precision, they would round the weights once more.
    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def registered_classes(config: dict[str, Any]) -> ModelClasses:
    """The registry's ``(Model, ModelArgs)`` for a config."""
    return registered_architecture(config).classes


def registered_architecture(config: Mapping[str, Any]) -> Architecture:
    """The registry's architecture for a config."""
    model_type = config["model_type"]
    # mlx-lm 0.32 tells some families apart by the class that the config names.
    by_class = getattr(mlx_lm.utils, "MODEL_ARCHITECTURE_REMAPPING", {})
    for name in config.get("architectures") or ():
        model_type = by_class.get((model_type, name), model_type)
    return archs.find(model_type)


def tokenizer_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' ``AutoTokenizer`` must be given for a model of this config.

    Of a type that it does not know it reads RoPE's settings all the same, and fails over them.
    """
    return {} if config.get("model_type") in CONFIG_MAPPING else {"config": PretrainedConfig()}


def stock_classes(config: dict[str, Any]) -> ModelClasses:
    """mlx-lm's own ``(Model, ModelArgs)`` for a config."""
    try:
        return mlx_lm.utils._get_classes(config)
    except SystemExit as error:
        # That of olmo ends the process when a package is missing.
        raise ModelLoadError(
            f"mlx-lm's module for model_type {config['model_type']!r} cannot be imported here; it "
            "says why above."
        ) from error


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
