"""A trained checkpoint made small enough to come with the package: 8 bits, scales of 16."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_simul.archs.streaming_config import CONFIG_KEY, StreamingConfig
from mlx_simul.checkpoints import checkpoint as steps
from mlx_simul.checkpoints.convert import Quantization, silent
from mlx_simul.errors import ConversionError
from mlx_simul.machine.folders import replacing_folder

SMALL = Quantization(bits=8, group_size=64)


def pack(
    source: Path,
    target: Path,
    languages: tuple[str, str],
    history_pairs: int = 0,
    quantization: Quantization = SMALL,
) -> Path:
    """Write a quantised copy of a checkpoint, which appears whole or not at all.

    Matrices are quantised, with scales and offsets in float16; vectors stay as they are.

    Args:
        source: a folder that ``mlx-simul train`` wrote, unquantised.
        target: the folder to write; a model that is there is replaced.
        languages: the two that it translates between; sessions accept no others.
        history_pairs: how many finished pairs a session may show it before a source; more are
            left out. A checkpoint may have been trained with more than do it good.
        quantization: bits and group size.

    Returns:
        The target folder.

    Raises:
        ConversionError: if the source is damaged or quantised already, or was not trained for
            streaming.
    """
    checkpoint = steps.read_folder(source, None, silent)
    trained = StreamingConfig.of_checkpoint(checkpoint.config)
    if not trained.to_json():
        raise ConversionError(
            f"{source} says nothing of how it was trained for streaming ({CONFIG_KEY!r} in its "
            "config.json); give a checkpoint that `mlx-simul train` wrote."
        )
    trained |= StreamingConfig(translates=languages, history_pairs=history_pairs)
    checkpoint.config[CONFIG_KEY] = trained.to_json()
    checkpoint = steps.quantise(checkpoint, quantization.bits, quantization.group_size, silent)
    for _, layer in checkpoint.model.named_modules():
        if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            for name in ("scales", "biases"):
                layer[name] = layer[name].astype(mx.float16)
    with replacing_folder(target, force=True) as folder:
        steps.save(checkpoint, folder)
    return target
