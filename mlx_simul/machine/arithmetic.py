"""How MLX computes on this machine: a slow BLAS is named, a broken kernel compiler is turned off.

On a CPU ``mx.compile`` fuses operations into C++, which it writes to ``mlx/`` in the temporary
folder, compiles there with g++ and loads. Where that folder is missing, cannot be written or
forbids to execute, a pass over a model would break off. Without fused kernels the same operations
run one by one: somewhat slower, and with the same result.
"""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlx_simul.errors import SimulWarning
from mlx_simul.machine import blas

_KERNEL_BYTES = 1 << 18  # more than the source and the library of a kernel take
_REASON_CHARS = 300  # g++ may say a great deal; the error comes last


@functools.cache
def check_arithmetic() -> None:
    """Warn about a slow BLAS, and turn MLX's kernel compiler off if it fails; once in a process.

    On a GPU kernels are compiled in another way, so none is tried. Each warning is a
    :class:`~mlx_simul.errors.SimulWarning` that says what to set or to install.

    Raises:
        InvalidOptionError: if ``MLX_SIMUL_BLAS`` names a library that cannot be used.
    """
    blas.check()
    if mx.default_device() != mx.Device(mx.cpu):
        return
    try:
        _compile_a_kernel()
        _write_a_file()
    except (OSError, RuntimeError) as error:  # the latter is what MLX raises
        mx.disable_compile()
        reason = " ".join(str(error).split())
        if len(reason) > _REASON_CHARS:
            reason = f"… {reason[-_REASON_CHARS:]}"
        warnings.warn(
            f"MLX cannot compile kernels in {_folder()}, so it runs without them, which is slower: "
            f"{reason}. Set TMPDIR to a folder in which programs can be written and run.",
            SimulWarning,
            stacklevel=2,
        )


def _compile_a_kernel() -> None:
    """Have MLX make a kernel, or load the one that an earlier process made."""
    square_and_add = mx.compile(lambda x: x * x + x)
    mx.eval(square_and_add(mx.array([1.0])))


def _write_a_file() -> None:
    """Check that there is room for another kernel: the first one may have been made long ago."""
    # Where there is no compiler, MLX itself does without kernels and makes no folder.
    if _folder().is_dir():
        with tempfile.TemporaryFile(dir=_folder()) as file:
            file.write(bytes(_KERNEL_BYTES))


def _folder() -> Path:
    """Where MLX puts its kernels."""
    # The order of C++'s temp_directory_path; Python's own would pass over what is not usable.
    names = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")
    temporary = next((os.environ[name] for name in names if name in os.environ), "/tmp")
    return Path(temporary, "mlx", version("mlx"), "cpu")
