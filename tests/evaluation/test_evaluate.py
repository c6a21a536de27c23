"""An evaluation: real sessions recorded, scored as the records say, stopped and gone on with."""

import datetime
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.errors import DataError, InvalidOptionError, SimulError
from mlx_simul.evaluation.corpus import read_corpus
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.plot import draw_curve
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.run import evaluate
from mlx_simul.evaluation.translate import Player, Translator, live_chunks
from mlx_simul.evaluation.work import _in_processes
from mlx_simul.options import SessionOptions
from mlx_simul.policies import name_in, parse_policy
from mlx_simul.text.segmenter import SourceSegmenter

SOURCES = ["one two three.", "four 5.5 six", "seven", "eight nine ten eleven"]
END = "end_of_turn"
SESSION = {"max_tokens": 10, "max_tokens_per_word": 4}
SESSION_OPTIONS = SessionOptions.of(**SESSION)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def loaded(model_folder):
    return mlx_simul.load(model_folder)


@pytest.fixture
def options(model_folder, tmp_path):
    corpus = tmp_path / "set.tsv"
    rows = [f"{source}\t{source} there" for source in SOURCES]
    corpus.write_text("\n".join([*rows, f"{SOURCES[0]}\tanother"]) + "\n", "utf-8")
    return EvaluationOptions(
        model=str(model_folder),
        corpus=str(corpus),
        folder=str(tmp_path / "results"),
        policies=("wait-k:1", "wait-k:2", "whole"),
        session=SESSION,
        n_bootstrap=20,
    )


# Records


@given(st.lists(st.sampled_from([" ", "\n ", "ab", "c.", "猫", "手机", "é"]), max_size=8))
def test_chunks_bring_the_source_word_by_word(parts):
    text = "".join(parts)
    chunks = live_chunks(text)
    assert "".join(chunks) == " ".join(text.split())
    segmenter = SourceSegmenter()
    words = [*segmenter.feed(text), *segmenter.finish()]
    assert [chunk.strip() for chunk in chunks] == [word.strip() for word in words]


WAYS = [(source, spec, {}) for source in SOURCES for spec in ("wait-k:1", "wait-k:3", "whole")]
WAYS += [
    (SOURCES[3], "wait-k:2", more)
    for more in ({"mode": "reencode"}, {"mode": "interleaved"}, {"gpe_compat": True})
]


@pytest.mark.parametrize(("source", "spec", "more"), WAYS)
def test_a_record_is_what_any_session_writes(loaded, source, spec, more):
    options = {**SESSION, **more}
    record = Translator(Player(*loaded, SessionOptions.of(**options)))(
        7, source, parse_policy(spec)
    )
    events = mlx_simul.stream_generate(*loaded, source, policy=parse_policy(spec), **options)
    *events, finished = events
    assert record.index == 7
    assert record.prediction == " ".join(finished.target_text.split())
    assert record.n_tokens == len(finished.token_ids)
    assert record.reason == finished.reason
    assert record.source_words == len(source.split()) == len(record.fed_ms)
    assert len(record.delays) == len(record.prediction.split()) == len(record.times_ms)
    assert set(record.delays) <= {
        event.source_words_read for event in events if isinstance(event, mlx_simul.Write)
    }


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_time_runs_forward_in_a_record(loaded, clock):
    translate = Translator(Player(*loaded, SESSION_OPTIONS, clock))
    record = translate(0, SOURCES[3], parse_policy("wait-k:1"))
    assert list(record.fed_ms) == sorted(record.fed_ms)
    assert list(record.times_ms) == sorted(record.times_ms)
    assert record.times_ms[-1] <= record.total_ms
    assert all(wait >= 0 for wait in record.response_ms)
    # No unit is there before the word it was written after.
    for delay, time_ms in zip(record.delays, record.times_ms, strict=True):
        assert time_ms >= record.fed_ms[delay - 1]


def test_the_clock_of_the_cpu_does_not_wait(loaded, monkeypatch):
    """Another process takes the machine for a while: only the wall's clock sees it."""
    feed = mlx_simul.SimulSession.push

    def slow(session, text):
        time.sleep(0.2)
        feed(session, text)

    monkeypatch.setattr(mlx_simul.SimulSession, "push", slow)
    wall, cpu = (
        Translator(Player(*loaded, SESSION_OPTIONS, clock))(0, SOURCES[3], parse_policy("wait-k:1"))
        for clock in ("wall", "cpu")
    )
    assert wall.total_ms > 4 * 200
    assert cpu.total_ms < wall.total_ms - 2 * 200
    assert cpu.prediction == wall.prediction


def test_response_is_counted_from_what_came_last():
    record = Record(0, "a b c", 2, (1, 1, 2), (5.0, 9.0, 23.0), (0.0, 20.0), 30.0, 3, 3, "x")
    assert record.response_ms == [5.0, 4.0, 3.0]


def test_a_source_without_words_is_refused(loaded):
    with pytest.raises(InvalidOptionError, match="no words"):
        Translator(Player(*loaded))(0, " \n", parse_policy("wait-k:1"))


records = st.builds(
    Record,
    index=st.integers(0, 9),
    prediction=st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    source_words=st.integers(1, 5),
    delays=st.lists(st.integers(1, 5)).map(tuple),
    times_ms=st.lists(st.floats(0, 99)).map(tuple),
    fed_ms=st.lists(st.floats(0, 99)).map(tuple),
    total_ms=st.floats(0, 99),
    n_tokens=st.integers(0, 9),
    n_passes=st.integers(0, 9),
    reason=st.just("end_of_turn"),
)


@given(records)
def test_a_record_survives_its_line(record):
    assert Record.from_json(record.to_json()) == record


# A whole evaluation


def untimed(folder, spec):
    path = folder / spec.replace(":", "_") / "records.jsonl"
    found = [Record.from_json(line) for line in path.read_text("utf-8").splitlines()]
    return sorted((r.index, r.prediction, r.delays, r.n_passes, r.reason) for r in found)


class Stopped(Exception):
    pass


def test_an_evaluation_that_was_stopped_goes_on(options, tmp_path):
    options, seen = replace(options, quality=False, plot=False), []

    def stop(policy, n_done, n_all):
        seen.append((policy, n_done, n_all))
        if n_done == 6:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(options, stop)
    results = evaluate(options, lambda *told: seen.append(told))
    assert [n_done for _, n_done, _ in seen] == list(range(1, 13))
    assert {n_all for _, _, n_all in seen} == {12}
    whole = replace(options, folder=str(tmp_path / "at once"))
    assert list(results["policies"]) == list(evaluate(whole)["policies"]) == list(options.policies)
    for spec in options.policies:
        assert untimed(tmp_path / "results", spec) == untimed(tmp_path / "at once", spec)
    again = evaluate(
        replace(options, policies=("whole", "wait-k:3")), lambda *told: seen.append(told)
    )
    assert [policy for policy, _, _ in seen[12:]] == ["wait-k:3"] * 4
    assert again["policies"]["whole"]["latency"] == results["policies"]["whole"]["latency"]


def test_processes_share_the_work(options, tmp_path):
    alone = replace(options, folder=str(tmp_path / "alone"), quality=False, plot=False)
    evaluate(alone)
    evaluate(replace(alone, folder=options.folder, processes=2))
    for spec in options.policies:
        assert untimed(tmp_path / "results", spec) == untimed(tmp_path / "alone", spec)


def test_a_process_that_cannot_begin_says_why(options):
    options = replace(options, processes=2, quality=False, plot=False)
    wrong = replace(options, session={"target_start": "foo"})
    with pytest.raises(InvalidOptionError, match="'foo'"):
        evaluate(wrong)


class Deadly:
    """Kills the process that is given it."""

    processes = 2

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_is_killed_ends_the_evaluation():
    with pytest.raises(SimulError, match="fewer --processes"):
        list(_in_processes(cast(Any, Deadly()), [("whole", index, "a") for index in range(4)]))


LIMIT_S = 300  # seconds, of which a quiet machine takes ten


def test_no_process_is_left_however_the_command_ends(model_folder, tmp_path):
    """Whatever it began has its standard error too, so that one ends when all of them have."""
    corpus = tmp_path / "long.tsv"
    rows = [f"{number} two three four five\tone\n" for number in range(5000)]
    corpus.write_text("".join(rows), "utf-8")
    command = [sys.executable, "-m", "mlx_simul", "evaluate", "--model", str(model_folder)]
    command += ["--corpus", str(corpus), "--processes", "2", "--wait-k", "1", "--no-quality"]
    ways = (signal.SIGKILL, signal.SIGTERM)
    begun = {
        way: subprocess.Popen(
            [*command, "--folder", str(tmp_path / way.name)],
            env=os.environ | {"MKL_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for way in ways
    }
    try:
        for way, process in begun.items():
            log = tmp_path / way.name / "wait-k_1" / "records.jsonl"
            ends_s = time.monotonic() + LIMIT_S
            while not (log.is_file() and log.stat().st_size):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < ends_s
                time.sleep(0.05)
            process.send_signal(way)
            said = process.communicate(timeout=LIMIT_S)[1].decode()
            assert "Traceback" not in said
        codes = {way: process.returncode for way, process in begun.items()}
    finally:
        for process in begun.values():
            process.kill()
    assert codes == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}


def test_references_that_bleu_does_not_see_are_refused_before_anything_is_done(options):
    corpus = Path(options.corpus)
    corpus.write_text("one two\t<skipped>\nthree\t<skipped>\n", "utf-8")
    with pytest.raises(DataError, match="'13a' leaves nothing of any reference, such as '<skip"):
        evaluate(options)
    assert not list(Path(options.folder).glob("*/records.jsonl"))
    # One that it sees is enough, and another tokenizer sees them.
    evaluate(replace(options, bleu_tokenizer="none"))
    corpus.write_text("one two\t<skipped>\nthree\tthere\n", "utf-8")
    results = evaluate(replace(options, folder=f"{options.folder}-2"))
    assert results["policies"]["whole"]["length_ratio"] > 0


def test_markup_in_a_name_is_drawn_as_it_is(options, tmp_path):
    """A dollar opens no formula, and what begins with an underscore stands in the legend."""
    results = evaluate(replace(options, policies=("wait-k:1",), plot=False))
    results["model"] = "m$_x^$\x1b[1m\u202e\udcff 日本"
    results["policies"] = {"_mine$_{:1": results["policies"]["wait-k:1"]}
    draw_curve(results, tmp_path / "odd")
    svg = (tmp_path / "odd.svg").read_text("utf-8")
    ElementTree.fromstring(svg)
    # The comments of the SVG file say which texts it draws.
    assert "m$_x^$\ufffd[1m\ufffd\ufffd 日本, 4 sources" in svg
    assert svg.count("<!-- _mine$_{ -->") == 1
    assert "<!-- _mine$_{:1 -->" in svg
    assert not list(tmp_path.glob(".odd*"))


def test_a_test_set_whose_name_is_not_utf8_is_shown_with_escapes(options, tmp_path):
    odd = tmp_path / os.fsdecode(b"set\xff.tsv")
    odd.symlink_to(options.corpus)
    results = evaluate(replace(options, corpus=str(odd), policies=("whole",), quality=False))
    assert results["corpus"]["name"] == "set\\xff.tsv"
    held = (tmp_path / "results" / "evaluation.json").read_text("utf-8")
    assert json.loads(held) == results


def test_what_an_evaluation_says_and_leaves(options, tmp_path):
    results = evaluate(options)
    folder = tmp_path / "results"
    assert json.loads((folder / "evaluation.json").read_text("utf-8")) == results
    assert results["corpus"]["n_sources"] == 4 and results["corpus"]["n_references"] == 5
    assert results["options"]["baseline"] == "whole"
    for spec, figures in results["policies"].items():
        assert 0 <= figures["bleu"]["score"] <= 100
        assert math.isfinite(figures["latency_ca"]["laal"])
        assert figures["latency_ca"]["dal"] >= figures["latency"]["dal"]
        log = (folder / spec.replace(":", "_") / "instances.log").read_text("utf-8").splitlines()
        assert [json.loads(line)["index"] for line in log] == [0, 1, 2, 3]
    lags = [results["policies"][spec]["lag_words"] for spec in options.policies]
    assert lags == sorted(lags)
    assert (folder / "quality-latency.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "quality-latency.svg").read_bytes()
    draw_curve(results, folder / "again")
    assert (folder / "again.svg").read_bytes() == svg


def test_a_plot_needs_quality_and_latency(options, tmp_path):
    results = evaluate(replace(options, quality=False, plot=True))
    assert draw_curve(results, tmp_path / "none") == []
    assert not (tmp_path / "results" / "quality-latency.png").exists()


@pytest.mark.parametrize(
    ("spec", "family"),
    [("wait-k:3", "wait-k"), ("whole", "whole"), ("align-att:2,heads=3-1", "align-att")],
)
def test_policies_are_drawn_by_family(spec, family):
    assert name_in(spec) == family


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policies": ()}, "no policies"),
        ({"policies": ("wait-k:1", "wait-k:1")}, "named twice"),
        ({"policies": ("wait-k:0",)}, "at least 1"),
        ({"policies": ("sometimes",)}, "no policy 'sometimes'"),
        ({"baseline": "wait-k:7"}, "'wait-k:7' is not evaluated"),
        ({"unit": "token"}, "unit must be"),
        ({"clock": "sun"}, "clock must be one of wall, cpu, got 'sun'"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"n_sources": 0}, "n_sources"),
        ({"word_ms": 0.0}, "word_ms"),
        ({"word_ms": math.inf}, "word_ms must be a number above 0, got inf"),
        ({"policies": "whole"}, "policies must be a sequence"),
        ({"references": "a.txt"}, "references must be a sequence"),
        ({"session": {"policy": 3}}, "the policy 3 is among the session's options"),
        ({"session": {"temperature": 3}}, "unknown option 'temperature'"),
        ({"session": {"sampler": "foo"}}, "sampler"),
        ({"session": {"draft": "foo"}}, "draft must be"),
        ({"sentences_per_talk": 0}, "sentences_per_talk must be at least 1"),
        ({"corpus": "nofile.tsv"}, "there is no file nofile.tsv"),
        ({"adapter": "nowhere"}, "there is no folder nowhere"),
        ({"bleu_tokenizer": "moses"}, "no tokenizer 'moses'"),
    ],
)
def test_an_option_out_of_range_is_refused(options, changes, says):
    with pytest.raises(InvalidOptionError, match=says):
        evaluate(replace(options, **changes))
    assert not Path(options.folder).exists()


def test_options_may_come_as_a_table(options):
    table = {**vars(options), "policies": ["wait-k:1"], "plot": False, "n_bootstrap": 0}
    results = evaluate(table)
    assert list(results["policies"]) == ["wait-k:1"]
    assert "ci" not in results["policies"]["wait-k:1"]["bleu"]
    named = results["options"]
    assert (named["model"], named["corpus"], named["n_bootstrap"]) == ("model", "set.tsv", 0)
    del table["model"]
    assert EvaluationOptions(**table).model is None
    with pytest.raises(InvalidOptionError, match="not the options"):
        evaluate({"modle": "a"})


def test_quality_without_sacrebleu_is_refused_before_anything_is_done(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InvalidOptionError, match=r"pip install 'mlx-simul\[eval\]'"):
        evaluate(options)
    assert not Path(options.folder).exists()


def test_what_a_tokenizer_lacks_is_told_before_anything_is_done(options, monkeypatch):
    def without_mecab(**_):
        raise RuntimeError("\nPlease install\n\n    pip install sacrebleu[ja]\n")

    monkeypatch.setattr("sacrebleu.BLEU", without_mecab)
    with pytest.raises(InvalidOptionError, match=r"'13a' .* install pip install sacrebleu\[ja\]"):
        evaluate(options)
    assert not Path(options.folder).exists()


def test_an_option_that_was_mistyped_does_not_bind_the_folder(options):
    options = replace(options, policies=("whole",), quality=False, plot=False, n_sources=1)
    with pytest.raises(InvalidOptionError, match="'foo'"):
        evaluate(replace(options, session={"target_start": "foo"}))
    evaluate(options)
    with pytest.raises(InvalidOptionError, match="another setting of session options"):
        evaluate(replace(options, session={"target_start": 8}))


# The command


def command(options, *more):
    given_options = [
        "--model",
        options.model,
        "--corpus",
        options.corpus,
        "--folder",
        options.folder,
    ]
    limits = ["--max-tokens", "10", "--max-tokens-per-word", "4"]
    return ["evaluate", *given_options, *limits, "--bootstrap", "20", *more]


def test_the_command_shows_a_table_and_goes_on(options, capsys):
    grid = ["--wait-k", "1,whole", "--policy", "wait-k:2", "wait-k:4", "--baseline", "wait-k:1"]
    assert cli.main(command(options, *grid)) == 0
    shown = capsys.readouterr().out
    for text in ("wait-k:1", "wait-k:2", "wait-k:4", "whole", "LAAL", "BLEU", "evaluation.json"):
        assert text in shown
    assert cli.main(command(options, "--policy", "wait-k:4", "--json", "--no-plot")) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results["policies"]) == ["wait-k:4"]
    assert len(read_corpus(options.corpus)) == results["corpus"]["n_sources"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--wait-k", "x"], "whole number k"),
        (["--sentences-per-talk", "0"], "at least 1, got 0"),
        (["--wait-k", ","], "no policies"),
    ],
)
def test_wrong_usage_is_told(options, capsys, more, says):
    assert cli.main(command(options, *more)) == cli.EXIT_USAGE
    assert says in capsys.readouterr().err


# The date


@pytest.fixture
def dated(options):
    """The same of a model whose template prints the date."""
    path = Path(options.model) / "chat_template.jinja"
    before = path.read_text("utf-8")
    path.write_text("{{ strftime_now('%d %b %Y') }}\n" + before, "utf-8")
    yield replace(options, policies=("wait-k:1",), plot=False, quality=False)
    path.write_text(before, "utf-8")


@pytest.fixture
def clock(monkeypatch):
    class Clock(datetime.date):
        shows = datetime.date(2026, 7, 30)

        @classmethod
        def today(cls):
            return cls.shows

    for module in ("evaluation.folder", "text.prompts"):
        monkeypatch.setattr(f"mlx_simul.{module}.Date", Clock)
    return Clock


def test_an_evaluation_keeps_its_date_in_its_folder(dated, clock):
    whole = evaluate(replace(dated, folder=dated.folder + "-whole"))
    evaluate(replace(dated, n_sources=None, folder=dated.folder))
    records = Path(dated.folder) / "wait-k_1" / "records.jsonl"
    lines = records.read_text("utf-8").splitlines(keepends=True)
    records.write_text("".join(lines[:2]), "utf-8")
    clock.shows += datetime.timedelta(days=1)
    resumed = evaluate(dated)
    assert resumed["options"]["session"]["date"] == "2026-07-30"
    again = [json.loads(line)["prediction"] for line in records.read_text("utf-8").splitlines()]
    assert again == [json.loads(line)["prediction"] for line in lines]
    assert whole["options"]["session"]["date"] == "2026-07-30"


def test_an_evaluation_takes_the_date_that_it_is_given(dated, clock):
    given = replace(dated, session={**SESSION, "date": "2020-01-01"})
    assert evaluate(given)["options"]["session"]["date"] == "2020-01-01"
    assert evaluate(given)["options"]["session"]["date"] == "2020-01-01"
    with pytest.raises(InvalidOptionError, match="another setting of date: '2020-01-01'"):
        evaluate(replace(dated, session={**SESSION, "date": "2020-01-02"}))


def test_a_folder_that_is_older_than_dates_goes_on(dated, clock):
    evaluate(dated)
    path = Path(dated.folder) / "setting.json"
    setting = json.loads(path.read_text("utf-8"))
    del setting["date"]
    path.write_text(json.dumps(setting), "utf-8")
    clock.shows += datetime.timedelta(days=1)
    assert evaluate(dated)["options"]["session"]["date"] == "2026-07-31"
