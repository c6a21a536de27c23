"""Scaled positions in a GGUF file, in the words of Hugging Face.

The metadata name a kind and its factors; two kinds are stored as one factor for each frequency, in
tensors of their own. Where no kind is named, llama.cpp takes a factor for a linear one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_families import Family
from mlx_simul.checkpoints.gguf_values import above_zero, positive
from mlx_simul.errors import ConversionError

ROPE_FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = frozenset({ROPE_FREQS, LONG, SHORT})
"""The tensors that become part of the config."""

# Llama 3.1 to 3.3 differ in the factor only; GGUF keeps the resulting factors, not these.
LLAMA3_SCALING = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_scaling(file: GGUFFile, family: Family, rotated: int) -> dict[str, Any] | None:
    """Return Hugging Face's ``rope_scaling``, or None where positions are not scaled.

    Args:
        file: The file.
        family: What it is read by.
        rotated: How many dimensions of a head are rotated.

    Raises:
        ConversionError: if mlx-lm's model of the family does not compute what the file asks for.
    """
    prefix = f"{file.get('general.architecture', str)}.rope"
    scaling = _by_metadata(file, prefix, family)
    if LONG in file.tensors or SHORT in file.tensors:
        scaling = _longrope(file, prefix, scaling, rotated)
    elif ROPE_FREQS in file.tensors:
        scaling = _llama3(file, prefix, scaling, rotated)
    if scaling is None:
        return None
    kind = scaling["rope_type"]
    if kind == "longrope" and "long_factor" not in scaling:
        raise ConversionError(f"{file.path} scales positions by longrope and lacks {LONG}.")
    if kind not in family.scaling:
        known = ", ".join(sorted(family.scaling)) or "none"
        raise ConversionError(
            f"{file.path} scales positions by {kind!r}, which mlx-lm's {family.model_type} does "
            f"not compute (what it does: {known}). Use a file without it."
        )
    return scaling


def _by_metadata(file: GGUFFile, prefix: str, family: Family) -> dict[str, Any] | None:
    """Return the scaling that the metadata name; None for none, or for a factor of 1."""
    kind = file.get(f"{prefix}.scaling.type", str, "linear")
    key = f"{prefix}.scaling.factor"
    if key not in file.metadata:
        key = f"{prefix}.scale_linear"  # what it was called at first
    factor = file.get(key, float, 0.0) or 1.0  # 0: not set
    magnitude = above_zero(file, f"{prefix}.scaling.attn_factor", 1.0)
    extrapolation = file.get(f"{prefix}.scaling.yarn_ext_factor", float, -1.0)  # below 0: not set
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise ConversionError(
            f"{file.path} scales positions by {kind!r}. Supported: none, linear, yarn, longrope, "
            f"and llama3 as {ROPE_FREQS}."
        )
    if not 0 < factor < math.inf:
        raise ConversionError(f"{file.path}: {key!r} is {factor}, but must be finite and above 0.")
    if kind == "longrope":
        return {"rope_type": kind, "attention_factor": magnitude}
    if kind == "yarn":
        if extrapolation not in (1.0,) and extrapolation >= 0:
            raise ConversionError(
                f"{file.path}: {prefix}.scaling.yarn_ext_factor is {extrapolation}; only 1 can be "
                "converted."
            )
        return {**_yarn(file, prefix, factor, magnitude), **family.yarn}
    if not math.isclose(magnitude, 1, rel_tol=1e-6):
        raise ConversionError(
            f"{file.path}: {prefix}.scaling.attn_factor is {magnitude} without YaRN or LongRoPE, "
            "and mlx-lm's models have no place for it."
        )
    if extrapolation > 0:
        raise ConversionError(
            f"{file.path}: {prefix}.scaling.yarn_ext_factor is {extrapolation}, but the positions "
            f"are scaled by {kind!r}."
        )
    return None if kind == "none" or factor == 1 else {"rope_type": kind, "factor": factor}


def _yarn(file: GGUFFile, prefix: str, factor: float, magnitude: float) -> dict[str, Any]:
    """Return YaRN's settings; llama.cpp's defaults are transformers'.

    ``attn_factor`` multiplies what queries and keys are scaled by, ``yarn_attn_factor`` replaces
    it: the converter writes transformers' ``attention_factor`` there.
    """
    arch = prefix.removesuffix(".rope")
    key = f"{prefix}.scaling.original_context_length"
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": positive(
            file, key if key in file.metadata else f"{arch}.context_length"
        ),
    }
    for name in ("beta_fast", "beta_slow"):
        key = f"{prefix}.scaling.yarn_{name}"
        if key in file.metadata:
            scaling[name] = above_zero(file, key)
    key = f"{prefix}.scaling.yarn_attn_factor"
    whole = above_zero(file, key, 0.1 * math.log(max(factor, 1)) + 1)
    if key in file.metadata or not math.isclose(magnitude, 1, rel_tol=1e-6):
        scaling["attention_factor"] = whole * magnitude
        if factor <= 1 and not math.isclose(whole * magnitude, 1, rel_tol=1e-6):
            raise ConversionError(
                f"{file.path} asks for YaRN's attention_factor {whole * magnitude} with a factor "
                f"of {factor}; mlx-lm's models have one only with a factor above 1."
            )
    return scaling


def _llama3(
    file: GGUFFile, prefix: str, other: Mapping[str, Any] | None, rotated: int
) -> dict[str, Any] | None:
    """Recover Llama 3's scaling from the factor of each frequency, and prove it by recomputing."""
    factors = file.read(ROPE_FREQS)
    if np.allclose(factors, 1):
        return dict(other) if other is not None else None
    if other is not None:
        raise ConversionError(
            f"{file.path} scales positions twice: by {other['rope_type']!r} and by {ROPE_FREQS}."
        )
    theta = above_zero(file, f"{prefix}.freq_base", 10000.0)
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3_SCALING}
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotated, 2) / rotated)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ConversionError(
            f"{file.path}: the factors in {ROPE_FREQS} are not those of Llama 3.1 to 3.3. "
            "Convert the safetensors checkpoint of this model instead."
        )
    return scaling


def _longrope(
    file: GGUFFile, prefix: str, named: Mapping[str, Any] | None, rotated: int
) -> dict[str, Any]:
    """Return LongRoPE's settings: a factor for each frequency, of short texts and of long ones.

    What queries and keys are scaled by follows from the lengths; another value is refused, as
    mlx-lm's models have no place for it.
    """
    arch = prefix.removesuffix(".rope")
    short, long = file.read(SHORT), file.read(LONG)
    if short.shape != (rotated // 2,) or long.shape != short.shape:
        raise ConversionError(
            f"{file.path}: {SHORT} and {LONG} should hold {rotated // 2} factors each, but hold "
            f"{short.shape} and {long.shape}."
        )
    length = positive(file, f"{arch}.context_length")
    original = positive(file, f"{prefix}.scaling.original_context_length")
    stretch = length / original
    expected = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    key = f"{prefix}.scaling.attn_factor"
    stated = above_zero(file, key, expected)
    if named is not None and named["rope_type"] != "longrope":
        raise ConversionError(
            f"{file.path} scales positions twice: by {named['rope_type']!r} and by {LONG}."
        )
    if not math.isclose(stated, expected, rel_tol=1e-4):
        raise ConversionError(
            f"{file.path}: {key!r} is {stated}; from {original} to {length} tokens it should be "
            f"{expected:.4f}, and mlx-lm's models have no place for another."
        )
    return {
        "rope_type": "longrope",
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "original_max_position_embeddings": original,
    }
