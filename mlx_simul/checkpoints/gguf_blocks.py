"""Blocks of quantised weights that MLX's quantised layers hold without loss.

MLX computes ``scale * q + bias`` with unsigned ``q``, for groups of 32 weights among others; so do
three of GGUF's block types, whose scales are float16::

    Q4_0  d * (q - 8)      scale d, bias -8 d
    Q4_1  d * q + m        scale d, bias m
    Q8_0  d * q, signed    scale d, bias -128 d, q + 128

A product with a power of two is exact, so every number of the file is kept. Only the order of the
bits differs: MLX packs weights one after the other into 32-bit words, lowest bits first; a block of
4 bits has weight i in the low half of its byte i, and weight i + 16 in the high half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_model import Stored, restore_rotary_layout

GROUP_SIZE = 32
BITS: Mapping[GGMLQuantizationType, int] = {
    GGMLQuantizationType.Q4_0: 4,
    GGMLQuantizationType.Q4_1: 4,
    GGMLQuantizationType.Q8_0: 8,
}
"""The types that can be kept, and the bits of their weights."""


@dataclass(frozen=True)
class Affine:
    """A quantised weight, as MLX's layers have it.

    Args:
        weight: Packed, uint32, (..., columns * bits / 32).
        scales: Of each group of 32 columns, float16, (..., columns / 32).
        biases: The same.
    """

    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray


def read_blocks(file: GGUFFile, stored: Stored) -> Affine:
    """Return a weight as MLX holds it, its rows in mlx-lm's order.

    Args:
        file: The file.
        stored: Where the weight lies; of a type in ``BITS``.
    """
    affine = to_affine(file.blocks(stored.tensor), file.tensors[stored.tensor].type)
    if not stored.n_heads:
        return affine
    parts = (affine.weight, affine.scales, affine.biases)
    return Affine(*(restore_rotary_layout(part, stored.n_heads) for part in parts))


def to_affine(rows: np.ndarray, kind: GGMLQuantizationType) -> Affine:
    """Turn rows of blocks into MLX's arrays.

    Args:
        rows: uint8, (..., bytes of a row).
        kind: One of ``BITS``.
    """
    lead = rows.shape[:-1]
    blocks = rows.reshape(*lead, -1, GGML_QUANT_SIZES[kind][1])
    scales = _halves(blocks, 0)
    if kind == GGMLQuantizationType.Q8_0:
        # Adding 128 to a signed byte turns its highest bit over.
        return Affine(_words(blocks[..., 2:] ^ 0x80, lead), scales, scales * np.float16(-128))
    if kind == GGMLQuantizationType.Q4_0:
        nibbles, biases = blocks[..., 2:], scales * np.float16(-8)
    else:
        nibbles, biases = blocks[..., 4:], _halves(blocks, 2)
    weights = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=-1)
    return Affine(_words(weights[..., ::2] | weights[..., 1::2] << 4, lead), scales, biases)


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """Return the float16 that each block has at some byte."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]


def _words(data: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(data).view("<u4").reshape(*lead, -1)
