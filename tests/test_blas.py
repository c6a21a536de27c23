"""Which BLAS multiplies MLX's matrices: the search, its refusals, and that MLX really uses it."""

from __future__ import annotations

import ast
import ctypes
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_simul.errors
from mlx_simul import blas

PACKAGE = Path(mlx_simul.errors.__file__).parent

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX brings a fast BLAS")
with_real_blas = pytest.mark.skipif(
    blas.load_blas().path is None,
    reason="no BLAS is installed that could take the reference's place",
)


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where nothing has loaded MLX or a BLAS yet."""
    clean = {name: value for name, value in os.environ.items() if name != blas.ENV_VAR}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | env, capture_output=True, text=True, timeout=120
    )


def printed(code: str, **env: str) -> str:
    done = run(code, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- The law: what describe() names is what MLX calls ----

MULTIPLY = """
from mlx_simul import blas, before_mlx
import mlx.core as mx
mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
print(blas.load_blas().path)
"""


def provider_of_sgemm(tmp_path: Path, **env: str) -> tuple[str, str]:
    """Return the library that we say MLX uses and the one the dynamic linker gave it."""
    log = tmp_path / "bindings"
    said = printed(MULTIPLY, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(log), **env)
    # The linker's log has one line for each symbol it resolves: "binding file A to B: ... `name'".
    line = re.compile(r"binding file \S*/libmlx\.so \[\d+\] to (\S+) .*`cblas_sgemm'")
    text = "".join(file.read_text(errors="replace") for file in tmp_path.glob("bindings*"))
    return Path(said).name, Path(line.findall(text)[0]).name


@on_linux
@with_real_blas
def test_the_linker_gives_mlx_the_library_that_we_name(tmp_path):
    said, bound = provider_of_sgemm(tmp_path)
    assert bound == said
    assert "blas-" not in bound


@on_linux
def test_without_one_the_linker_gives_mlx_its_bundled_library(tmp_path):
    said, bound = provider_of_sgemm(tmp_path, MLX_SIMUL_BLAS="none")
    assert said == "None"
    assert bound.startswith("libblas-")


# ---- The search ----


@on_linux
@with_real_blas
def test_a_candidate_without_the_symbol_is_passed_over():
    real = str(blas.load_blas().path)
    code = f"""
from mlx_simul import blas
blas._candidates = lambda: iter(["libnot-there.so.0", "libm.so.6", {real!r}])
print(blas.load_blas().path)
"""
    assert printed(code) == real


@on_linux
def test_where_nothing_is_found_the_user_is_warned_once_and_told_what_to_do():
    code = """
import warnings
from mlx_simul import blas
blas._candidates = lambda: iter(["libnot-there.so.0", "libm.so.6"])
blas.platform.machine = lambda: "x86_64"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mlx_simul.before_mlx
    from mlx_simul import before_mlx
assert len(caught) == 1, caught
print(caught[0].category.__name__, caught[0].message)
print(blas.describe())
"""
    warned, described = printed(code).splitlines()
    assert warned.startswith("SimulWarning ")
    assert "pip install 'mlx-simul[blas]'" in warned
    assert "libnot-there.so.0" in warned
    assert "exports no cblas_sgemm" in warned
    assert described.endswith("(slow): pip install 'mlx-simul[blas]'")


@on_linux
def test_where_mkl_has_no_wheels_the_advice_is_openblas():
    code = """
from mlx_simul import blas
blas._candidates = lambda: iter([])
blas.platform.machine = lambda: "aarch64"
print(blas.describe())
"""
    assert "apt install libopenblas0" in printed(code)


@on_linux
def test_who_asks_for_none_gets_none_and_no_warning():
    code = "import mlx_simul.before_mlx; from mlx_simul import blas; print(blas.describe())"
    assert "(slow)" in printed(
        "import warnings; warnings.simplefilter('error');" + code, MLX_SIMUL_BLAS="none"
    )


@on_linux
@pytest.mark.parametrize(
    ("library", "reason"),
    [("/no/such/libblas.so", "/no/such/libblas.so"), ("libm.so.6", "exports no cblas_sgemm")],
)
def test_a_wish_that_cannot_be_met_is_an_error(library, reason):
    done = run("import mlx_simul.before_mlx", MLX_SIMUL_BLAS=library)
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert message.startswith("mlx_simul.errors.InvalidOptionError: MLX_SIMUL_BLAS=" + library)
    assert reason in message
    assert "unset it" in message


@on_linux
@with_real_blas
@pytest.mark.parametrize(
    ("before", "after"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_idle_threads_do_not_spin_unless_the_user_says_so(monkeypatch, before, after):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = "import os, mlx_simul.before_mlx; print(os.environ['OMP_WAIT_POLICY'])"
    assert printed(code, **before) == after


@on_linux
@with_real_blas
def test_a_library_that_the_process_already_has_is_left_in_charge():
    real = str(blas.load_blas().path)
    code = f"""
import ctypes
ctypes.CDLL({real!r}, ctypes.RTLD_GLOBAL)
from mlx_simul import blas
blas._load = None
print(blas.load_blas().path)
"""
    assert printed(code) == real


@on_linux
def test_too_late_is_said_and_nothing_is_loaded():
    code = """
import mlx.core
from mlx_simul import blas
blas._load = None
print(blas.describe())
"""
    assert "import mlx_simul.before_mlx before anything of mlx" in printed(code)


def test_mkl_with_64_bit_integers_is_no_candidate(monkeypatch):
    monkeypatch.delenv("MKL_INTERFACE_LAYER", raising=False)
    usual = [name for name in blas._candidates() if "mkl" in name]
    monkeypatch.setenv("MKL_INTERFACE_LAYER", "ILP64")
    assert not [name for name in blas._candidates() if "mkl" in name]
    assert usual or not blas._is_installed("mkl")


# ---- Machines that are left alone ----


@pytest.fixture
def loads_nothing(monkeypatch):
    def refuse(*_):
        raise AssertionError("a library was loaded on a machine that is to be left alone")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def test_apple_machines_are_left_alone(monkeypatch, loads_nothing):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert str(blas.load_blas.__wrapped__()) == "Accelerate (macOS)"


def test_cuda_is_left_alone(monkeypatch, loads_nothing):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(blas, "_is_installed", lambda package: package == "mlx-cuda-13")
    assert str(blas.load_blas.__wrapped__()) == "CUDA"


def test_linux_without_cuda_is_not_left_alone(monkeypatch, loads_nothing):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(blas, "_is_installed", lambda package: False)
    with pytest.raises(AssertionError, match="left alone"):
        blas.load_blas.__wrapped__()


# ---- The law of the import line: whichever module comes first, the BLAS comes before MLX ----


def imports(node: ast.AST) -> Iterator[str]:
    """Yield what a source imports when it runs, from the top down, functions included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or ""
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imports(child)


def imports_mlx_too_early(source: str) -> bool:
    """True if the source imports MLX or mlx-lm with no ``before_mlx`` above it."""
    names = itertools.takewhile(lambda n: n != "mlx_simul.before_mlx", imports(ast.parse(source)))
    return any(name.split(".")[0] in ("mlx", "mlx_lm") for name in names)


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=str(p.relative_to(PACKAGE))) for p in sorted(PACKAGE.rglob("*.py"))]
)
def test_every_module_loads_the_blas_before_mlx(path):
    assert not imports_mlx_too_early(path.read_text(encoding="utf-8")), (
        f"{path.name} imports MLX: put 'import mlx_simul.before_mlx' above it"
    )


@pytest.mark.parametrize(
    ("source", "too_early"),
    [
        ("import mlx.core as mx", True),
        ("import mlx.core as mx\nimport mlx_simul.before_mlx", True),
        ("import numpy\ndef f():\n    from mlx_lm.utils import load", True),
        ("import mlx_simul.before_mlx\n\nimport mlx.core as mx", False),
        ("if TYPE_CHECKING:\n    import mlx.core as mx", False),
        ("import numpy\nfrom mlx_simul.cache import X", False),
    ],
)
def test_the_law_of_the_import_line_can_fail(source, too_early):
    assert imports_mlx_too_early(source) is too_early
