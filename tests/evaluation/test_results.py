"""The page of results: what it says follows from what was recorded."""

import argparse
import json
import shlex
import sys
from importlib import import_module

import pytest
from repository import ROOT

from mlx_simul.checkpoints.loading import DEFAULT_MODEL
from mlx_simul.console.evaluate import add_arguments, options_from
from mlx_simul.evaluation.folder import files_digest
from mlx_simul.evaluation.report import at_equal_latency, command, evaluation_section
from mlx_simul.evaluation.talk_report import history_section, talks_section

TOOLS = ROOT / "tools"


def row(laal, bleu, p=0.5):
    scores = {"al": 1.0, "laal": laal, "ap": 0.5, "dal": 2.0, "atd": 3.0}
    return {
        "latency": scores,
        "latency_ca": scores,
        "bleu": {"score": bleu, "mean": bleu, "ci": 1.5, "p": p},
        "chrf": {"score": 50.0, "mean": 50.0, "ci": 1.0, "p": p},
        "length_ratio": 0.98,
        "ms_per_word": {"p50": 4.0, "p95": 9.0},
        "passes_per_token": 1.25,
        "ended": 0.99,
    }


@pytest.fixture
def results():
    return {
        "model": "tiny",
        "corpus": {"name": "dev.tsv", "n_sources": 10, "n_references": 13, "source_words": 70},
        "options": {
            "unit": "word",
            "word_ms": 400.0,
            "clock": "wall",
            "bleu_tokenizer": "13a",
            "baseline": "whole",
            "n_sources": None,
            "session": {},
        },
        "signatures": {"bleu": "nrefs:var", "chrf": "nrefs:var"},
        "made_with": {"mlx": "1", "device": "cpu", "blas": "MKL", "processes": 1},
        "policies": {
            "wait-k:1": row(1.0, 20.0, 0.001),
            "wait-k:3": row(3.0, 30.0, 0.01),
            "wait-k:5": row(5.0, 34.0, 0.4),
            "hold-n:2": row(4.0, 33.0, 0.3),
            "confidence:0.9": row(2.0, 24.0, 0.001),
            "read-n-write-m:9,1": row(8.0, 35.0, 0.9),
            "whole": row(9.0, 35.0, None),
        },
    }


def test_policies_are_compared_between_two_points_of_wait_k(results):
    assert at_equal_latency(results["policies"]) == {
        "hold-n:2": (4.0, 33.0, 32.0),
        "confidence:0.9": (2.0, 24.0, 25.0),
    }


def test_the_section_says_who_beats_wait_k_and_what_is_as_good_as_offline(results):
    text = evaluation_section("tiny", results, "results/tiny.svg")
    assert "`hold-n:2`, 4.00 words behind: 33.0 BLEU; wait-k has 32.0 at this lag (+1.0)" in text
    assert "`hold-n:2` has the largest gain over wait-k: 1.0 BLEU" in text
    assert "is `hold-n:2`: 33.0 at 4.00 words behind" in text
    assert "| `wait-k:3` | 3.00 | 3.00 | 30.0 ± 1.5 | 0.010 |" in text
    assert "![BLEU over LAAL](results/tiny.svg)" in text


def test_the_section_says_that_none_does(results):
    for spec in ("wait-k:5", "hold-n:2", "read-n-write-m:9,1"):
        results["policies"][spec]["bleu"] |= {"score": 30.0, "p": 0.001}
    results["policies"]["hold-n:2"]["bleu"]["score"] = 29.5
    text = evaluation_section("tiny", results, None)
    assert "`hold-n:2` comes closest to wait-k: 0.5 BLEU below it" in text
    assert "every policy is significantly worse than that of the whole source (35.0" in text
    assert "![" not in text


def test_without_resampling_nothing_is_said_of_chance(results):
    for figures in results["policies"].values():
        del figures["bleu"]["p"]
    text = evaluation_section("tiny", results, None)
    assert "that of the whole source" not in text and "chance" not in text
    assert "`hold-n:2` has the largest gain over wait-k" in text


def test_a_policy_that_beats_the_whole_source_is_not_worse(results):
    results["policies"]["wait-k:1"]["bleu"] |= {"score": 36.0, "p": 0.001}
    text = evaluation_section("tiny", results, None)
    assert "is `wait-k:1`: 36.0 at 1.00 words behind" in text


def test_without_quality_there_are_latencies_only(results):
    for figures in results["policies"].values():
        del figures["bleu"], figures["chrf"], figures["length_ratio"]
    results["signatures"] = {}
    text = evaluation_section("tiny", results, None)
    assert "| `wait-k:3` | 3.00 | 3.00 |\n" in text
    assert "BLEU" not in text


def test_the_command_names_what_is_not_usual(results):
    plain = command(results)
    assert plain.startswith("mlx-simul evaluate --model tiny --corpus dev.tsv --folder results")
    assert plain.endswith(" whole")
    results["options"] |= {"baseline": "wait-k:3", "n_sources": 10, "session": {"mode": "reencode"}}
    told = command(results)
    assert "--baseline wait-k:3 --sources 10 --mode reencode" in told


def test_the_packaged_model_is_not_named(results):
    results["model"] = "en-fr"
    assert "--model" not in command(results)
    results["options"]["model"] = "en-fr"
    assert "--model en-fr " in command(results)


def test_what_the_command_is_told_is_what_was_evaluated(results):
    session = {"gpe_compat": True, "max_tokens": 9, "context": 'it\'s "so"', "instruction": "3"}
    results["policies"]["wait-token:<WAIT>"] = row(4.5, 30.0)
    del results["policies"]["whole"]["bleu"]
    results["options"] |= {
        "model": "some/model",
        "adapter": "tuned",
        "allow_unverified": True,
        "corpus": "some/data set",
        "references": ["a.txt", "b c.txt"],
        "source_key": "en",
        "target_key": "fr",
        "split": "dev",
        "n_bootstrap": 50,
        "session": session,
    }
    results["made_with"]["processes"] = 2
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = options_from(parser.parse_args(shlex.split(command(results))[2:]))
    told = results["options"]
    assert (options.model, options.adapter, options.allow_unverified) == (
        told["model"],
        told["adapter"],
        True,
    )
    assert (options.corpus, options.references) == (told["corpus"], tuple(told["references"]))
    assert (options.source_key, options.target_key, options.split) == ("en", "fr", "dev")
    assert options.policies == tuple(results["policies"])
    assert options.session == session
    assert (options.n_bootstrap, options.quality, options.processes) == (50, False, 2)


@pytest.fixture
def talks(results):
    """Two runs over the sentences of ``results``, without history and with two pairs."""
    lags = {"words": 0.5, "ms": 200.0, "ca_ms": 400.0}
    figures = {
        "latency": {"yaal": 1200.0, "laal": 1500.0},
        "latency_ca": {"yaal": 1300.0, "laal": 1600.0},
        "drift": {"drift": lags},
        "erasure": {"share": 0.0},
        "n_lost": 0,
        "n_turns": 12,
        "n_empty": 1,
        "n_unplaced": 0,
        "ends": {"end_of_turn": 9, "drought": 3},
        "seconds": 7.0,
    }
    quality = ("bleu", "chrf", "length_ratio")
    scores = {name: results["policies"]["wait-k:3"][name] for name in quality}
    corpus = {"n_talks": 2, "n_sentences": 10, "minutes": 4.0}
    corpus |= {name: results["corpus"][name] for name in ("name", "n_references", "source_words")}
    runs = []
    for history, bleu in ((0, 21.0), (2, 12.5)):
        session = {"frame": "few-shot", "history": history}
        shape = {"session": session, "sentences_per_talk": 5, "baseline": "wait-k:3"}
        row = {**figures, **scores, "bleu": {"score": bleu, "ci": 1.0}}
        options = {**results["options"], **shape}
        runs.append(
            {**results, "corpus": corpus, "options": options, "policies": {"wait-k:3": row}}
        )
    return runs


def test_runs_of_talks_are_called_by_what_sets_them_apart(talks, results):
    text = talks_section("tiny", talks, results)
    assert "10 sentences in 2 talks, with 70 words in total (4 minutes)" in text
    assert "| `wait-k:3 --history 0` | 21.0 ± 1.0 | 50.0 ± 1.0 | 0.98 |" in text
    assert "| `wait-k:3 --history 2` | 12.5 ± 1.0 |" in text
    assert "| `wait-k:3 --history 2` | 1.20 | 1.30 | 1.50 | 1.60 | 0 |" in text
    # 7 seconds over 70 words; 9 of 12 turns.
    assert "| `wait-k:3 --history 2` | 100.0 | +0.50 | +0.20 | +0.40 | 0.0% | 12 | 75.0% |" in text
    assert "`wait-k:3 --frame" not in text


def test_the_same_sentences_alone_and_offline_stand_beside_talks(talks, results):
    text = talks_section("tiny", talks, results)
    assert "| `wait-k:3, each sentence alone` | 30.0 ± 1.5 | 50.0 ± 1.0 | 0.98 |" in text
    assert "| `whole, each sentence alone` | 35.0 ± 1.5 |" in text
    assert "wait-k:5, each" not in text


@pytest.mark.parametrize("change", [{"n_sources": 11}, {"source_words": 71}, {"name": "a.tsv"}])
def test_other_sentences_do_not(talks, results, change):
    results["corpus"] |= change
    assert "each sentence alone" not in talks_section("tiny", talks, results)
    assert "each sentence alone" not in talks_section("tiny", talks, None)


def test_the_command_of_talks_is_what_was_evaluated(talks):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for run in talks:
        told = options_from(parser.parse_args(shlex.split(command(run))[2:]))
        assert told.sentences_per_talk == 5 and not told.talks
        assert told.session == run["options"]["session"]
    talks[0]["options"] |= {"talks": True, "sentences_per_talk": None}
    told = options_from(parser.parse_args(shlex.split(command(talks[0]))[2:]))
    assert told.talks and told.sentences_per_talk is None


def test_talks_without_quality_have_latencies_only(talks):
    for run in talks:
        for name in ("bleu", "chrf"):
            del run["policies"]["wait-k:3"][name]
    text = talks_section("tiny", talks, None)
    assert "BLEU" not in text and "| `wait-k:3 --history 0` | 1.20 |" in text


@pytest.fixture
def history():
    """As ``benchmarks/history.py`` writes it."""
    row = {
        "bleu": {"score": 9.5, "ci": 1.0, "p": None},
        "chrf": {"score": 30.0, "ci": 1.0, "p": None},
        "length_ratio": 1.25,
        "prefix_tokens": 41.6,
        "n_turns": 101,
        "n_not_ended": 4,
        "n_copies": 3,
        "n_repeats": 2,
        "n_loops": 1,
    }
    options = {
        "corpus": "dev.tsv",
        "model": "some model",
        "source_language": "English",
        "target_language": None,
        "policy": "wait-k:3",
        "history": [0, 2],
        "sentences_per_talk": 25,
    }
    figures = {"0 pairs": row, "2 pairs": row | {"chrf": {"score": 3.0, "ci": 1.0, "p": 0.001}}}
    return {
        "options": options,
        "corpus": {"n_sentences": 100, "source_words": 512},
        "figures": figures,
    }


def test_history_has_a_table_and_its_command(history):
    text = history_section("tiny", history)
    assert "100 sentences with 512 words, in talks of 25, under `wait-k:3`" in text
    told = "python benchmarks/history.py --corpus dev.tsv --model 'some model' --from English "
    assert told + "--policy wait-k:3 --history 0 2 --sentences-per-talk 25\n" in text
    row = "| 9.5 ± 1.0 | 30.0 ± 1.0 |  | 1.25 | 42 | 101 | 4 | 3 | 2 | 1 |"
    assert f"| `0 pairs` {row}" in text
    assert "| `2 pairs` | 9.5 ± 1.0 | 3.0 ± 1.0 | 0.001 |" in text


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return import_module("results")


def test_the_page_is_written_from_what_is_recorded(tool, results, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "evaluation.json").write_text(json.dumps(results), "utf-8")
    (run / "quality-latency.svg").write_text("<svg/>", "utf-8")
    losses = tmp_path / "losses.json"
    figures = {"φ = 0": {"whole source": 4.3}, "follow": {"wait-1": 2.4}}
    losses.write_text(json.dumps(figures), "utf-8")
    docs = tmp_path / "docs"
    told = ["results.py", "--docs", str(docs)]
    recorded = [f"--evaluation=tiny={run}", f"--target-start=small={losses}"]
    monkeypatch.setattr(sys, "argv", [*told, *recorded])
    assert tool.main() == 0
    text = (docs / "results.md").read_text("utf-8")
    assert "results/tiny.svg" in text and (docs / "results" / "tiny.svg").is_file()
    assert "Where the target starts: small, zero-shot" in text
    assert "| φ = 0 | **4.300** |  |" in text
    monkeypatch.setattr(sys, "argv", [*told, "--check"])
    assert tool.main() == 0
    (docs / "results.md").write_text(text.replace("30.0", "31.0"), "utf-8")
    assert tool.main() == 1
    assert "differs from the recorded results" in capsys.readouterr().err


def test_results_of_an_earlier_packaged_model_are_told_from_those_of_this_one(
    tool, results, tmp_path
):
    def page(model, digest):
        held = results | {"model": model, "model_sha256": digest}
        (tmp_path / "ours.evaluation.json").write_text(json.dumps(held), "utf-8")
        return tool.page(tmp_path)

    assert "an earlier packaged model" in page("en-fr", "0" * 64)
    assert "an earlier packaged model" not in page("en-fr", files_digest(DEFAULT_MODEL))
    assert "an earlier packaged model" not in page("tiny", "0" * 64)


def test_runs_of_talks_are_recorded_under_one_name(
    tool, talks, results, history, tmp_path, monkeypatch
):
    recorded = []
    for number, run in enumerate(talks):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "talks.json").write_text(json.dumps(run), "utf-8")
        recorded.append(f"--talks=tiny={folder}")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "evaluation.json").write_text(json.dumps(results), "utf-8")
    (tmp_path / "history.json").write_text(json.dumps(history), "utf-8")
    recorded += [f"--evaluation=tiny={alone}", f"--history=tiny={tmp_path / 'history.json'}"]
    docs = tmp_path / "docs"
    told = ["results.py", "--docs", str(docs), *recorded]
    monkeypatch.setattr(sys, "argv", told)
    assert tool.main() == 0
    assert json.loads((docs / "results" / "tiny.talks.json").read_text("utf-8")) == talks
    page = (docs / "results.md").read_text("utf-8")
    assert talks_section("tiny", talks, results) in page
    assert history_section("tiny", history) in page


def test_the_page_in_the_documents_is_up_to_date(tool, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["results.py", "--check"])
    assert tool.main() == 0
