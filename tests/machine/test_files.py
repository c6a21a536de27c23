"""Folders with any name, and a home folder written as ``~``, for every command and option."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from repository import ROOT
from tiny_checkpoints import golden_folder

import mlx_simul
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.loading import load_folder
from mlx_simul.console.cli import main
from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.errors import SimulError
from mlx_simul.machine.files import expanded

NAMES = ["a [4bit]", "[ab]", "what?", "all*", "[!x]", "**", "]["]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name(tmp_path: Path, name: str):
    folder = golden_folder(tmp_path / name, "qwen2")
    # A neighbour that the name would match, if it were a pattern.
    golden_folder(tmp_path / "a", "llama")
    model, _ = mlx_simul.load(folder)
    assert model.model_type == "qwen2"
    target = convert(folder, tmp_path / "target" / name)
    assert load_folder(target)[0].model_type == "qwen2"
    code = main(["translate", "--model", str(target), "--to", "French", "--max-tokens", "1", "A."])
    assert code == EXIT_INCOMPLETE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a model, and another one to be in."""
    home, elsewhere = tmp_path / "home [1]", tmp_path / "elsewhere"
    home.mkdir()
    golden_folder(home / "model", "llama")
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    return home


TRANSLATE = ["translate", "--model", "~/model", "--to", "French", "--max-tokens", "2"]


def run(*arguments: str) -> None:
    # A model of random weights is cut off by its limit.
    cut_off = arguments[0] in ("translate", "inspect")
    assert main(list(arguments)) == (EXIT_INCOMPLETE if cut_off else 0)
    assert not list(Path.cwd().iterdir()), "written beside the home folder"


def test_load(home: Path):
    for path in ("~/model", Path("~/model")):
        assert mlx_simul.load(path)[0].model_type == "llama"


def test_convert_and_validate(home: Path, capsys: pytest.CaptureFixture[str]):
    run("convert", "~/model", "~/out/target")
    assert (home / "out" / "target" / "config.json").is_file()
    main(["validate", "~/out/target"])
    assert "tensor values" in capsys.readouterr().out


def test_files_that_translate_reads(home: Path):
    (home / "source.txt").write_text("One two.")
    (home / "context.txt").write_text("Numbers.")
    (home / "terms.tsv").write_text("one\tun\n")
    options = [
        "--context",
        "@~/context.txt",
        "--glossary",
        "~/terms.tsv",
        "--draft",
        "~/model",
    ]
    run(*TRANSLATE, *options, "--file", "~/source.txt")


def test_an_adapter(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "checkpoints")
    from test_peft_adapters import LORA, write

    write(home / "model", LORA)
    run(*TRANSLATE, "--adapter", "~/adapter", "One.")


def test_inspect(home: Path):
    run("inspect", "One two.", "--model", "~/model", "--to", "French", "--picture", "~/picture.svg")
    assert (home / "picture.svg").is_file()


def test_evaluate(home: Path):
    pair = {"source": "One two.", "target": "Un deux."}
    (home / "pairs.jsonl").write_text(json.dumps(pair))
    (home / "source.txt").write_text("One two.\n")
    (home / "target.txt").write_text("Un deux.\n")
    both = ["evaluate", "--model", "~/model", "--to", "French", "--wait-k", "1", "--no-plot"]
    run(*both, "--max-tokens", "2", "--folder", "~/one", "--corpus", "~/pairs.jsonl")
    texts = ["--corpus", "~/source.txt", "--reference", "~/target.txt"]
    run(*both, "--max-tokens", "2", "--folder", "~/two", *texts)
    assert (home / "one" / "evaluation.json").is_file() and (
        home / "two" / "evaluation.json"
    ).is_file()


def test_train(home: Path):
    pairs = "".join(f"Number {i} is here.\tLe nombre {i} est ici.\n" for i in range(16))
    (home / "pairs.tsv").write_text(pairs)
    (home / "run.toml").write_text(
        '[data]\ntrain = "~/pairs.tsv"\nvalid = "~/pairs.tsv"\n'
        '[model]\npath = "~/model"\nfine_tune = "full"\n[run]\nfolder = "~/run"\n'
        "[optimiser]\nsteps = 1\n"
    )
    run("train", "~/run.toml")
    assert (home / "run").is_dir()


@pytest.mark.parametrize("name", ["~nobody-of-that-name/model", "a/~/model", "model~"])
def test_what_names_no_home_stays(home: Path, name: str):
    assert expanded(name) == Path(name)
    with pytest.raises(SimulError, match="model"):
        mlx_simul.load(name)


def test_a_folder_that_is_called_like_that(home: Path, tmp_path: Path):
    shutil.copytree(home / "model", Path.cwd() / "~" / "model")
    assert mlx_simul.load("./~/model")[0].model_type == "llama"
