"""A server for clients that were not written by us, and what they must hear from it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clients.servers import serving

import mlx_simul

NPM = Path(__file__).parent / "npm"
KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="session")
def server():
    """Without keys."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def keyed(tmp_path_factory):
    """With keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# who  key\nalice {KEY}\n", "utf-8")
    with serving("--keys", str(keys)) as server:
        yield server


@pytest.fixture(scope="session")
def translation():
    """What the packaged model makes of a text, without any server."""
    model, tokenizer = mlx_simul.load()
    return lambda text, **options: mlx_simul.generate(model, tokenizer, text, **options)


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory):
    """A folder with the official client for Node, in the version that package-lock.json holds."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed: the official client for Node is not tried")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NPM / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ, timeout=300)
    return folder
