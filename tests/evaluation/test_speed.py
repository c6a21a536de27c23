"""The benchmark compares like with like, and its command writes what it measured."""

import json

import pytest
from mlx.utils import tree_flatten
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.evaluation.batch_speed import BatchBench, throughput
from mlx_simul.evaluation.speed import (
    Bench,
    Run,
    cpu_ms,
    drafting,
    growth,
    speed,
    tiny_like,
)

N_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("bench") / "model")


@pytest.fixture(scope="module")
def bench(folder):
    model, tokenizer = mlx_simul.load(folder)
    return Bench(model, tokenizer, N_TOKENS, "one two three, four five six seven eight")


@pytest.mark.parametrize("k", [1, 3])
def test_the_plain_loop_writes_the_same_in_more_passes(bench, k):
    ours, plain = bench.ours(k), bench.plain(k)
    assert ours.token_ids == plain.token_ids
    assert ours.n_passes < plain.n_passes
    assert bench.plain(100).token_ids != plain.token_ids


def test_with_the_whole_source_all_write_as_much(bench):
    runs = [bench.offline(), bench.ours(100), bench.plain(100)]
    assert {len(run.token_ids) for run in runs} == {N_TOKENS}
    assert all(run.seconds > 0 and run.peak_bytes > 0 for run in runs)


def test_figures_of_speed_follow_from_the_runs(bench):
    (figures,) = speed(bench, [2], n_repeats=1)
    assert figures["same_tokens_as_plain"]
    assert figures["passes_per_token"] == bench.ours(2).n_passes / N_TOKENS
    assert figures["passes_per_token"] < figures["plain_passes_per_token"]
    assert figures["times_offline"] == pytest.approx(
        figures["tokens_per_s"] / figures["offline_tokens_per_s"]
    )
    assert figures["cpu_times_offline"] == pytest.approx(
        figures["offline_cpu_ms_per_token"] / figures["cpu_ms_per_token"]
    )


def test_the_tiny_model_is_many_layers_of_little_arithmetic(bench):
    tiny = tiny_like(bench.tokenizer)
    assert len(tiny.layers) == 24
    in_layers = sum(array.size for _, array in tree_flatten(tiny.layers))
    assert in_layers < 1e6
    (figures,) = speed(Bench(tiny, bench.tokenizer, 6, "one two three"), [1], n_repeats=2)
    assert figures["cpu_ms_per_token"] > 0 and figures["offline_cpu_ms_per_token"] > 0


def test_cpu_time_per_token_is_that_of_the_least_disturbed_run():
    runs = [Run((1, 2), 3, 9.0, cpu_seconds, 0) for cpu_seconds in (0.5, 0.4, 0.6)]
    assert cpu_ms(runs) == pytest.approx(200)


def test_growth_is_measured_over_caches_that_hold_as_many_keys(bench):
    figures = list(growth(tiny_like(bench.tokenizer), [2, 50], n_steps=3))
    assert [row["words"] for row in figures] == [2, 50]
    assert [row["keys"] for row in figures] == [6, 140]
    assert all(row["write_ms"] > 0 and row["read_write_p95_ms"] > 0 for row in figures)


def test_sessions_at_once_write_what_each_writes_alone(bench):
    many = BatchBench(bench.model, bench.tokenizer, N_TOKENS)
    written = many.ours(3).token_ids
    assert written == many.alone(0) + many.alone(1) + many.alone(2)
    assert len(set(map(many.alone, range(3)))) > 1
    assert len(many.offline(3).token_ids) == len(written) == 3 * N_TOKENS


def test_figures_of_throughput_follow_from_the_runs(bench):
    one, three = throughput(BatchBench(bench.model, bench.tokenizer, N_TOKENS), [3], n_repeats=1)
    assert (one["sessions"], three["sessions"]) == (1, 3)
    assert one["times_one"] == one["offline_times_one"] == 1.0
    assert three["times_one"] == pytest.approx(three["tokens_per_s"] / one["tokens_per_s"])
    assert one["same_tokens_as_alone"] and three["same_tokens_as_alone"]


def test_the_command_writes_json_and_tables(folder, tmp_path, capsys):
    path = tmp_path / "figures.json"
    small = ["--wait-k", "2", "--tokens", "6", "--repeats", "1", "--words", "3", "--steps", "2"]
    small += ["--batch", "2"]
    assert cli.main(["bench", str(folder), *small, "--json", str(path)]) == 0
    report = json.loads(path.read_text("utf-8"))
    assert set(report["models"]) == {str(folder), "24 tiny layers"}
    assert report["setting"]["mlx"]
    for figures in report["models"].values():
        assert figures["speed"][0]["tokens"] == 6
        assert figures["growth"][0]["words"] == 3
        assert [row["sessions"] for row in figures["batch"]] == [1, 2]
    assert "24 tiny layers: as it grows" in capsys.readouterr().out


def test_a_setting_out_of_range_is_refused(folder, capsys):
    assert cli.main(["bench", str(folder), "--tokens", "0"]) == cli.EXIT_USAGE
    assert "max_tokens" in capsys.readouterr().err


def test_drafts_are_measured_beside_the_same_stream_without(bench):
    (figures,) = drafting(bench, [100], n_repeats=1, draft="ngram")
    assert figures["same_tokens_as_plain"]
    assert figures["passes_per_token"] == bench.ours(100).n_passes / N_TOKENS
    assert figures["drafted_passes_per_token"] <= figures["passes_per_token"]


def test_the_command_measures_drafters_instead(folder, tmp_path, capsys):
    path = tmp_path / "figures.json"
    for draft in ("ngram", str(folder)):
        small = ["--wait-k", "2", "100", "--tokens", "6", "--repeats", "1", "--json", str(path)]
        assert cli.main(["bench", str(folder), *small, "--draft", draft]) == 0
        report = json.loads(path.read_text("utf-8"))
        assert not report["models"]
        for rows in report["drafting"].values():
            assert [row["wait_k"] for row in rows] == [2, 100]
            assert all(row["same_tokens_as_plain"] for row in rows)
    assert rows[1]["drafted_passes_per_token"] < 1
    assert "Correct the spelling" in capsys.readouterr().out
