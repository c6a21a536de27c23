"""load: a repository id or a folder in, a model that streams and its tokenizer out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import mlx_simul.before_mlx

import mlx.nn as nn
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer

from mlx_simul import archs
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
    with _explained(f"the model in {folder}"):
        model, config = load_model(
            folder,
            lazy=lazy,
            model_config=dict(model_config or {}),
            get_model_classes=_model_classes,
        )
        model.streaming_config = dict(config.get(CONFIG_KEY) or {})
    if adapter_path is not None:
        with _explained(f"the adapters in {adapter_path}"):
            model = load_adapters(model, str(adapter_path))
            model.eval()
    with _explained(f"the tokenizer in {folder}"):
        tokenizer = load_tokenizer(
            folder, dict(tokenizer_config or {}), eos_token_ids=config.get("eos_token_id")
        )
    return model, tokenizer


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
            "(a GGUF file is converted by tools/convert.py first)."
        )
    try:
        fetched = snapshot_download(
            str(path_or_hf_repo), revision=revision, allow_patterns=_HUB_PATTERNS
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{str(path_or_hf_repo)!r} is no folder here, and the Hugging Face hub did not give it: "
            f"{error}"
        ) from error
    return Path(fetched)


def trained_target_start(model: nn.Module) -> int | str | None:
    """Where the checkpoint's target positions started in training, if its config says so."""
    config: Mapping[str, Any] = getattr(model, "streaming_config", {})
    return config.get("target_start")


def _model_classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    return archs.find(config["model_type"]).classes


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what mlx-lm, safetensors and transformers raise into one error with a way out."""
    try:
        yield
    except SimulError:
        raise
    except KeyError as error:
        raise ModelLoadError(f"{what} cannot be loaded: its config has no {error}.") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{what} cannot be loaded: {error}\nIf files are missing or cut short, fetch them again; "
            "tools/validate.py checks a folder piece by piece."
        ) from error
