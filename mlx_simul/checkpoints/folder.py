"""A checkpoint folder, looked at file by file: what it should hold, and what it does hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx.core as mx
from safetensors import SafetensorError

from mlx_simul.checkpoints.stored import StoredTensor, load_tensors, read_header, weight_paths
from mlx_simul.checkpoints.tokenizer_files import TOKENIZER_FILES
from mlx_simul.errors import ValidationError
from mlx_simul.machine.files import read_object

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_INDEX = "model.safetensors.index.json"

T = TypeVar("T")


class Progress(Protocol):
    """Passes items on while it shows how many are done."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]: ...


def read_json(path: Path) -> dict[str, Any]:
    """The object in a checkpoint's JSON file.

    Raises:
        ValidationError: if there is none.
    """
    if not path.exists():
        raise ValidationError(
            f"{path} is missing, so nothing says what model this is. Fetch the checkpoint again, "
            "or name the folder that holds config.json."
        )
    return read_object(path, ValidationError, "Fetch it again.")


def refuse_pickle(path: Path) -> None:
    """Refuse a file that can run code when it is opened.

    Raises:
        ValidationError: if its name says that it is a pickle.
    """
    if path.suffix in PICKLES:
        raise ValidationError(
            f"{path} is a pickle, which can run code when it is opened, so it is never read. Use "
            "the model's safetensors; or, if you trust the file, transformers' "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes them."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        ValidationError: if there are none, or a shard that the index lists is missing.
    """
    files = weight_paths(folder)
    if not files:
        entries = sorted(folder.iterdir())
        for path in entries:
            refuse_pickle(path)
        gguf = next((path for path in entries if path.suffix == ".gguf"), None)
        raise ValidationError(
            f"{folder} holds no model*.safetensors. "
            + (f"Convert its GGUF file by name: {gguf}" if gguf else "Fetch the weights.")
        )
    missing = sorted({name for name in _index(folder).values() if not (folder / name).is_file()})
    if missing:
        raise ValidationError(
            f"{folder} lacks {', '.join(missing)}, which {_INDEX} lists, so part of the weights is "
            "missing. Fetch these files again."
        )
    return files


def read_headers(folder: Path, files: Iterable[Path]) -> dict[str, StoredTensor]:
    """What the files say they hold. A header that does not fit its file is found here.

    Raises:
        ValidationError: if a file is damaged or cut short, a tensor is in two files, or not in the
            one where the index puts it.
    """
    stored: dict[str, StoredTensor] = {}
    for path in files:
        try:
            found = read_header(path)
        except (SafetensorError, OSError) as error:
            raise ValidationError(
                f"{path} is damaged or cut short ({error}). Fetch it again; an interrupted "
                "download is the usual cause."
            ) from error
        for name in found:
            if name in stored:
                raise ValidationError(
                    f"{name} is in both {stored[name].file.name} and {path.name}, so which one is "
                    "used is a matter of chance. Remove the file that does not belong here."
                )
        stored |= found
    for name, file in _index(folder).items():
        if name not in stored or stored[name].file.name != file:
            raise ValidationError(
                f"{_INDEX} says that {name} is in {file}, but it is not. The shards are of "
                "different versions, or one was renamed: fetch them together."
            )
    return stored


def check_layers(config: dict[str, Any], n_tensors: int) -> None:
    """Refuse a config that asks for more layers than there are tensors, before they are built.

    Raises:
        ValidationError: if it does.
    """
    for part in (config, config.get("text_config")):
        if not isinstance(part, dict) or "num_hidden_layers" not in part:
            continue
        layers = part["num_hidden_layers"]
        if not isinstance(layers, int) or not 0 < layers <= n_tensors:
            raise ValidationError(
                f"config.json asks for {layers!r} layers (num_hidden_layers), and the files hold "
                f"{n_tensors} tensors. The config belongs to another model: fetch both together."
            )


def check_values(stored: dict[str, StoredTensor], progress: Progress) -> int:
    """Look at every number.

    Returns:
        How many there are.

    Raises:
        ValidationError: naming the first tensor that holds NaN or infinity.
    """
    n_values = 0
    open_file, tensors = None, dict[str, mx.array]()
    for name, tensor in progress(
        sorted(stored.items(), key=lambda item: item[1].file), "Reading weights", len(stored)
    ):
        if tensor.file != open_file:
            open_file, tensors = tensor.file, load_tensors(tensor.file)
        # Taken out, so that a large model need not fit into memory twice.
        values = tensors.pop(name)
        n_values += values.size
        if mx.issubdtype(values.dtype, mx.floating) and not mx.isfinite(values).all().item():
            n_bad = (~mx.isfinite(values)).sum().item()
            raise ValidationError(
                f"{name} in {tensor.file.name} holds {n_bad:,} values that are NaN or infinite, "
                "and every prediction would be NaN or infinite too. Fetch the file again; if the "
                "model was converted to float16, convert it to bfloat16 or float32 instead."
            )
    return n_values


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer.

    Raises:
        ValidationError: if there is none.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValidationError(
            f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}), so text cannot "
            "become tokens. Copy the tokenizer files of the original model into it."
        )


def _index(folder: Path) -> dict[str, str]:
    """Tensor to file name, as the index says; empty where there is no index."""
    path = folder / _INDEX
    if not path.is_file():
        return {}
    listed = read_json(path).get("weight_map")
    names = listed.values() if isinstance(listed, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValidationError(
                f"{path} should map tensors to file names of this folder (weight_map), but has "
                f"{name!r}. Fetch it again."
            )
    return dict(listed or {})
