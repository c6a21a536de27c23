"""The losses of a run do not depend on how many ranks share its batches."""

import json
import signal
import sys
from itertools import pairwise

import pytest
from launching import HERE, ended, launched, started
from repository import ROOT

sys.path.append(str(ROOT / "tests" / "training"))

from tiny_run import PAIRS, tables

from mlx_simul.machine.liveness import EXIT_LOST
from mlx_simul.training.log import read_log
from mlx_simul.training.snapshot import read_state

pytestmark = pytest.mark.distributed

STEPS = 30
TOLERANCE = 1e-5  # relative: what float32 sums in another order may differ by

CASES = {
    "plain": {},
    "accumulated": {"optimiser": {"accumulate": 3, "average": 0.9}},
    # Batches of one sample: each step leaves ranks without work.
    "single samples": {"batches": {"max_tokens": 1, "passage_rate": 0.0}},
    "passages": {"batches": {"max_tokens": 200, "passage_rate": 0.5}},
}


def made(folder, name, changes, **case):
    """A case for ``train_main.py``, in a folder of its own."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    optimiser = {"steps": STEPS, "warmup_steps": 5, **changes.get("optimiser", {})}
    run = {"validate_steps": 15, "log_steps": 1}
    return {
        "tables": tables(
            folder / name, **{"batches": {}, **changes, "optimiser": optimiser, "run": run}
        ),
        **case,
    }


def train(n_ranks, folder, cases):
    """Run all cases on some ranks; gives what each rank printed."""
    told = folder / f"cases-{n_ranks}.json"
    told.write_text(json.dumps(cases), "utf-8")
    results = launched(n_ranks, HERE / "train_main.py", told)
    for result in results:
        assert result.code == 0, result.err
    return [json.loads(result.out) for result in results]


def apart(one, other):
    """The largest relative difference of two lists of losses."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return train(1, folder, {name: made(folder, name, case) for name, case in CASES.items()})[0]


@pytest.mark.parametrize(("n_ranks", "names"), [(2, list(CASES)), (3, ["single samples"])])
def test_ranks_that_share_batches_have_the_losses_of_one(n_ranks, names, alone, tmp_path):
    first, *others = train(
        n_ranks, tmp_path, {name: made(tmp_path, name, CASES[name]) for name in names}
    )
    for name in names:
        expected, got = alone[name], first[name]
        assert len(got["losses"]) == STEPS
        assert got["losses"][-1] < 0.9 * got["losses"][0]
        assert apart(got["losses"], expected["losses"]) < TOLERANCE
        for ours, wanted in zip(got["validated"], expected["validated"], strict=True):
            for k, loss in wanted["valid_loss"].items():
                assert ours["valid_loss"][k] == pytest.approx(loss, rel=TOLERANCE)
        for other in others:
            assert other[name]["losses"] == []  # only rank 0 reports
            assert other[name]["best_loss"] == got["best_loss"]
        assert got["files"] == expected["files"]


def test_another_mean_is_found_out(alone, tmp_path):
    """The negative control: what ranks must not do moves the losses by far more."""
    wrongs = ("unweighted", "unshared")
    cases = {wrong: made(tmp_path, wrong, CASES["plain"], wrong=wrong) for wrong in wrongs}
    first, _ = train(2, tmp_path, cases)
    for wrong in wrongs:
        assert apart(first[wrong]["losses"], alone["plain"]["losses"]) > 100 * TOLERANCE


def test_a_run_is_resumed_with_another_number_of_ranks(alone, tmp_path):
    names = ["plain", "accumulated"]
    losses = {name: [] for name in names}
    for n_ranks, until in ((1, 6), (2, 13), (1, 19), (3, 23), (2, None)):
        cases = {name: made(tmp_path, name, CASES[name], until=until) for name in names}
        ranks = train(n_ranks, tmp_path, cases)
        for name in names:
            losses[name] += ranks[0][name]["losses"]
            for rank in ranks:
                # One rank was interrupted, and all ended after the same step.
                assert rank[name]["step"] == rank[name]["saved_step"] == (until or STEPS)
                assert rank[name]["is_done"] == (until is None)
    for name in names:
        assert apart(losses[name], alone[name]["losses"]) < TOLERANCE


def command(folder, **changes):
    """The arguments of ``mlx-simul train`` for a run in a folder."""
    config = folder / "run.toml"
    made_tables = tables(folder, **changes)
    model = made_tables["model"].pop("config")
    lines = []
    for name, table in {**made_tables, "model.config": model}.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    return ("-m", "mlx_simul", "train", config)


def step_of(folder):
    # Between the two renames that replace it, a snapshot has its other name.
    state = read_state(folder / "run/latest") or read_state(folder / "run/.latest.previous")
    return state.progress.step if state else 0


def until_logged(folder, ranks, n_steps):
    """Wait until a run has made some steps, or has ended."""
    while len(read_log(folder / "run/log.jsonl")) < n_steps:
        for rank in ranks:
            assert rank.process.poll() is None, rank


ENDLESS = {"optimiser": {"steps": 1_000_000}, "run": {"log_steps": 1}}


def test_a_signal_to_one_rank_saves_and_ends_all(tmp_path):
    with started(2, *command(tmp_path, **ENDLESS)) as ranks:
        until_logged(tmp_path, ranks, 3)
        ranks[1].process.send_signal(signal.SIGINT)
        first, second = ended(ranks)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == second.err == ""
    assert first.out.count("step ") == 1
    assert "The same command goes on from there." in first.out
    step = step_of(tmp_path)
    assert f"step {step} of" in first.out
    log = [r["step"] for r in read_log(tmp_path / "run/log.jsonl") if "loss" in r]
    assert log == list(range(1, step + 1))


def test_a_rank_that_is_killed_ends_all_and_the_run_resumes(tmp_path):
    changes = {**ENDLESS, "run": {"log_steps": 1, "snapshot_minutes": 0.0}}
    with started(3, *command(tmp_path, **changes)) as ranks:
        until_logged(tmp_path, ranks, 5)
        ranks[2].process.kill()
        results = ended(ranks)
    assert results[2].code == -signal.SIGKILL
    for rank, result in enumerate(results[:2]):
        assert result.code == EXIT_LOST
        lost = f"mlx-simul: rank {rank} ends. RanksError: rank 2 has closed its connection"
        assert result.err.count(lost) == 1
    saved = step_of(tmp_path)
    assert saved >= 3
    (alone,) = launched(1, *command(tmp_path, **changes), "--steps", str(saved + 2))
    assert alone.code == 0, alone.err
    steps = [r["step"] for r in read_log(tmp_path / "run/log.jsonl") if "loss" in r]
    assert all(later == before + 1 for before, later in pairwise(steps))
    assert step_of(tmp_path) == saved + 2


def test_ranks_that_begin_with_different_data_are_refused(tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("".join(f"{p.source}\t{p.target}\n" for p in PAIRS[1:]), "utf-8")
    ours = command(tmp_path)
    results = launched(2, *ours, argv_of={1: (*ours, "--data", other)})
    assert [result.code for result in results] == [2, 2]
    assert "rank 1 has a different set of options from rank 0" in results[0].err
    (tmp_path / "here").mkdir()
    pairs = tmp_path / "here/pairs.tsv"
    pairs.write_text(other.read_text("utf-8"))
    elsewhere = ("-c", HERE_INSTEAD.format(folder=str(tmp_path / "here")), *ours[2:])
    results = launched(2, *ours, argv_of={1: elsewhere})
    assert [result.code for result in results] == [2, 2]
    assert "rank 1 has a different corpus from rank 0" in results[0].err
    assert results[1].err == ""
    assert not (tmp_path / "run/latest").exists()


# The same path names another file on another machine.
HERE_INSTEAD = """
import sys
from mlx_simul.training import run
read = run.read_pairs
run.read_pairs = lambda name, *more: read("{folder}/pairs.tsv", *more)
from mlx_simul.console.cli import main
sys.exit(main(sys.argv[1:]))
"""
