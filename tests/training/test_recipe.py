"""The commands of docs/fine-tuning.md run as they stand there, on a stand-in for the model."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import mlx_lm.fuse
import pytest
from mlx_lm.utils import quantize_model, save
from repository import ROOT
from tiny_chat import write_chat_folder
from tiny_run import PAIRS

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.log import read_log

PAGE = (ROOT / "docs" / "fine-tuning.md").read_text("utf-8")
REPOSITORY = "mlx-community/Qwen2.5-0.5B-Instruct-4bit"
SHORT = ["--steps", "3", "--set", "run.validate_pairs=4", "--set", "batches.max_tokens=400"]


def commands(page):
    """The commands in the fenced blocks of a page, lines that go on put together."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    shell = "".join(text for language, text in blocks if not language)
    lines = shell.replace("\\\n", "").splitlines()
    starts = ("mlx-simul ", "mlx_lm.fuse ", "cp ", "python ")
    return [line for line in lines if line.startswith(starts)]


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    lines = (json.dumps({"source": pair.source, "target": pair.target}) for pair in pairs)
    path.write_text("\n".join(lines), "utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a 4-bit chat model where the repository's would be."""
    model, tokenizer = mlx_simul.load(write_chat_folder(tmp_path / "plain"))
    config = json.loads((tmp_path / "plain" / "config.json").read_text("utf-8"))
    quantised, config = quantize_model(model, config, group_size=32, bits=4)
    save(tmp_path / REPOSITORY, tmp_path / "plain", quantised, tokenizer, config)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    write_pairs(tmp_path / "train.jsonl", PAIRS)
    write_pairs(tmp_path / "valid.jsonl", PAIRS[:4])
    (tmp_path / "live.txt").write_text("red house.", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, monkeypatch):
    program, *args = shlex.split(command)
    # Pairs of four words are enough here, and no export is fetched.
    args = [re.sub(r"^pairs/(train|valid)\.tsv(\.gz)?$", r"\1.jsonl", arg) for arg in args]
    if program == "cp":
        shutil.copy(*args)
    elif program == "mlx_lm.fuse":
        monkeypatch.setattr(sys, "argv", [program, *args])
        mlx_lm.fuse.main()
    else:
        options = {"train": SHORT, "translate": ["--max-tokens", "8"]}
        # A model that was trained for a minute does not end by itself.
        done = EXIT_INCOMPLETE if args[0] == "translate" else 0
        assert cli.main([*args, *options[args[0]]]) == done, command


def test_the_recipe_runs_as_it_is_written(here, monkeypatch, capsys):
    recipe = [line for line in commands(PAGE) if REPOSITORY in line or "my-model" in line]
    assert [line.split()[0] for line in recipe] == ["mlx-simul", "mlx_lm.fuse", "cp", "mlx-simul"]
    for command in recipe:
        run(command, monkeypatch)
    assert capsys.readouterr().out.strip()
    steps = [record["step"] for record in read_log(here / "fine-tuned" / "log.jsonl")]
    assert steps[0] == 0
    # What it was trained with has come along, and it is quantised as the model was.
    fused, _ = mlx_simul.load(here / "my-model")
    assert fused.streaming_config.target_start == 128
    assert fused.streaming_config.target_language == "French"
    config = json.loads((here / "my-model" / "config.json").read_text("utf-8"))
    assert config["quantization"]["bits"] == 4
    adapted, _ = mlx_simul.load(here / REPOSITORY, adapter_path=here / "fine-tuned" / "best")
    assert adapted.streaming_config.target_start == 128


def test_a_command_that_is_none_would_be_found_out(here, monkeypatch):
    with pytest.raises(SystemExit):
        run("mlx-simul train examples/fine_tune.toml --modle x", monkeypatch)


def test_every_option_that_the_page_names_exists(here, capsys):
    for option in [*re.findall(r"`(--set .+?)`", PAGE), "--fine-tune dora"]:
        data = ["--data", "none.jsonl", "--folder", "other", "--model", REPOSITORY]
        code = cli.main(["train", "examples/fine_tune.toml", *data, *shlex.split(option)])
        # The options are judged first, and the data that are not there after them.
        assert (code, "none.jsonl" in capsys.readouterr().err) == (cli.EXIT_USAGE, True), option
