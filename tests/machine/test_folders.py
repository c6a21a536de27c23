"""A conversion is whole or not there, however it ends."""

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT
from tiny_checkpoints import everything_in, golden_folder

from mlx_simul.checkpoints import checkpoint
from mlx_simul.checkpoints.convert import Quantization, convert
from mlx_simul.errors import ConversionError
from mlx_simul.machine import folders
from mlx_simul.machine.folders import replacing_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


class Stop(BaseException):
    """Stands for whatever ends a conversion."""


@pytest.mark.parametrize("stop", [Stop, KeyboardInterrupt, OSError("No space left on device")])
@pytest.mark.parametrize("at", ["read_folder", "quantise", "save", "copy_generation_config"])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, source: Path, target: Path, at: str, stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_):
        raise stop

    before = everything_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, at, interrupted)
        with pytest.raises((Stop, KeyboardInterrupt, ConversionError)):
            convert(source, target, quantization=Quantization(group_size=32))
    assert everything_in(tmp_path) == before
    convert(source, target)
    assert everything_in(tmp_path) == [*before, "target"]


def test_an_interrupted_replacement_leaves_the_old_folder(
    tmp_path: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.mkdir()
    (target / "config.json").write_text("old")
    rename = Path.rename

    def interrupted(path: Path, to: Path):
        if path.name == ".target.partial":
            raise KeyboardInterrupt
        return rename(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(source, target, force=True)
    assert (target / "config.json").read_text() == "old"
    convert(source, target, force=True)
    assert (target / "config.json").read_text() != "old"
    assert everything_in(tmp_path) == ["source", "target"]


KILLED_WHILE_WRITING = """
import sys, time
from pathlib import Path
from mlx_simul.machine import folders
from mlx_simul.machine.folders import replacing_folder
with replacing_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_conversion_does_not_block_the_next(
    tmp_path: Path, source: Path, target: Path
) -> None:
    script = [sys.executable, "-c", KILLED_WHILE_WRITING, str(target)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        with pytest.raises(ConversionError, match="being written by another process"):
            convert(source, target)
        process.send_signal(signal.SIGKILL)
    assert everything_in(tmp_path) == [".target.partial", "source"]
    convert(source, target)
    assert everything_in(tmp_path) == ["source", "target"]
    assert "half" not in everything_in(target)


@pytest.mark.parametrize("new_in_place", [False, True])
def test_a_swap_cut_by_a_kill_is_settled_by_the_next_run(
    tmp_path: Path, target: Path, new_in_place: bool
) -> None:
    previous = tmp_path / ".target.previous"
    previous.mkdir()
    (previous / "old").write_text("old")
    if new_in_place:
        target.mkdir()
        (target / "new").write_text("new")
    with pytest.raises(ConversionError, match="not empty"), replacing_folder(target):
        pass
    assert everything_in(tmp_path) == ["target"]
    assert everything_in(target) == (["new"] if new_in_place else ["old"])


def test_a_partial_folder_that_appears_between_two_steps_is_locked_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = target.with_name(".target.partial")
    flock, calls = folders.fcntl.flock, []

    def renamed_meanwhile(lock: int, operation: int) -> None:
        flock(lock, operation)
        calls.append(lock)
        if len(calls) == 1:
            partial.rmdir()  # as if its owner had put it in place in this very moment

    monkeypatch.setattr(folders.fcntl, "flock", renamed_meanwhile)
    with replacing_folder(target) as folder:
        (folder / "file").write_text("x")
    assert len(calls) == 2 and everything_in(target) == ["file"]


def test_a_target_with_content_is_only_replaced_by_force(source: Path, target: Path) -> None:
    target.mkdir()
    convert(source, target)  # an empty folder is free to use
    with pytest.raises(ConversionError, match=r"not empty.*--force"):
        convert(source, target)
    (target / "model.safetensors").unlink()
    convert(source, target, force=True)
    assert (target / "model.safetensors").exists()
    (target / "config.json").unlink()
    with pytest.raises(ConversionError, match="not a model that --force may replace"):
        convert(source, target, force=True)
    file = target.with_name("file")
    file.write_text("mine")
    with pytest.raises(ConversionError, match="is a file"):
        convert(source, file, force=True)
    assert file.read_text() == "mine"


def test_the_source_is_not_overwritten(source: Path) -> None:
    before = everything_in(source)
    shutil.copy(source / "config.json", source.parent)
    for target in (source, source.parent):
        with pytest.raises(ConversionError, match="holds the source;"):
            convert(source, target, force=True)
    assert everything_in(source) == before


def test_a_full_disk_is_named(tmp_path: Path, source: Path, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ConversionError, match="Writing the weights failed"):
            convert(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything_in(tmp_path) == ["source"]
