"""What is trained: a new model, a checkpoint whole, or adapters on one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_config, load_tokenizer, save_model

from mlx_simul.archs.streaming_config import CONFIG_KEY, StreamingConfig
from mlx_simul.checkpoints.loading import find_folder, load
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.config import as_tables
from mlx_simul.training.optimiser import thin
from mlx_simul.training.options import LayoutOptions, TrainOptions
from mlx_simul.training.scratch import as_loaded, new_model, train_tokenizer

# Pairs on which a new tokenizer is compared with what loading makes of it.
_N_COMPARED = 1000


@dataclass(frozen=True)
class Trainee:
    """A model about to be trained.

    Attributes:
        model: its trainable parameters are those that training changes.
        tokenizer: its own.
        config: what its config.json is to say.
        write: writes its weights and its tokenizer into a folder.
    """

    model: nn.Module
    tokenizer: Any
    config: Mapping[str, Any]
    write: Callable[[Path], None]


def prepare(options: TrainOptions, pairs: Sequence[Pair], snapshot: Path | None) -> Trainee:
    """Make or load what is to be trained.

    Args:
        options: of the run.
        pairs: the corpus, for a new tokenizer.
        snapshot: the folder of a run to go on with, for its tokenizer; its weights come later.

    Raises:
        ModelLoadError: if the checkpoint cannot be loaded.
        InvalidOptionError: if the options do not fit the model.
    """
    trainee = _checkpoint if options.model.path is not None else _new
    made = trainee(options, pairs, snapshot)
    if options.optimiser.dropout and options.model.fine_tune == "full":
        thin(made.model, options.optimiser.dropout)
    return made


def layout_config(options: LayoutOptions) -> StreamingConfig:
    """What a checkpoint's config.json remembers of its training, under ``mlx_simul``.

    ``mode`` and ``target_start`` are those that a session takes from it.
    """
    low, high = options.target_starts
    # A session has a date of its own.
    tables = as_tables(replace(options, date=None))
    if options.mode == "batch":
        # An ordinary language model: it streams zero-shot, and was never told to wait.
        tables = {k: v for k, v in tables.items() if k not in ("mode", "wait_k", "target_start")}
    elif low != high:
        tables |= {"target_start": "follow", "target_starts": [low, high]}
    return StreamingConfig.from_json(tables)


def _streaming_config(options: TrainOptions) -> StreamingConfig:
    config = layout_config(options.layout)
    if options.augment.history_rate:
        config = replace(config, history_pairs=options.augment.history_pairs)
    return config


def _new(options: TrainOptions, pairs: Sequence[Pair], snapshot: Path | None) -> Trainee:
    config = dict(options.model.config)
    if "vocab_size" not in config:
        raise InvalidOptionError(
            "model.config has no vocab_size, the number of entries of the BPE to train."
        )
    if snapshot is None:
        texts = chain.from_iterable((pair.source, pair.target) for pair in pairs)
        trained = train_tokenizer(texts, config["vocab_size"])
        sample = chain.from_iterable((pair.source, pair.target) for pair in pairs[:_N_COMPARED])
        tokenizer = as_loaded(trained, config, sample)
    else:
        tokenizer = load_tokenizer(snapshot)
    # A small corpus may not fill the vocabulary; rows that no token has are left out.
    config["vocab_size"] = max(tokenizer.get_vocab().values()) + 1
    config["eos_token_id"] = tokenizer.eos_token_id
    config[CONFIG_KEY] = _streaming_config(options).to_json()
    model = new_model(config, options.model.seed)

    def write(folder: Path) -> None:
        save_model(folder, model)
        tokenizer.save_pretrained(folder)

    return Trainee(model, tokenizer, config, write)


def _checkpoint(options: TrainOptions, _pairs: Sequence[Pair], _snapshot: Path | None) -> Trainee:
    path = options.model.path or ""
    folder = find_folder(path)
    model, tokenizer = load(folder)
    layout = _streaming_config(options).to_json()
    config = load_config(folder) | {CONFIG_KEY: layout}
    if options.model.fine_tune == "full":
        _refuse_quantised(model, path)
        adapters = None
    else:
        adapters = _add_adapters(model, options) | {CONFIG_KEY: layout}

    def write(folder: Path) -> None:
        if adapters is None:
            save_model(folder, model)
            tokenizer.save_pretrained(folder)
            return
        weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))  # pyright: ignore
        mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
        (folder / "adapter_config.json").write_text(json.dumps(adapters, indent=2), "utf-8")

    return Trainee(model, tokenizer, config, write)


def _refuse_quantised(model: nn.Module, path: str) -> None:
    if any("Quantized" in type(module).__name__ for module in model.modules()):
        raise InvalidOptionError(
            f"{path} is quantised, and quantised weights cannot be trained; give "
            "model.fine_tune='lora' or 'dora', or a checkpoint in floating point, as "
            "mlx_lm.convert --dequantize makes."
        )


def _add_adapters(model: Any, options: TrainOptions) -> dict[str, Any]:
    """Freeze the model and put mlx-lm's adapters on it; returns their adapter_config.json."""
    chosen = options.model
    n_layers = len(model.layers) if chosen.layers < 0 else chosen.layers
    parameters = {
        "rank": chosen.rank,
        "scale": chosen.scale,
        "dropout": options.optimiser.dropout,
    }
    mx.random.seed(chosen.seed)
    model.freeze()
    linear_to_lora_layers(model, n_layers, parameters, use_dora=chosen.fine_tune == "dora")
    return {
        "fine_tune_type": chosen.fine_tune,
        "num_layers": n_layers,
        "lora_parameters": parameters,
        "model": chosen.path,
    }
