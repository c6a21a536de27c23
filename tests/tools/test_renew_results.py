"""What docs/results has of the packaged model is made again as it was made."""

import json
import subprocess
import sys

import pytest
from repository import ROOT

TOOLS = ROOT / "tools"
PAIRS = (
    ("Good evening.", "Bonsoir."),
    ("Thank you very much.", "Merci beaucoup."),
    ("I am hungry.", "J'ai faim."),
)


def tool(name, *args):
    command = [sys.executable, str(TOOLS / name), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    lines = "".join(f"{source}\t{target}\n" for source, target in PAIRS)
    (folder / "dev.tsv").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="module")
def docs(tmp_path_factory, corpora):
    """A page with two records of the packaged model, and one of another model."""
    docs, work = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("work")
    evaluate = [sys.executable, "-m", "mlx_simul", "evaluate", "--corpus", corpora / "dev.tsv"]
    evaluate += ["--policy", "wait-k:2", "whole", "--bootstrap", "0", "--no-plot", "--folder"]
    subprocess.run([*evaluate, work / "alone"], check=True, cwd=ROOT)
    subprocess.run([*evaluate, work / "talks", "--sentences-per-talk", "3"], check=True, cwd=ROOT)
    told = "--evaluation", f"ours={work / 'alone'}", "--talks", f"ours={work / 'talks'}"
    assert tool("results.py", "--docs", docs, *told).returncode == 0
    path = docs / "results" / "ours.evaluation.json"
    other = json.loads(path.read_text("utf-8")) | {"model": "other"}
    (docs / "results" / "other.evaluation.json").write_text(json.dumps(other), "utf-8")
    return docs


def read(docs, name):
    return json.loads((docs / "results" / f"{name}.json").read_text("utf-8"))


def test_records_of_the_packaged_model_alone_are_made_again(docs, corpora, tmp_path):
    was = {name: read(docs, name) for name in ("ours.evaluation", "ours.talks", "other.evaluation")}
    path = docs / "results" / "ours.evaluation.json"
    stale = json.loads(path.read_text("utf-8"))
    stale["policies"]["whole"]["bleu"]["score"] = -1.0
    path.write_text(json.dumps(stale), "utf-8")

    told = "--corpora", corpora, "--work", tmp_path, "--results", docs / "results"
    done = tool("renew_results.py", *told)
    assert done.returncode == 0, done.stderr
    for name in ("ours.evaluation", "ours.talks"):
        (now,), (before,) = (
            [x] if isinstance(x, dict) else x for x in (read(docs, name), was[name])
        )
        assert now["policies"].keys() == before["policies"].keys()
        for policy, row in now["policies"].items():
            assert row["bleu"] == before["policies"][policy]["bleu"]
            assert row["length_ratio"] == before["policies"][policy]["length_ratio"]
    assert read(docs, "other.evaluation") == was["other.evaluation"]
    assert "0 of 1 records: ours, evaluation" in done.stderr

    # A record of another model is not renewed, and what fails ends the command.
    refused = tool("renew_results.py", *told, "other")
    assert refused.returncode == 2 and "other" in refused.stderr
    nowhere = tool("renew_results.py", "--corpora", tmp_path / "none", *told[2:])
    assert nowhere.returncode != 0
