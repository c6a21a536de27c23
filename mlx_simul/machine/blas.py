"""Gives MLX a real BLAS on Linux, where its CPU wheels bundle the slow reference one.

``libmlx.so`` asks the dynamic linker for a plain ``cblas_sgemm``, and the linker searches what was
loaded with ``RTLD_GLOBAL`` before it searches the library's own dependencies. So a BLAS loaded that
way *before* ``mlx.core`` is imported takes the place of the bundled one, and float32 matrix
products run some fifty times faster. The BLAS inside numpy, scipy and torch cannot serve: it is
hidden, or its names carry a prefix.

``mlx_simul/__init__.py`` calls :func:`load_blas`, which takes about 15 ms, so no module has to care
in which order it imports. A program that imports MLX first keeps the slow BLAS, and is warned when
it loads its first model.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_simul.errors import InvalidOptionError, SimulWarning

ENV_VAR = "MLX_SIMUL_BLAS"
"""Overrides the search: the path of a shared library, or ``none`` to load nothing."""

_SYMBOL = "cblas_sgemm"
_BUNDLED = "MLX's bundled reference BLAS"
_CUDA_PACKAGES = ("mlx-cuda-12", "mlx-cuda-13")
_LINKER_NAMES = ("libopenblasp.so.0", "libopenblas.so.0")


@dataclass(frozen=True)
class Blas:
    """Which library multiplies MLX's matrices in this process.

    Attributes:
        name: what it is, for people.
        path: the shared library; None where nothing was loaded in place of MLX's own.
        remedy: how to get a faster one; empty where this one is not slow.
        refusals: what was tried before settling for a slow one, and why each would not do.
        chosen: True if ``MLX_SIMUL_BLAS`` asks for the slow one, so that no warning is due.
        problem: why what ``MLX_SIMUL_BLAS`` names cannot be used; empty where it can.
    """

    name: str
    path: Path | None = None
    remedy: str = ""
    refusals: tuple[str, ...] = ()
    chosen: bool = False
    problem: str = ""

    def __str__(self) -> str:
        if self.remedy:
            return f"{self.name} (slow): {self.remedy}"
        return f"{self.name} ({self.path.name})" if self.path else self.name


@functools.cache
def load_blas() -> Blas:
    """Load a real BLAS for MLX if this machine needs one; done once in a process.

    Loads a shared library into the whole process on Linux without CUDA, and nothing elsewhere.

    Never raises, since importing the package must not: see :func:`check`.

    Returns:
        The BLAS that MLX uses from now on.
    """
    if sys.platform == "darwin":
        return Blas("Accelerate (macOS)")
    if sys.platform != "linux":
        return Blas("MLX's own BLAS")
    if any(_is_installed(package) for package in _CUDA_PACKAGES):
        return Blas("CUDA")
    if present := _provider():
        return _named(present)
    if "mlx.core" in sys.modules:
        return Blas(_BUNDLED, remedy="import mlx_simul before mlx")
    if wish := os.environ.get(ENV_VAR, ""):
        return _load_wish(wish)
    refusals = []
    for candidate in _candidates():
        try:
            return _load(candidate)
        except OSError as error:
            refusals.append(str(error))
    return Blas(_BUNDLED, remedy=_remedy(), refusals=tuple(refusals))


def describe() -> str:
    """Say in one line which BLAS MLX uses here."""
    return str(load_blas())


def check() -> None:
    """Warn with a :class:`~mlx_simul.errors.SimulWarning` if MLX multiplies slowly here.

    Raises:
        InvalidOptionError: if ``MLX_SIMUL_BLAS`` names a library that cannot be used.
    """
    blas = load_blas()
    if blas.problem:
        raise InvalidOptionError(blas.problem)
    if blas.remedy and not blas.chosen:
        tried = f" (tried: {'; '.join(blas.refusals)})" if blas.refusals else ""
        warnings.warn(f"MLX multiplies with {blas}{tried}", SimulWarning, stacklevel=3)


def _load_wish(wish: str) -> Blas:
    """Load what ``MLX_SIMUL_BLAS`` asks for, or say why that cannot be done."""
    if wish == "none":
        return Blas(_BUNDLED, remedy=f"unset {ENV_VAR}", chosen=True)
    try:
        return _load(wish)
    except OSError as error:
        problem = (
            f"{ENV_VAR}={wish} is not a usable BLAS ({error}). Name a shared library that exports "
            f"{_SYMBOL} with 32-bit integers, or set it to 'none', or unset it."
        )
        return Blas(_BUNDLED, remedy=f"unset {ENV_VAR}", problem=problem)


def _candidates() -> Iterator[str]:
    """Yield what may be a real BLAS, the fastest first."""
    # MKL with 64-bit integers would read MLX's 32-bit arguments as garbage.
    if not os.environ.get("MKL_INTERFACE_LAYER", "").startswith("ILP64"):
        files = (importlib.metadata.files("mkl") or []) if _is_installed("mkl") else []
        yield from (str(file.locate()) for file in files if file.name.startswith("libmkl_rt.so"))
        # conda puts its MKL here too, without the metadata of a Python package.
        yield from map(str, sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*")))
    yield from map(str, Path(sys.prefix, "lib").glob("libopenblas.so.0"))
    yield from _LINKER_NAMES


def _load(library: str) -> Blas:
    """Load a library for the whole process; raise OSError if it is missing or no plain BLAS."""
    # MKL's threads else spin while they wait for each other: on two cores beside other work a pass
    # over a 135M model took ten times longer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Local first: a library without the symbol must not leak its others into the process.
    handle = ctypes.CDLL(library, ctypes.RTLD_LOCAL)
    try:
        getattr(handle, _SYMBOL)
    except AttributeError as error:
        raise OSError(f"{library}: exports no {_SYMBOL}") from error
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    return _named(Path(library))


class _DlInfo(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = (
        ("file_name", ctypes.c_char_p),
        ("file_base", ctypes.c_void_p),
        ("symbol_name", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    )


def _provider() -> Path | None:
    """Return the library whose ``cblas_sgemm`` the linker would give MLX, if not MLX's own."""
    process = ctypes.CDLL(None)
    try:
        function = getattr(process, _SYMBOL)
    except AttributeError:
        return None
    info = _DlInfo()
    process.dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))
    return Path(os.fsdecode(info.file_name or b"unknown"))


def _named(path: Path) -> Blas:
    makers = {"mkl": "MKL", "openblas": "OpenBLAS", "blis": "BLIS", "armpl": "Arm"}
    return Blas(next((name for key, name in makers.items() if key in path.name), "BLAS"), path)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _remedy() -> str:
    # The wheels of MKL, our extra, exist for x86-64 only.
    if platform.machine() == "x86_64":
        return "pip install 'mlx-simul[blas]'"
    return "install OpenBLAS (Debian: apt install libopenblas0, Fedora: dnf install openblas)"
