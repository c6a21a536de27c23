"""Conversion of a checkpoint, safetensors or GGUF, into a folder that MLX loads.

The work is in ``checkpoint``; here is the order of its steps. MLX is only imported once there is
something to convert.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_simul.errors import ConversionError, InvalidOptionError
from mlx_simul.machine.files import expanded
from mlx_simul.machine.folders import replacing_folder

if TYPE_CHECKING:
    from mlx_simul.checkpoints.folder import Progress, T

DTYPES = ("float32", "float16", "bfloat16")
Q_BITS = (2, 3, 4, 5, 6, 8)
Q_GROUP_SIZES = (32, 64, 128)
HUB_FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja", "*.tiktoken"]


@dataclass(frozen=True)
class Quantization:
    """How mlx-lm is to quantise the weights.

    Args:
        bits: Bits per weight: 2, 3, 4, 5, 6 or 8.
        group_size: Weights that share a scale and an offset: 32, 64 or 128.

    Raises:
        InvalidOptionError: if MLX has no such format.
    """

    bits: int = 4
    group_size: int = 64

    def __post_init__(self) -> None:
        for name, value, known in (
            ("bits", self.bits, Q_BITS),
            ("group_size", self.group_size, Q_GROUP_SIZES),
        ):
            if value not in known:
                raise InvalidOptionError(
                    f"MLX cannot quantise with {name}={value!r}. Possible: "
                    f"{', '.join(map(str, known))}."
                )


def silent(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show no progress."""
    return items


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    keep_quantized: bool = False,
    force: bool = False,
    revision: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Convert a checkpoint into an MLX folder, which appears whole or not at all.

    Args:
        source: A folder of safetensors, a GGUF file (of one in pieces, any piece), or one of these
            on the Hugging Face Hub (``owner/name``, ``owner/name/file.gguf``).
        target: The folder to write.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; None keeps what the source has.
        quantization: How to quantise; None leaves the weights as they are.
        keep_quantized: Of a GGUF file, leave the weights of Q4_0, Q4_1 and Q8_0 as they are stored,
            in MLX's quantised layers; they are turned into ``dtype`` otherwise, as all others are.
        force: Replace a target that holds a model already.
        revision: Branch, tag or commit on the Hub.
        progress: Wraps each sequence of steps, and shows how far it has got.

    Returns:
        The target folder.

    Raises:
        ConversionError: if the source cannot be converted or the target cannot be written. The
            target is then as it was.
        InvalidOptionError: if ``dtype`` is not one of the three, or weights are both to be
            quantised and to be kept as they are.
    """
    if keep_quantized and quantization is not None:
        raise InvalidOptionError(
            "keep_quantized keeps the weights as they are and quantization changes them: give one."
        )
    if dtype is not None and dtype not in DTYPES:
        raise InvalidOptionError(f"dtype is {dtype!r}. Possible: {', '.join(DTYPES)}.")
    target = expanded(target).resolve()
    try:
        with replacing_folder(target, force=force) as folder:
            path = locate(source, revision)
            if target in (path.resolve(), *path.resolve().parents):
                raise ConversionError(f"{target} holds the source; name another folder to write.")
            _write(path, folder, dtype, quantization, keep_quantized, progress)
    except OSError as error:
        raise ConversionError(f"Converting {source} to {target} failed: {error}") from error
    return target


def _write(
    path: Path,
    folder: Path,
    dtype: str | None,
    quantization: Quantization | None,
    keep_quantized: bool,
    progress: Progress,
) -> None:
    from mlx_simul.checkpoints import checkpoint as steps

    steps.refuse_pickle(path)
    if keep_quantized and path.is_dir():
        raise ConversionError(
            f"{path} is a folder, and --keep-quantized is for a GGUF file. Leave it out: quantised "
            "weights of a folder stay as they are."
        )
    if path.is_dir():
        checkpoint = steps.read_folder(path, dtype, progress)
    elif path.suffix == ".safetensors":
        raise ConversionError(f"{path} is one file of a model; name its folder, {path.parent}.")
    else:
        checkpoint = steps.read_gguf(path, dtype, progress, keep_quantized)
    if quantization is not None:
        checkpoint = steps.quantise(
            checkpoint, quantization.bits, quantization.group_size, progress
        )
    try:
        steps.save(checkpoint, folder)
    except RuntimeError as error:  # MLX's, where the disk is full
        raise ConversionError(f"Writing the weights failed: {error}") from error
    if path.is_dir():
        steps.copy_generation_config(path, folder)


def locate(source: str | Path, revision: str | None = None) -> Path:
    """Return the file or folder that ``source`` names, downloading it if it is on the Hub.

    Raises:
        ConversionError: if there is no such path, and it cannot be downloaded either.
    """
    path = expanded(source)
    if path.exists():
        return path
    owner_and_name, inside = "/".join(path.parts[:2]), "/".join(path.parts[2:])
    if path.is_absolute() or len(path.parts) < 2 or (inside and path.suffix != ".gguf"):
        raise ConversionError(
            f"There is no file or folder {str(source)!r}, and it is not a Hub id such as "
            "owner/name or owner/name/file.gguf."
        )
    from huggingface_hub import hf_hub_download, snapshot_download

    from mlx_simul.checkpoints.gguf_split import piece_names

    try:
        if inside:
            folder, _, name = inside.rpartition("/")
            pieces = [f"{folder}/{piece}".lstrip("/") for piece in piece_names(name)]
            paths = [hf_hub_download(owner_and_name, piece, revision=revision) for piece in pieces]
            return Path(paths[0])
        return Path(snapshot_download(owner_and_name, revision=revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"{str(source)!r} is not a local path, and downloading it failed: {error}"
        ) from error
