"""Where MLX's kernel compiler cannot work, MLX runs without it."""

import os
import subprocess
import sys

import mlx.core as mx
import pytest
from tiny_chat import write_chat_folder

from mlx_simul.console.live import EXIT_INCOMPLETE

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="kernels for a GPU are compiled elsewhere"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("kernels") / "model")


def missing(folder):
    return {"TMPDIR": str(folder / "none")}


def a_file(folder):
    (folder / "file").write_text("")
    return {"TMPDIR": str(folder / "file")}


def taken_by_another(folder):
    (folder / "mlx").write_text("")
    return {"TMPDIR": str(folder)}


def broken_compiler(folder):
    compiler = folder / "g++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || exit 1\n")
    compiler.chmod(0o755)
    return {"TMPDIR": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


def usable(folder):
    return {"TMPDIR": str(folder)}


def no_compiler(folder):
    return {"TMPDIR": str(folder), "PATH": str(folder)}


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """What the command gives in each case: all of them at once, as most of it is their start."""
    command = [sys.executable, "-m", "mlx_simul", "translate", "--model", str(model)]
    command += ["--to", "French", "--max-tokens", "6", "one two three"]
    begun = {}
    for case in (missing, a_file, taken_by_another, broken_compiler, usable, no_compiler):
        environment = os.environ | case(tmp_path_factory.mktemp(case.__name__))
        begun[case] = subprocess.Popen(
            command,
            env=environment | {"MKL_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    ended = {case: (*process.communicate(), process.returncode) for case, process in begun.items()}
    return {case: (code, out.decode(), err.decode()) for case, (out, err, code) in ended.items()}


@pytest.mark.parametrize("case", [missing, a_file, taken_by_another, broken_compiler])
def test_without_kernels_the_output_is_the_same_and_a_warning_says_what_to_set(runs, case):
    code, out, err = runs[case]
    assert (code, out) == runs[usable][:2]
    assert err.count("MLX cannot compile kernels in ") == 1
    assert "Set TMPDIR to" in err and "Traceback" not in err


@pytest.mark.parametrize("case", [usable, no_compiler])
def test_where_there_is_nothing_to_do_nothing_is_said(runs, case):
    """Negative control; without a compiler MLX itself does without kernels."""
    code, out, err = runs[case]
    assert (code, out) == runs[usable][:2] and code == EXIT_INCOMPLETE
    assert "kernels" not in err
