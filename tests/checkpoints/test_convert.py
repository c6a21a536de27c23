"""The conversion command: where it finds its source, and what it says."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from repository import ROOT
from tiny_checkpoints import everything_in, golden_folder, write_tiny

from mlx_simul.checkpoints import checkpoint
from mlx_simul.checkpoints.convert import Quantization, convert, locate
from mlx_simul.console.convert import add_arguments, run
from mlx_simul.errors import ConversionError, InvalidOptionError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def test_options_outside_their_range_are_refused(source: Path, target: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"'int8'\. Possible: float32"):
        convert(source, target, dtype="int8")
    with pytest.raises(InvalidOptionError, match="bits=7"):
        Quantization(bits=7)
    with pytest.raises(InvalidOptionError, match="group_size=65"):
        Quantization(group_size=65)


def test_a_wrong_kind_of_path_is_put_right(tmp_path: Path, source: Path, target: Path) -> None:
    with pytest.raises(ConversionError, match="name its folder"):
        convert(source / "model.safetensors", target)
    gguf = write_tiny(tmp_path / "m.gguf", "llama")
    with pytest.raises(ConversionError, match=f"Convert its GGUF file by name: {gguf}"):
        convert(tmp_path, tmp_path.with_name("elsewhere"))


@pytest.mark.parametrize("name", ["nothing", "/no/such/file", "owner/name/file.bin", "a/b/c"])
def test_what_is_neither_here_nor_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(ConversionError, match="There is no file or folder"):
        locate(name)


def test_the_hub_is_asked_for_what_is_not_here(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(name, *, revision, allow_patterns):
        asked.append((name, revision, any(p.endswith(".bin") for p in allow_patterns)))
        return str(source)

    def file(name, filename, *, revision):
        asked.append((name, filename, revision))
        return str(source / "config.json")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", file)
    assert locate("owner/name", "v1") == source
    assert locate("owner/name/q/m.gguf") == source / "config.json"
    assert asked == [("owner/name", "v1", False), ("owner/name", "q/m.gguf", None)]


def test_a_failing_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConversionError, match="downloading it failed: no route"):
        locate("owner/name")


def parsed(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_the_command_converts_and_says_what_it_wrote(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parsed(source, target, "--dtype", "bfloat16")) == 0
    assert capsys.readouterr().out == f"{target}: llama, 0.2 M parameters, bfloat16, 0.5 MB\n"
    assert run(parsed(source, target, "--quantize", "--q-group-size", "32", "--force")) == 0
    assert capsys.readouterr().out.startswith(f"{target}: llama, 0.2 M parameters, 4 bits")
    with pytest.raises(InvalidOptionError, match="need --quantize"):
        run(parsed(source, target, "--q-bits", "8", "--force"))


def test_termination_ends_the_command_without_a_trace(
    tmp_path: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_):
        assert everything_in(tmp_path) == [".target.partial", "source"]
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(checkpoint, "save", terminated)
    with pytest.raises(SystemExit, match="143"):
        run(parsed(source, target))
    assert everything_in(tmp_path) == ["source"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_script_reports_errors_without_a_traceback(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "tools" / "convert.py"), "nothing", str(tmp_path / "t")]
    result = subprocess.run(
        script,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 1
    # An older transformers says an empty line first.
    assert result.stderr.lstrip().startswith("mlx-simul: There is no file or folder 'nothing'")
