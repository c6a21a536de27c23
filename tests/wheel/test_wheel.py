"""The wheel that is built and installed: its size, what it holds, and that it translates."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

MAX_WHEEL_BYTES = 10_000_000
ROOT = Path(__file__).parents[2]

# Anything that would reach for the network ends the process.
NO_NETWORK = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
from mlx_simul import __file__
from mlx_simul.console import cli
print(__file__)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel():
    """That which tox has built and installed here."""
    return Path(os.environ["TOX_PACKAGE"])


def test_it_holds_the_model_and_the_credits_in_ten_megabytes(wheel):
    assert wheel.suffix == ".whl"
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    folder = "mlx_simul/models/en-fr"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert f"{folder}/{name}" in names
    assert f"{folder}/README.md" in names
    assert "mlx_simul/serving/page/index.html" in names
    assert any(name.endswith(".dist-info/licenses/NOTICE") for name in names)
    assert not [name for name in names if re.match(r"(tests|docs|tools|benchmarks)/", name)]


def test_what_is_installed_translates_without_a_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "translate", "I would like a cup of coffee."],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    where, said = done.stdout.splitlines()
    assert ROOT / "mlx_simul" not in Path(where).parents
    assert {"tasse", "café"} & set(re.findall(r"\w+", said)), said
