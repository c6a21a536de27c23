"""The Hugging Face config that a GGUF file's metadata describe, proven by its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_families import Entry, Family, family_of
from mlx_simul.checkpoints.gguf_keys import refuse_what_is_not_understood
from mlx_simul.checkpoints.gguf_rope import rope_scaling
from mlx_simul.checkpoints.gguf_values import above_zero, positive
from mlx_simul.errors import ConversionError

FULL, SLIDING = "full_attention", "sliding_attention"


def read_config(file: GGUFFile) -> dict[str, Any]:
    """Return the Hugging Face config that the file's metadata describes.

    Sizes are checked against the tensors, so that nothing built from the config is larger than
    the file warrants.

    Raises:
        ConversionError: if a value is missing, cannot be expressed, or contradicts a tensor; or if
            a metadata key that changes the computation is not understood.
    """
    family = family_of(file)
    arch = family.architecture
    sizes = _sizes(file, family)
    rotated = _rotated(file, family, sizes)
    context = positive(file, f"{arch}.context_length")
    theta = above_zero(file, f"{arch}.rope.freq_base", 10000.0)
    refuse_what_is_not_understood(file, arch, family.keys, _neutral(family, sizes, rotated, theta))
    scaling = rope_scaling(file, family, rotated)
    config: dict[str, Any] = {
        **sizes,
        **family.constants,
        "max_position_embeddings": context,
        family.epsilon: above_zero(file, f"{arch}.{family.epsilon_key}"),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "model_type": family.model_type,
        "architectures": [family.class_name],
    }
    if family.rotates_part:
        config["partial_rotary_factor"] = rotated / sizes["head_dim"]
    if scaling is not None and scaling["rope_type"] == "longrope":
        name = "original_max_position_embeddings"
        config[name] = scaling[name]
    if family.wide_at is not None:
        config["query_pre_attn_scalar"] = _query_scalar(file, family, sizes)
    config |= {name: _entry(file, arch, entry) for name, entry in family.entries.items()}
    config |= {name: tensor in file.tensors for name, tensor in family.present.items()}
    config |= {name: tensor not in file.tensors for name, tensor in family.absent.items()}
    return config | _windows(file, family, sizes["num_hidden_layers"]) | _token_ids(file)


def _sizes(file: GGUFFile, family: Family) -> dict[str, int]:
    """Return the sizes that decide the shapes, proven by the tensors of the first layer."""
    arch = family.architecture
    hidden = positive(file, f"{arch}.embedding_length")
    n_layers = positive(file, f"{arch}.block_count")
    inner = positive(file, f"{arch}.feed_forward_length")
    n_heads = positive(file, f"{arch}.attention.head_count")
    n_kv_heads = positive(file, f"{arch}.attention.head_count_kv", n_heads)
    head_dim = positive(file, f"{arch}.attention.key_length", hidden // n_heads)
    vocab = file.shape("token_embd.weight")[0]
    for key, value, name, rows in (
        ("embedding_length", hidden, "token_embd", vocab),
        ("feed_forward_length", inner, f"blk.0.{family.inner_name}", inner),
        ("attention.head_count", n_heads, "blk.0.attn_q", n_heads * head_dim),
        ("attention.head_count_kv", n_kv_heads, "blk.0.attn_k", n_kv_heads * head_dim),
        ("attention.head_count", n_heads, "blk.0.attn_qkv", (n_heads + 2 * n_kv_heads) * head_dim),
    ):
        tensor = f"{name}.weight"
        if family.is_fused and key == "feed_forward_length":
            rows *= 2
        # What is missing is missed where the weights are read.
        if tensor in file.tensors and file.shape(tensor)[-2:] != (rows, hidden):
            raise _disagree(file, key, value, tensor)
    if not family.frees_head_dim and head_dim * n_heads != hidden:
        raise _disagree(file, "attention.key_length", head_dim, "token_embd.weight")
    value_length = positive(file, f"{arch}.attention.value_length", head_dim)
    if value_length != head_dim:
        raise ConversionError(
            f"{file.path}: attention.value_length is {value_length} and attention.key_length "
            f"{head_dim}; mlx-lm's model of this family has one size for both."
        )
    if n_layers > len(file.tensors):
        raise ConversionError(
            f"{file.path} claims {n_layers} layers but has only {len(file.tensors)} tensors."
        )
    if n_heads % n_kv_heads:
        raise ConversionError(
            f"{file.path}: {n_heads} attention heads cannot share {n_kv_heads} key/value heads."
        )
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
    }


def _rotated(file: GGUFFile, family: Family, sizes: Mapping[str, int]) -> int:
    """Return how many dimensions of a head are rotated."""
    head_dim = sizes["head_dim"]
    rotated = positive(file, f"{family.architecture}.rope.dimension_count", head_dim)
    if rotated > head_dim or rotated % 2 or (rotated != head_dim and not family.rotates_part):
        raise ConversionError(
            f"{file.path} rotates {rotated} of {head_dim} dimensions in each head; mlx-lm's model "
            f"of this family rotates {'a part of them' if family.rotates_part else 'all'}."
        )
    return rotated


def _neutral(
    family: Family, sizes: Mapping[str, int], rotated: int, theta: float
) -> dict[str, tuple[Any, ...]]:
    """Return the values that change nothing in a model of these sizes."""
    head_dim = sizes["head_dim"]
    return {
        "{arch}.embedding_length_out": (0, sizes["hidden_size"]),
        "{arch}.attention.scale": (0, head_dim**-0.5),
        "{arch}.attention.key_length_swa": (0, head_dim),
        "{arch}.attention.value_length_swa": (0, head_dim),
        "{arch}.rope.dimension_count_swa": (0, rotated),
        "{arch}.rope.freq_base_swa": (0, theta),
        **family.neutral,
    }


def _entry(file: GGUFFile, arch: str, entry: Entry) -> Any:
    key = f"{arch}.{entry.key}"
    if entry.kind is int:
        return positive(file, key, entry.default)
    if entry.kind is float:
        return above_zero(file, key, entry.default)
    return file.get(key, bool, entry.default)


def _query_scalar(file: GGUFFile, family: Family, sizes: Mapping[str, int]) -> float:
    """Return the number whose inverse root scales the attention."""
    key = f"{family.architecture}.attention.scale"
    if key in file.metadata:
        return above_zero(file, key) ** -2
    if sizes["num_hidden_layers"] == family.wide_at:
        return sizes["hidden_size"] / sizes["num_attention_heads"]
    return sizes["head_dim"]


def _windows(file: GGUFFile, family: Family, n_layers: int) -> dict[str, Any]:
    """Return which layers see how far, as the family's config says it."""
    windows = family.windows
    if windows is None:
        return {}
    key = f"{family.architecture}.attention.sliding_window"
    window = file.get(key, int, windows.default)
    if window < 0:
        raise ConversionError(f"{file.path}: {key!r} is {window}, but must be at least 0.")
    slides = _which_slide(file, f"{key}_pattern", windows.period, n_layers)
    if not window or not any(slides):
        window, slides = None, [False] * n_layers
    told: dict[str, Any] = {"sliding_window": window}
    if windows.told_by != "all":
        told["layer_types"] = [SLIDING if slides_here else FULL for slides_here in slides]
    if windows.told_by == "period":
        told["sliding_window_pattern"] = slides.index(False) + 1 if False in slides else 0
    if window is None:
        return told
    fits = {
        "all": all(slides),
        "every_other": slides == [layer % 2 == 0 for layer in range(n_layers)],
        "period": slides == _all_but_each(told.get("sliding_window_pattern", 0), n_layers),
        "layer_types": True,
    }
    if not fits[windows.told_by]:
        raise ConversionError(
            f"{file.path}: {key}_pattern puts windows on the layers "
            f"{[layer for layer, slides_here in enumerate(slides) if slides_here]} of {n_layers}; "
            "mlx-lm's model of this family has them elsewhere."
        )
    return told | dict(windows.more)


def _which_slide(file: GGUFFile, key: str, period: int, n_layers: int) -> list[bool]:
    """Return whether each layer has a window: as the file lists it, or every one but the last."""
    pattern = file.metadata.get(key, period)
    if isinstance(pattern, np.ndarray):
        if len(pattern) < n_layers:
            raise ConversionError(
                f"{file.path}: {key!r} is for {len(pattern)} layers, but there are {n_layers}."
            )
        return [bool(slides) for slides in pattern[:n_layers]]
    period = file.get(key, int, period)
    if period < 0:
        raise ConversionError(f"{file.path}: {key!r} is {period}, but must be at least 0.")
    return [True] * n_layers if period == 0 else _all_but_each(period, n_layers)


def _all_but_each(period: int, n_layers: int) -> list[bool]:
    """Return False for each layer that closes a period, True for the others."""
    return [period > 0 and (layer + 1) % period != 0 for layer in range(n_layers)]


def _token_ids(file: GGUFFile) -> dict[str, Any]:
    """Return the ids that begin, end and pad a text; several may end one (SPEC 3, end-of-turn)."""
    prefix = "tokenizer.ggml."
    ids = {
        name: file.get(f"{prefix}{name}_token_id", int)
        for name in ("bos", "eos", "eot", "eom", "padding")
        if f"{prefix}{name}_token_id" in file.metadata
    }
    ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    return {
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.get("padding"),
    }


def _disagree(file: GGUFFile, key: str, value: int, name: str) -> ConversionError:
    return ConversionError(
        f"{file.path}: {key} is {value}, which does not fit tensor {name!r} of shape "
        f"{file.shape(name)}. The file contradicts itself."
    )
