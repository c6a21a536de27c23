"""From a run to a packed model with its record and card, by the command that does it."""

import json
import runpy
import sys

import pytest
from repository import ROOT
from tiny_run import MODEL, tables

import mlx_simul
from mlx_simul.errors import InvalidOptionError

TOOLS = ROOT / "tools"


def run_tool(monkeypatch, name, *args):
    for module in ("measure_default", "model_card"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / name), run_name="__main__")
    return end.value.code


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack_default")
    config = {**MODEL, "hidden_size": 64, "intermediate_size": 128}
    mlx_simul.train(
        tables(
            folder,
            model={"config": config},
            run={"validate_steps": 2},
            optimiser={"steps": 4},
            batches={"max_tokens": 120},
        )
    )
    return folder / "run"


def test_one_command_packs_measures_and_describes_a_checkpoint(
    run_folder, tmp_path, monkeypatch, capsys
):
    target = tmp_path / "en-fr"
    args = run_folder / "best", "--hardware", "a test", "--sources", 2, "--target", target
    assert run_tool(monkeypatch, "pack_default.py", *args) == 0
    assert str(target) in capsys.readouterr().out
    record = json.loads((target / "record.json").read_text("utf-8"))
    assert record["training"]["step"] == 4
    assert record["n_parameters"] > 280 * 64
    assert record["quality"]["n_sources"] == 2
    assert set(record["quality"]["wait_k"]) == {"1", "3", "5", "7", "whole"}
    text = (target / "README.md").read_text("utf-8")
    assert set(record["quality"]["noisy"]) >= {"lower case", "captions", "3 turns of history"}
    assert "| whole source, offline | " in text
    assert "| captions | " in text
    assert record["weights_sha256"] in text
    assert str(run_folder) not in text + json.dumps(record)
    model, tokenizer = mlx_simul.load(target)
    with pytest.raises(InvalidOptionError, match="English to French"):
        mlx_simul.SimulSession(model, tokenizer, target_language="Thai")

    # A model that was trained further says so, and how it was trained before.
    further = tmp_path / "further"
    args = *args[:-1], further, "--after", target
    assert run_tool(monkeypatch, "pack_default.py", *args) == 0
    after = json.loads((further / "record.json").read_text("utf-8"))["training"]["after"]
    assert after == record["training"] | {"weights_sha256": record["weights_sha256"]}
    told = (further / "README.md").read_text("utf-8")
    assert told.count("```toml") == 2 and text.count("```toml") == 1
    assert "weights are mixed" not in told

    # Mixed with those it went on from, which are rounded, the weights are others.
    assert run_tool(monkeypatch, "pack_default.py", *args, "--share", 0.75) == 0
    other = json.loads((further / "record.json").read_text("utf-8"))
    assert other["weights_sha256"] != record["weights_sha256"]
    assert other["n_parameters"] == record["n_parameters"]
    told = (further / "README.md").read_text("utf-8")
    assert "0.75 of what this run came to, and 0.25 of" in told

    # The card alone again, and a card that somebody edited.
    assert run_tool(monkeypatch, "model_card.py", "--check", target) == 0
    (target / "README.md").write_text(text.replace("Tatoeba", "Tatooine"), "utf-8")
    assert run_tool(monkeypatch, "model_card.py", "--check", target) == 1
    assert run_tool(monkeypatch, "model_card.py", target) == 0
    assert (target / "README.md").read_text("utf-8") == text
