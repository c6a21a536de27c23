#!/usr/bin/env python
"""Write constraints.txt, the versions that the tests run with; and the oldest that are allowed.

Run it as ``tox -e pin``. uv resolves what pyproject.toml requires, for every Python and platform at
once, so the files hold names, versions and markers, and nothing of this machine. With --compare,
nothing is written: it says which packages are installed here in another version than is known.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
KNOWN = ROOT / "constraints.txt"
OLDEST = ROOT / "constraints-oldest.txt"

# Folders of wheels are left out: they may hold builds that no index has.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "constraint": "UV_CONSTRAINT",
}
"""What pip's configuration says, and the variable in which uv reads the same."""


def uv_environment() -> dict[str, str]:
    """pip's configuration of this machine, as environment variables of uv."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(pip, capture_output=True, text=True, check=True).stdout.splitlines()
    # What a variable says (":env:.cert=…") comes before what a file says ("global.cert=…").
    found: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in ("global", ":env:") and option in UV_NAMES:
            found[UV_NAMES[option]] = " ".join(ast.literal_eval(value).split())
    return found


def resolve(target: Path, *options: str) -> None:
    """Write one file of constraints.

    Args:
        target: the file.
        options: what uv is told besides.

    Raises:
        subprocess.CalledProcessError: if there is no solution; uv says why on standard error.
    """
    command = ["uv", "pip", "compile", "pyproject.toml", "--output-file", str(target), "--upgrade"]
    command += ["--universal", "--no-python-downloads"]
    # As pip does it: the best version in any index, not the first index that has the package.
    command += ["--index-strategy", "unsafe-best-match"]
    command += ["--no-annotate", "--custom-compile-command", "tox -e pin", "--quiet"]
    subprocess.run([*command, *options], cwd=ROOT, env=os.environ | uv_environment(), check=True)


def differences() -> Iterator[str]:
    """Every package that is installed here in another version than constraints.txt has."""
    for line in KNOWN.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        known = Requirement(line)
        try:
            installed = version(known.name)
        except PackageNotFoundError:
            continue
        applies = known.marker is None or known.marker.evaluate()
        if applies and not known.specifier.contains(installed, prereleases=True):
            yield f"{known.name} {installed}, where the tests know {known.specifier}"


def main() -> int:
    """Parse the command line, write or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compare", action="store_true", help="write nothing, list what differs")
    if parser.parse_args().compare:
        print("\n".join(differences()) or "Everything has the version that the tests know.")
        return 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lowest_python = project["project"]["requires-python"].removeprefix(">=")
    everything = ["--all-extras", "--python-version", lowest_python]
    groups = [f"--group={name}" for name in project["dependency-groups"]]
    try:
        resolve(KNOWN, *everything, *groups)
        resolve(OLDEST, *everything, "--resolution=lowest-direct")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"pin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
