"""Which BLAS multiplies MLX's matrices: the search, its refusals, and that MLX really uses it."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_simul.machine import blas

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX brings a fast BLAS")
with_real_blas = pytest.mark.skipif(
    blas.load_blas().path is None,
    reason="no BLAS is installed that could take the reference's place",
)


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where nothing has loaded MLX or a BLAS yet."""
    clean = {name: value for name, value in os.environ.items() if name != blas.ENV_VAR}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | env, capture_output=True, text=True, timeout=300
    )


def printed(code: str, **env: str) -> str:
    done = run(code, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The package as it is after an import that loaded nothing, ready to search again.
AFRESH = """
import os
os.environ["MLX_SIMUL_BLAS"] = "none"
from mlx_simul.machine import blas
del os.environ["MLX_SIMUL_BLAS"]
blas.load_blas.cache_clear()
"""


CHECK = "from mlx_simul.machine.arithmetic import check_arithmetic; check_arithmetic()"

# ---- The law: what describe() names is what MLX calls ----

MULTIPLY = """
from mlx_simul.machine import blas
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
    code = f"""{AFRESH}
blas._candidates = lambda: iter(["libnot-there.so.0", "libm.so.6", {real!r}])
print(blas.load_blas().path)
"""
    assert printed(code) == real


@on_linux
def test_where_nothing_is_found_the_user_is_warned_once_and_told_what_to_do():
    code = f"""{AFRESH}
import warnings
blas._candidates = lambda: iter(["libnot-there.so.0", "libm.so.6"])
blas.platform.machine = lambda: "x86_64"
blas.load_blas()  # as importing the package does, before MLX
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from mlx_simul.machine.arithmetic import check_arithmetic
    check_arithmetic()
    check_arithmetic()
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
    code = f"""{AFRESH}
blas._candidates = lambda: iter([])
blas.platform.machine = lambda: "aarch64"
print(blas.describe())
"""
    assert "apt install libopenblas0" in printed(code)


@on_linux
def test_who_asks_for_none_gets_none_and_no_warning():
    code = f"{CHECK}; from mlx_simul.machine import blas; print(blas.describe())"
    assert "(slow)" in printed(
        "import warnings; warnings.simplefilter('error');" + code, MLX_SIMUL_BLAS="none"
    )


@on_linux
@pytest.mark.parametrize(
    ("library", "reason"),
    [("/no/such/libblas.so", "/no/such/libblas.so"), ("libm.so.6", "exports no cblas_sgemm")],
)
def test_a_wish_that_cannot_be_met_is_an_error(library, reason):
    done = run(CHECK, MLX_SIMUL_BLAS=library)
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
    code = "import os, mlx_simul; print(os.environ['OMP_WAIT_POLICY'])"
    assert printed(code, **before) == after


@on_linux
@with_real_blas
def test_a_library_that_the_process_already_has_is_left_in_charge():
    real = str(blas.load_blas().path)
    code = f"""{AFRESH}
import ctypes
ctypes.CDLL({real!r}, ctypes.RTLD_GLOBAL)
blas._load = None
print(blas.load_blas().path)
"""
    assert printed(code) == real


@on_linux
def test_too_late_is_said_and_nothing_is_loaded():
    code = f"""{AFRESH}
import mlx.core
blas._load = None
print(blas.describe())
"""
    assert "import mlx_simul before mlx" in printed(code)


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


# ---- The law of the import: whatever comes first, the BLAS comes before MLX ----


@on_linux
@with_real_blas
@pytest.mark.parametrize("first", ["mlx_simul", "mlx_simul.policies", "mlx_simul.engine"])
def test_importing_any_part_of_the_package_loads_the_blas(first):
    code = f"import {first}; from mlx_simul.machine import blas; print(blas.load_blas().path)"
    assert printed(code) == str(blas.load_blas().path)


@on_linux
def test_importing_the_package_does_not_import_mlx():
    assert printed("import sys, mlx_simul; print('mlx.core' in sys.modules)") == "False"


@on_linux
@with_real_blas
def test_who_imports_mlx_first_is_told_to_import_it_second():
    assert "import mlx_simul before mlx" in run(f"import mlx.core; {CHECK}").stderr
