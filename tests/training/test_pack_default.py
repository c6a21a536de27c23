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


def scores(measured):
    return {name: value for name, value in measured.items() if name != "seconds"}


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
    assert record["test_set"]["n_sources"] == 2
    quality = record["quality"]
    policies = {"wait-k:1", "wait-k:3", "wait-k:5", "whole", "confidence:0.5"}
    for look in ("clean", "captions", "lower case", "no punctuation", "disfluent"):
        assert set(quality[look]) == policies
    assert {"talks", "history given", "history shown", "plain mlx-lm"} <= set(quality)
    text = (target / "README.md").read_text("utf-8")
    assert text.count("| captions | ") == 3 and "| talks: wait-k:3 | " in text
    # What a session is given and leaves out changes nothing.
    config = json.loads((target / "config.json").read_text("utf-8"))
    assert config["mlx_simul"]["history_pairs"] == 0 and config["mlx_simul"]["alignment_heads"]
    alone = scores(quality["clean"]["wait-k:3"])
    assert all(scores(given) == alone for given in quality["history given"].values())
    assert record["weights_sha256"] in text
    assert str(run_folder) not in text + json.dumps(record)
    model, tokenizer = mlx_simul.load(target)
    with pytest.raises(InvalidOptionError, match="English to French"):
        mlx_simul.SimulSession(model, tokenizer, target_language="Thai")

    # The same command measures what is missing, and nothing else.
    work = run_folder / "packed" / "record.json"
    held = json.loads(work.read_text("utf-8"))
    held["quality"]["clean"]["whole"]["bleu"] = -1
    del held["quality"]["captions"]["whole"]
    work.write_text(json.dumps(held), "utf-8")
    resumed_target = tmp_path / "resumed"
    assert run_tool(monkeypatch, "pack_default.py", *args[:-1], resumed_target) == 0
    resumed = json.loads((resumed_target / "record.json").read_text("utf-8"))["quality"]
    assert resumed["clean"]["whole"]["bleu"] == -1
    assert scores(resumed["captions"]["whole"]) == scores(quality["captions"]["whole"])

    # A model that was trained further says so, and how it was trained before. Mixed with the
    # weights that it went on from, which are rounded, its own are others.
    further = tmp_path / "further"
    more = "--after", target, "--share", 0.75, "--earlier", run_folder / "latest"
    assert run_tool(monkeypatch, "pack_default.py", *args[:-1], further, *more) == 0
    other = json.loads((further / "record.json").read_text("utf-8"))
    after = other["training"]["after"]["after"]
    assert after == record["training"] | {"weights_sha256": record["weights_sha256"]}
    assert other["weights_sha256"] != record["weights_sha256"]
    assert other["n_parameters"] == record["n_parameters"]
    told = (further / "README.md").read_text("utf-8")
    assert told.count("```toml") == 1 and told.count("The options are the same.") == 2
    assert "0.75 of those of this run, and 0.25 of" in told
    assert told.count(record["weights_sha256"]) == 1 and "weights are a mean" not in text

    # The card alone again, and a card that somebody edited.
    assert run_tool(monkeypatch, "model_card.py", "--check", target) == 0
    (target / "README.md").write_text(text.replace("Tatoeba", "Tatooine"), "utf-8")
    assert run_tool(monkeypatch, "model_card.py", "--check", target) == 1
    assert run_tool(monkeypatch, "model_card.py", target) == 0
    assert (target / "README.md").read_text("utf-8") == text
