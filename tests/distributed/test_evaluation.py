"""An evaluation that ranks share leaves what one process leaves, byte for byte."""

import json
import time

import pytest
from launching import HERE, by_mlx_launch, ended, launched, started
from tiny_chat import write_chat_folder

from mlx_simul.machine.liveness import EXIT_LOST

pytestmark = pytest.mark.distributed

SOURCES = ["one two three.", "four 5.5 six", "seven", "eight nine ten eleven", "two. three four"]
POLICIES = ["wait-k:1", "wait-k:2", "whole"]
N_TASKS = len(SOURCES) * len(POLICIES)


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    """The options of all these evaluations, but for the folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    corpus = folder / "set.tsv"
    corpus.write_text("".join(f"{s}\t{s} there\n" for s in SOURCES), "utf-8")
    return {
        "model": str(write_chat_folder(folder / "model")),
        "corpus": str(corpus),
        "policies": POLICIES,
        "session": {"max_tokens": 10, "max_tokens_per_word": 4, "date": "2026-07-30"},
        "n_bootstrap": 20,
        "plot": False,
    }


@pytest.fixture(scope="module")
def alone(common, tmp_path_factory):
    """What one process leaves: of sources, and of talks."""
    folder = tmp_path_factory.mktemp("alone")
    kinds = {"sources": {}, "talks": {"sentences_per_talk": 2}}
    (only,) = run(1, *(case(common, folder / kind, **more) for kind, more in kinds.items()))
    assert only.code == 0, only.err
    return {kind: left(folder / kind) for kind in kinds}


def case(common, folder, *, wrong=False, until=None, **options):
    return {"options": {**common, "folder": str(folder), **options}, "wrong": wrong, "until": until}


def run(n_ranks, *told):
    return launched(n_ranks, HERE / "evaluate_main.py", json.dumps(told))


def left(folder):
    """All files of an evaluation."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def records_in(folder):
    """The policy and the index of all records, in all files."""
    found = []
    for path in folder.glob("*/records*.jsonl"):
        lines = path.read_text("utf-8").splitlines()
        found += [(path.parent.name, json.loads(line)["index"]) for line in lines]
    return found


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_leave_what_one_process_leaves(n_ranks, common, alone, tmp_path):
    results = run(
        n_ranks,
        case(common, tmp_path / "sources"),
        case(common, tmp_path / "talks", sentences_per_talk=2),
        # Each rank has a disk of its own, and rank 0 gets what the others made.
        case(common, tmp_path / "disk-{rank}"),
        case(common, tmp_path / "wrong", wrong=True),
    )
    for result in results:
        assert result.code == 0, result.err
    assert left(tmp_path / "sources") == alone["sources"]
    assert left(tmp_path / "talks") == alone["talks"]
    assert left(tmp_path / "disk-0") == alone["sources"]
    # The negative control: one translation of another rank that is not what it should be.
    assert left(tmp_path / "wrong") != alone["sources"]

    said = [[json.loads(line) for line in result.out.splitlines()] for result in results]
    for rank in said:
        assert [each["results"] for each in rank] == [each["results"] for each in said[0]]
    n_mine = len(range(0, N_TASKS, n_ranks))
    assert [told[1:] for told in said[0][0]["seen"]] == [[n, n_mine] for n in range(1, n_mine + 1)]
    assert all(each["seen"] == [] for rank in said[1:] for each in rank)


def test_an_evaluation_is_resumed_with_another_number_of_ranks(common, alone, tmp_path):
    folder = tmp_path / "results"
    first, second = run(2, case(common, folder, until=2))
    assert "Stopped" in first.err
    # The other rank did its share, and then missed the one that had stopped.
    assert "RanksError: rank 1 has lost another rank" in second.err
    n_held = len(records_in(folder))
    assert n_held == 2 + len(range(1, N_TASKS, 2))
    assert list(folder.glob("*/records.1.jsonl"))

    results = run(3, case(common, folder, until=1))
    assert all(result.code == 1 for result in results)
    held = records_in(folder)
    assert n_held < len(held) < N_TASKS
    assert len(set(held)) == len(held)  # nothing is translated twice

    (last,) = run(1, case(common, folder))
    assert last.code == 0, last.err
    seen = json.loads(last.out)["seen"]
    assert [told[1:] for told in seen] == [[n, N_TASKS] for n in range(len(held) + 1, N_TASKS + 1)]
    assert left(folder) == alone["sources"]


def command(options):
    argv = ["--folder", options["folder"], "--corpus", options["corpus"]]
    return ("-m", "mlx_simul", "evaluate", *argv, "--model", options["model"], "--wait-k", "1",
            "--max-tokens", "10", "--no-plot", "--bootstrap", "0")  # fmt: skip


def test_the_command_prints_once(common, tmp_path):
    first, second = launched(2, *command(case(common, tmp_path / "results")["options"]))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "5 sources" in first.out
    assert "5 translations did not end by themselves" in first.err.replace("5 of 5", "5")
    assert (second.out, second.err) == ("", "")


def test_the_command_is_used_wrongly_once(common, tmp_path):
    first, second = launched(2, *command(case(common, tmp_path)["options"]), "--nonsense")
    assert (first.code, second.code) == (2, 2)
    assert first.err.count("unrecognized arguments: --nonsense") == 1
    assert (second.out, second.err) == ("", "")


def test_a_rank_that_fails_alone_ends_the_others_with_what_it_says(common, tmp_path):
    ours = case(common, tmp_path / "results")["options"]
    theirs = {1: command({**ours, "corpus": str(tmp_path / "missing.tsv")})}
    first, second = launched(2, *command(ours), argv_of=theirs)
    assert first.code == EXIT_LOST
    assert (
        "rank 0 ends. RanksError: rank 1 fails: InvalidOptionError: there is no file " in first.err
    )
    assert "missing.tsv" in first.err
    assert (second.code, second.out, second.err) == (2, "", "")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_by_name(victim, common, tmp_path):
    """The other one is at work, or waits; no sum may tell it."""
    ours = command(case(common, tmp_path / "results")["options"])
    with started(2, "-c", SLOWLY, *ours[2:]) as ranks:
        while not list((tmp_path / "results").glob("*/records*.jsonl")):
            assert all(rank.process.poll() is None for rank in ranks)
            time.sleep(0.05)
        ranks[victim].process.kill()
        results = ended(ranks)
    other = results[1 - victim]
    assert other.code == EXIT_LOST
    said = f"rank {1 - victim} ends. RanksError: rank {victim} has closed its connection"
    assert other.err.count(said) == 1


SLOWLY = """
import sys, time
from mlx_simul.evaluation import translate
quick = translate.Translator.__call__
def slow(self, *given):
    record = quick(self, *given)
    time.sleep(1.5)
    return record
translate.Translator.__call__ = slow
from mlx_simul.console.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_mlx_launch_may_start_one_rank():
    result = by_mlx_launch(1, "-m", "mlx_simul", "--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("mlx-simul ")


def test_mlx_launch_starts_the_command(common, tmp_path):
    result = by_mlx_launch(2, *command(case(common, tmp_path / "results")["options"]))
    assert result.code == 0
    assert result.out.count("5 sources") == 1, result.err
    assert len(records_in(tmp_path / "results")) == len(SOURCES)


def test_a_rank_with_another_test_set_is_refused(common, tmp_path):
    ours = case(common, tmp_path / "results")["options"]
    other = tmp_path / "other.tsv"
    other.write_text("one two\tone two there\n", "utf-8")
    theirs = {1: command({**ours, "corpus": str(other)})}
    first, second = launched(2, *command(ours), argv_of=theirs)
    assert (first.code, second.code) == (2, 2)
    assert "rank 1 has a different test set from rank 0" in first.err
    assert (second.out, second.err) == ("", "")
    assert not (tmp_path / "results").exists()
