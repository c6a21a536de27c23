"""load: a repository id or a folder in, a model that streams and its tokenizer out."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

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
)

from mlx_simul import archs
from mlx_simul.archs.base import Architecture, ModelClasses
from mlx_simul.archs.hf_config import overrides_for_mlx_lm, refuse_own_code
from mlx_simul.archs.prepare import prepare_as
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.checkpoints import peft_adapters
from mlx_simul.checkpoints.stored import (
    UNQUANTISED,
    StoredTensor,
    foreign_format,
    load_tensors,
    read_header,
    refuse_unreadable_formats,
    tied_pair,
    weight_paths,
)
from mlx_simul.checkpoints.tokenizer_files import read_tokenizer
from mlx_simul.errors import ModelLoadError, SimulError, ValidationError
from mlx_simul.machine.arithmetic import check_arithmetic
from mlx_simul.machine.files import expanded

_logger = logging.getLogger(__name__)

DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "en-fr"
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
    group: mx.distributed.Group | None = None,
    pipeline: bool = False,
) -> tuple[nn.Module, TokenizerWrapper]:
    """Load a model for streaming, through mlx-lm's own loader.

    Quantised, sharded and adapter checkpoints load as they do in mlx-lm; the registry in
    :mod:`mlx_simul.archs` chooses the classes from the config's ``model_type``. A model that cannot
    keep source and target apart is loaded with a line in the log that says why.

    Args:
        path_or_hf_repo: a folder, or the id of a Hugging Face repository, fetched once; by default
            the model that comes with the package, which translates English to French.
        adapter_path: a folder with LoRA or DoRA adapters, mlx-lm's or PEFT's, or fully
            fine-tuned weights of mlx-lm's.
        revision: branch, tag or commit of the repository.
        tokenizer_config: extra arguments for the tokenizer.
        model_config: entries that override config.json.
        lazy: leave the weights to be read when they are first used.
        dequantize: turn quantised weights into float32, which a CPU multiplies several times
            faster and which takes 4 (of 8 bits) to 8 (of 4) times the memory. By default only of
            the model that comes with the package, on a CPU.
        allow_unverified: if mlx-lm knows the model type but it is not registered here, try the
            laws on the weights (hundreds of short passes) and load the model if they hold.
        group: several processes, from ``mx.distributed.init()``, that are to run the model
            together. All of them load it with the same arguments; then rank 0 streams as usual,
            within :func:`mlx_simul.engine.ranks.leading`, and the others call
            :func:`mlx_simul.engine.ranks.follow`.
        pipeline: with a group, give each rank some of the layers, and not a part of each layer.

    Returns:
        The model and mlx-lm's tokenizer wrapper, as ``mlx_lm.load`` does.

    Raises:
        ModelLoadError: if the checkpoint is missing, damaged, or not what its config says.
        UnknownArchitectureError: if its ``model_type`` is not registered.
        ValidationError: if it is tried and breaks a law.
        RanksError: if another rank could not load its part; the message says why.
    """
    if group is not None and group.size() > 1:
        from mlx_simul.checkpoints.sharding import load_shard

        return load_shard(
            lambda: load(
                path_or_hf_repo,
                adapter_path=adapter_path,
                revision=revision,
                tokenizer_config=tokenizer_config,
                model_config=model_config,
                lazy=True,
                dequantize=dequantize,
                allow_unverified=allow_unverified,
            ),
            group,
            pipeline=pipeline,
        )
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
        # The conformance suite, which only an undeclared model type needs.
        from mlx_simul.checkpoints.tryout import try_out

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
            trained = StreamingConfig.of_checkpoint(put_on(model, expanded(adapter_path)))
            model.streaming_config = archs.streaming_config(model) | trained
    with _explained(f"the tokenizer in {folder}"):
        tokenizer = read_tokenizer(folder, config, tokenizer_config)
    return model, tokenizer


def put_on(model: nn.Module, adapter: Path) -> dict[str, Any]:
    """Put adapters on a model, in place; mlx-lm's, or PEFT's. Returns their config."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    if peft_adapters.is_peft(config):
        peft_adapters.apply(model, adapter, config)
    else:
        load_adapters(model, str(adapter))
    model.eval()
    return config


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
    check_arithmetic()
    with _explained(f"the model in {folder}"):
        given = dict(model_config or {})
        stated = load_config(folder) | given
        refuse_own_code(stated)
        stored = {k: v for path in weight_paths(folder) for k, v in read_header(path).items()}
        refuse_unreadable_formats(stored, stated)
        overrides = overrides_for_mlx_lm(stated) | given
        overrides |= _untied(stored, stated | overrides)
        with explained_format(stated):
            model, config = load_model(
                _GlobSafe(folder),
                lazy=lazy or dequantize,
                model_config=overrides,
                get_model_classes=get_model_classes or registered_classes,
            )
        _refuse_integers(model)
        if dequantize:
            _dequantize(model)
            if not lazy:
                mx.eval(model.parameters())
    return model, config


class _GlobSafe(type(Path())):
    """A folder that mlx-lm finds its files in, whatever characters its name has.

    mlx-lm joins a pattern to the folder's name and gives both to glob, for which brackets,
    asterisks and question marks in the name would be parts of the pattern.
    """

    def __truediv__(self, key: str | PathLike[str]) -> Path:
        here = str(self)
        return Path(glob.escape(here) if glob.has_magic(str(key)) else here) / key


def _untied(stored: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that keep an output head which is tied by the config but differs in the files.

    transformers takes such a head for what it is; most of mlx-lm's families would drop it.
    """
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    is_tied = any(part.get("tie_word_embeddings") for part in parts)
    pair = tied_pair(stored) if is_tied else None
    if pair is None:
        return {}
    head, embedding = (load_tensors(stored[name].file)[name] for name in pair)
    if mx.array_equal(head, embedding).item():
        return {}
    _logger.warning(
        "config.json ties the output head to the embeddings (tie_word_embeddings), but %s differs "
        "from %s in the files; the head is used, as transformers does.",
        *pair,
    )
    untied: dict[str, Any] = {"tie_word_embeddings": False}
    return untied | ({"text_config": {**text, **untied}} if isinstance(text, Mapping) else {})


def _refuse_integers(model: nn.Module) -> None:
    """Refuse a model of which some weights are integers without a scale.

    Raises:
        ModelLoadError: naming the first.
    """
    for path, module in model.named_modules():
        is_quantised = "scales" in module or "weight_scale" in module
        for name, value in module.items():
            if not isinstance(value, mx.array) or mx.issubdtype(value.dtype, mx.floating):
                continue
            if name.startswith("_") or (is_quantised and name in ("weight", "scales")):
                continue
            dtype = str(value.dtype).removeprefix("mlx.core.")
            raise ModelLoadError(
                f"{path}.{name} is {dtype} once it is loaded, and no scale belongs to it, so its "
                f"numbers cannot be used as weights. {UNQUANTISED}"
            )


@contextmanager
def explained_format(config: Mapping[str, Any]) -> Iterator[None]:
    """Say of quantised weights that mlx-lm cannot read why, and what to use in their place."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        method = foreign_format(config)
        if method is None:
            raise
        model_type = config.get("model_type")
        raise ModelLoadError(
            f"The weights are quantised by {method!r}, and mlx-lm cannot read that for model_type "
            f"{model_type!r}: {error}\n{UNQUANTISED}"
        ) from error


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


def stock_classes(config: dict[str, Any]) -> ModelClasses:
    """mlx-lm's own ``(Model, ModelArgs)`` for a config."""
    try:
        return mlx_lm.utils._get_classes(config)
    except SystemExit as error:
        # That of olmo ends the process when a package is missing.
        raise ModelLoadError(
            f"mlx-lm's module for model_type {config['model_type']!r} cannot be imported here; the "
            "error above says why."
        ) from error


def find_folder(path_or_hf_repo: str | PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint; a repository is fetched, or found in the hub's local cache.

    Raises:
        ModelLoadError: if there is neither such a folder nor such a repository.
    """
    folder = expanded(path_or_hf_repo)
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
            f"{str(path_or_hf_repo)!r} is not a local folder and could not be downloaded from the "
            f"Hugging Face Hub: {error}"
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
