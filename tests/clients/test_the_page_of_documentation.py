"""The examples of docs/serving.md are run as they stand, but for the address."""

import re
import shutil
import subprocess
import sys

import pytest
from repository import ROOT

pytestmark = pytest.mark.clients

PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")
SAID = "Good morning, how are you today? I like cats and dogs."
ADDRESS = "127.0.0.1:8765"


def example(language):
    """The first example in a language; the others take more than text."""
    text = examples(language)[0]
    assert ADDRESS in text
    return text


def examples(language):
    """All examples in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def output_of(server, language, *command):
    text = example(language).replace(ADDRESS, f"127.0.0.1:{server.port}")
    done = subprocess.run([*command, text], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(server, translation):
    pytest.importorskip("openai")
    assert output_of(server, "python", sys.executable, "-c") == translation(SAID)


def test_javascript(server, translation):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    # From 22 on a WebSocket is there as in a browser.
    options = ["--experimental-websocket"] if int(version[1:].partition(".")[0]) < 22 else []
    assert output_of(server, "js", node, *options, "-e").strip() == translation(SAID)


def test_curl(server, translation):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    said = output_of(server, "bash", "bash", "-ec")
    assert '"type":"session.closed"' in said
    assert translation("I like cats and dogs.") in said.split("session.closed")[1]  # the subtitles


def test_the_configuration(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice 0123456789-abcdef\n", "utf-8")
    text = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
    config = tmp_path / "serve.toml"
    config.write_text(text.replace("/etc/mlx-simul/keys", str(keys)), "utf-8")
    command = [sys.executable, "-m", "mlx_simul", "serve", "--config", str(config), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)
    assert done.returncode == 0, done.stderr
    config.write_text(config.read_text("utf-8").replace("max_sessions", "max_session"), "utf-8")
    wrong = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)
    assert wrong.returncode == 2 and "max_session" in wrong.stderr
