"""An evaluation that ranks share reports what one process reports."""

import json
import shutil

import pytest
from launching import HERE, cases, launched
from tiny_chat import write_chat_folder

SOURCES = ["one two three.", "four 5.5 six", "seven", "eight nine ten eleven", "two. three four"]
POLICIES = ["wait-k:1", "wait-k:2", "whole"]
# Of a record and of a result: what depends on how fast the machine is.
TIMES = {
    "times_ms", "fed_ms", "total_ms", "shown_ms", "ms_per_word", "computation_aware", "elapsed",
    "latency_ca", "ends_ms", "n_times",
}  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture
def options(model_folder, tmp_path):
    corpus = tmp_path / "set.tsv"
    corpus.write_text("".join(f"{s}\t{s} there\n" for s in SOURCES), "utf-8")
    return {
        "model": str(model_folder),
        "corpus": str(corpus),
        "folder": str(tmp_path / "results"),
        "policies": POLICIES,
        "session": {"max_tokens": 10, "max_tokens_per_word": 4, "date": "2026-07-30"},
        "n_bootstrap": 20,
        "plot": False,
    }


def timeless(value):
    """What JSON says, without times."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def left(folder):
    """All files of an evaluation by name; JSON without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".json", ".jsonl", ".log"):
            lines = path.read_text("utf-8").splitlines()
            whole = [path.read_text("utf-8")] if path.suffix == ".json" else lines
            found[name] = [timeless(json.loads(each)) for each in whole]
        elif path.is_file():
            found[name] = path.read_text("utf-8")
    return found
