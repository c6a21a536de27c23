"""The weights that a GGUF file holds, under the names and in the layout of mlx-lm's models.

llama.cpp stores a checkpoint under its own names, and some weights in another form: the query and
key projections of the llama family with the rows of each head reordered, because its rotary
embedding pairs neighbouring rows where Hugging Face and MLX pair the two halves of a head; Gemma's
norms with one added; StableLM's norms of the single heads as one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_families import Family, family_of
from mlx_simul.checkpoints.gguf_rope import TENSORS as ROPE_TENSORS
from mlx_simul.errors import ConversionError

Shape = tuple[int, ...]

_ARCHITECTURES = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
_EXPERTS = re.compile(r"\.(mlp|block_sparse_moe)\.switch_mlp\.")
_HEAD_NORM = re.compile(r"(_layernorm)\.norms\.(\d+)(\.weight)$")


@dataclass(frozen=True)
class Stored:
    """Where a parameter of mlx-lm's model lies in the file.

    Args:
        tensor: The tensor's name.
        row: Which row of it the parameter is; None if it is all of it.
        n_heads: Heads whose rows were reordered; 0 if they were not.
        offset: What was added to it.
    """

    tensor: str
    row: int | None = None
    n_heads: int = 0
    offset: int = 0


def read_weights(
    file: GGUFFile,
    config: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    without: Collection[str] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the model's weights as float32, by mlx-lm's names and in its layout.

    Args:
        file: The file.
        config: What ``read_config`` made of it.
        shapes: The parameters that the model has, each with its shape.
        without: Those that are not to be read.

    Raises:
        ConversionError: before the first weight, if a tensor is missing, left over or of another
            shape; later, if one cannot be dequantised or is not finite.
    """
    for name, stored in locate_weights(file, config, shapes).items():
        if name in without:
            continue
        values = file.read(stored.tensor)
        if stored.row is not None:
            values = values[stored.row]
        values = restore_rotary_layout(values, stored.n_heads) if stored.n_heads else values
        yield name, (values - stored.offset if stored.offset else values).reshape(shapes[name])


def locate_weights(
    file: GGUFFile, config: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> dict[str, Stored]:
    """Return where each parameter of a model lies in the file.

    Args:
        file: The file.
        config: What ``read_config`` made of it.
        shapes: The parameters that the model has, each with its shape.

    Raises:
        ConversionError: if a tensor is missing, left over, or of another shape.
    """
    family = family_of(file)
    names = get_tensor_name_map(_ARCHITECTURES[family.architecture], config["num_hidden_layers"])
    stored = {}
    for name in shapes:
        known, row = _HEAD_NORM.sub(r"\1\3", name), None
        if known != name:
            row = int(_HEAD_NORM.search(name)[2])  # pyright: ignore[reportOptionalSubscript]
        known = _EXPERTS.sub(".mlp.experts.", known)
        tensor = names.get_name(known, (".weight", ".bias")) or name
        # llama.cpp gives every tensor one of the two endings.
        tensor += "" if tensor.endswith((".weight", ".bias")) else ".weight"
        stored[name] = Stored(tensor, row, _heads(family, config, name), _offset(family, name))
    _match(file, stored, shapes)
    return stored


def _heads(family: Family, config: Mapping[str, Any], name: str) -> int:
    """Return how many heads' rows are reordered in a parameter."""
    of = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    part = name.split(".")[-2] if "." in name else ""
    return config[of[part]] if family.is_interleaved and part in of else 0


def _offset(family: Family, name: str) -> int:
    return family.norm_offset if name.endswith("norm.weight") else 0


def restore_rotary_layout(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of a query or key projection.

    Args:
        rows: A weight (n_heads * head_dim, hidden) or bias (n_heads * head_dim,) whose heads
            have the rows 0, D/2, 1, D/2 + 1, ...
        n_heads: Heads in it.

    Returns:
        The same rows, in each head 0, 1, 2, ...
    """
    pairs = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _match(file: GGUFFile, stored: Mapping[str, Stored], shapes: Mapping[str, Shape]) -> None:
    """Raise unless the file holds exactly the model's tensors, in the model's shapes."""
    tensors = {one.tensor for one in stored.values()}
    missing = sorted(tensors - file.tensors.keys())
    if missing:
        raise ConversionError(f"{file.path} lacks {_listed(missing)}. Download it again.")
    extra = sorted(file.tensors.keys() - tensors - ROPE_TENSORS)
    if extra:
        raise ConversionError(
            f"{file.path} holds {_listed(extra)}, which the model it describes has no place for."
        )
    rows = {}
    for one in stored.values():
        if one.row is not None:
            rows[one.tensor] = max(one.row + 1, rows.get(one.tensor, 0))
    for name, one in stored.items():
        wanted = shapes[name] if one.row is None else (rows[one.tensor], *shapes[name])
        found = file.shape(one.tensor)
        # The converter drops dimensions of 1.
        if [n for n in found if n > 1] != [n for n in wanted if n > 1]:
            raise ConversionError(
                f"{file.path}: tensor {one.tensor!r} has the shape {found}, but "
                f"its metadata asks for {wanted}. The file contradicts itself."
            )


def _listed(names: Iterable[str], shown: int = 3) -> str:
    """Name the first few of many tensors."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} tensors ({', '.join(names[:shown])}{more})"
