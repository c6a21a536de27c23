"""OmniSTEval (long form) and simulstream read our logs of talks, and find in them what we found."""

import multiprocessing.dummy
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from itertools import count
from types import ModuleType

import pytest
from omnisteval.io import load_resegmentation_inputs
from omnisteval.resegment import resegment
from omnisteval.scoring import evaluate_instances
from simulstream.config import yaml_config
from simulstream.metrics.readers import LogReader, OutputWithDelays, YamlReferenceReader
from simulstream.metrics.scorers.latency import LatencyScoringSample
from simulstream.metrics.scorers.latency.mwersegmenter import ResegmentedLatencyScoringSample
from simulstream.metrics.scorers.latency.stream_laal import StreamLaal
from simulstream.metrics.stats import NormalizedErasure
from talk_runs import exact_run, random_run

import mlx_simul
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.talk_figures import talk_figures, talk_quality
from mlx_simul.evaluation.talk_logs import write_talk_logs
from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talk_sentences import realigned_talk
from mlx_simul.evaluation.talks import talk_at_pace
from mlx_simul.evaluation.translate import live_chunks

pytestmark = pytest.mark.field

WITHIN = 1e-6
NAMES = ("yaal", "laal", "al", "ap", "dal")
TOKENIZERS = {"word": "13a", "char": "char"}
SEEDS = range(24)
PAIRS = [
    ("The train to Paris leaves at nine o'clock.", "Le train pour Paris part à neuf heures."),
    ("I have already bought two tickets.", "J'ai déjà acheté deux billets."),
    ("Where is the station?", "Où est la gare ?"),
    ("It is not far from here.", "Elle n'est pas loin d'ici."),
    ("The children are playing in the garden.", "Les enfants jouent dans le jardin."),
    ("Yes.", "Oui."),
    ("My brother has lived in this town for ten years.", "Mon frère vit ici depuis dix ans."),
    ("He never drinks coffee in the evening.", "Il ne boit jamais de café le soir."),
    ("What are you going to do tomorrow?", "Que vas-tu faire demain ?"),
    ("We will see, if it does not rain.", "On verra, s'il ne pleut pas."),
    ("Thank you very much for your help!", "Merci beaucoup pour votre aide !"),
    ("Tom is taller than his father.", "Tom est plus grand que son père."),
]


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """OmniSTEval aligns in processes that it forks, which must not be done beside MLX's threads."""
    monkeypatch.setattr("omnisteval.alignment.Pool", multiprocessing.dummy.Pool)


def omnisteval_of(folder, unit, log="jsonl", lang=None):
    """The sentences that OmniSTEval makes of a log, and its scores."""
    names = {"jsonl": "omnisteval.jsonl", "simulstream": "simulstream.jsonl"}
    inputs = load_resegmentation_inputs(
        str(folder / "segments.yaml"),
        None,
        str(folder / "reference.txt"),
        str(folder / names[log]),
        hypothesis_format=log,
        char_level=unit == "char",
        simulstream_config_file=str(folder / "simulstream.yaml"),
    )
    instances, _ = resegment(*inputs, char_level=unit == "char", lang=lang)
    scores, *_ = evaluate_instances(instances, bleu_tokenizer=TOKENIZERS[unit])
    return [instance.prediction for instance in instances], scores


def ours_of(records, unit, tokenize=None):
    """Our sentences and scores, by OmniSTEval's names; a score that does not exist is left out."""
    talks = [realigned_talk(record, unit, tokenize) for record in records]
    figures, quality = talk_figures(talks), talk_quality(talks, TOKENIZERS[unit])
    scores = {"bleu": quality.bleu, "chrf": quality.chrf}
    for kind, prefix in (("latency", ""), ("latency_ca", "ca_")):
        for name in NAMES:
            scores[f"{prefix}long_{name}"] = (figures[kind] or {}).get(name)
    texts = [sentence.prediction for talk in talks for sentence in talk.sentences]
    return texts, {name: value for name, value in scores.items() if value is not None}


def assert_equal(ours, theirs):
    """All that we found is what they found, and what we did not find is not a number there."""
    assert ours[0] == theirs[0]
    found = {name: value for name, value in theirs[1].items() if value == value}
    found = {name: value for name, value in found.items() if not name.endswith("_nfkc")}
    assert ours[1].keys() == found.keys()
    for name, value in found.items():
        assert ours[1][name] == pytest.approx(value, abs=WITHIN, rel=0), name


@pytest.fixture(scope="module")
def real_talk():
    """What one session of the packaged model writes of the talk, timed by counting events."""
    model, tokenizer = mlx_simul.load()
    talk = talk_at_pace([Item(source, (target,)) for source, target in PAIRS])
    session = mlx_simul.SimulSession(model, tokenizer, policy=mlx_simul.WaitK(3))
    clock, display, fed_ms = count(0.0, 7.0), Display(), []
    chunks = live_chunks(talk.source)
    for number, chunk in enumerate(chunks, 1):
        fed_ms.append(next(clock))
        session.push(chunk)
        if number == len(chunks):
            session.close()
        for event in session.events():
            display.see(event, next(clock))
    return TalkRecord(0, talk, tuple(display.shown), tuple(fed_ms))


# OmniSTEval


@pytest.mark.parametrize("log", ["jsonl", "simulstream"])
@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("seed", SEEDS)
def test_omnisteval_scores_random_talks_as_we_do(tmp_path, seed, unit, log):
    records = [random_run(seed, i, unit) for i in range(1 + seed % 4)]
    write_talk_logs(tmp_path, records, unit)
    assert_equal(ours_of(records, unit), omnisteval_of(tmp_path, unit, log))


def test_the_random_talks_hold_what_is_rare():
    """Empty sentences, units in no sentence, text taken back, and talks that fall behind."""
    records = [random_run(seed, i) for seed in SEEDS for i in range(1 + seed % 4)]
    talks = [realigned_talk(record, "word") for record in records]
    figures = talk_figures(talks)
    assert figures["n_empty"] > 10 and figures["n_unplaced"] > 0
    assert figures["erasure"]["n_units"] > 50
    assert figures["latency_ca"]["yaal"] > figures["latency"]["yaal"] + 100


@pytest.mark.parametrize("unit", ["word", "char"])
def test_a_difference_is_detected(tmp_path, unit):
    """One unit a word of source later, or one given to another sentence, is another score."""
    record = random_run(1, 0, unit, n_sentences=6)
    write_talk_logs(tmp_path, [record], unit)
    theirs = omnisteval_of(tmp_path, unit)
    assert_equal(ours_of([record], unit), theirs)
    middle = len(record.shown) // 2
    n_read = record.shown[middle + 1].source_words
    assert n_read != record.shown[0].source_words
    early = tuple(
        replace(each, source_words=record.shown[0].source_words) if i < middle else each
        for i, each in enumerate(record.shown)
    )
    with pytest.raises(AssertionError):
        assert_equal(ours_of([replace(record, shown=early)], unit), theirs)
    with pytest.raises(AssertionError):
        assert_equal(ours_of([replace(record, shown=record.shown[:-2])], unit), theirs)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_omnisteval_scores_a_long_talk_as_we_do(tmp_path, unit):
    record = random_run(7, 0, unit, n_sentences=40, n_words=24)
    write_talk_logs(tmp_path, [record], unit)
    assert_equal(ours_of([record], unit), omnisteval_of(tmp_path, unit))


def test_omnisteval_scores_a_real_talk_as_we_do(tmp_path, real_talk):
    write_talk_logs(tmp_path, [real_talk], "word")
    ours = ours_of([real_talk], "word")
    assert_equal(ours, omnisteval_of(tmp_path, "word"))
    assert ours[1]["bleu"] > 20
    assert 400 < ours[1]["long_yaal"] < 4000
    figures = talk_figures([realigned_talk(real_talk, "word")])
    assert figures["erasure"]["n_units"] == figures["n_empty"] == 0


def test_tokens_within_words_are_compared_as_omnisteval_does(tmp_path, monkeypatch):
    """Its tokenizer is a Perl script, so that here both have another one."""

    def tokenize(text):
        return re.findall(r"\w+|[^\w\s]", text) or [text]

    moses = ModuleType("mosestokenizer")
    moses.MosesTokenizer = lambda lang, no_escape: tokenize
    monkeypatch.setitem(sys.modules, "mosestokenizer", moses)
    records = [random_run(seed, seed) for seed in SEEDS]
    write_talk_logs(tmp_path, records, "word")
    ours = ours_of(records, "word", tokenize)
    assert_equal(ours, omnisteval_of(tmp_path, "word", lang="xx"))
    assert ours[0] != ours_of(records, "word")[0]


@pytest.mark.parametrize("unit", ["word", "char"])
def test_omnistevals_command_takes_the_logs(tmp_path, unit):
    records = [random_run(3, i, unit) for i in range(2)]
    write_talk_logs(tmp_path, records, unit)
    command = [sys.executable, "-m", "omnisteval.cli", "longform", f"--{unit}_level"]
    command += ["--speech_segmentation", tmp_path / "segments.yaml"]
    command += ["--ref_sentences_file", tmp_path / "reference.txt"]
    command += ["--hypothesis_file", tmp_path / "omnisteval.jsonl"]
    command += ["--bleu_tokenizer", TOKENIZERS[unit], "--output_folder", tmp_path / "out"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    rows = (tmp_path / "out" / "scores.tsv").read_text("utf-8").splitlines()
    found = dict(row.split("\t") for row in rows)
    ours = ours_of(records, unit)[1]
    for name, ending in (("long_{}", "(CU)"), ("ca_long_{}", "(CA)")):
        for metric in NAMES:
            value = float(found[f"Long{metric.upper()} {ending}"])
            assert value == pytest.approx(ours[name.format(metric)], abs=1e-4)
    assert float(found["BLEU"]) == pytest.approx(ours["bleu"], abs=1e-4)


# simulstream


def simulstream_reader(folder, unit):
    config = yaml_config(str(folder / "simulstream.yaml"))
    return LogReader(config, str(folder / "simulstream.jsonl"), latency_unit=unit)


@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("seed", SEEDS)
def test_simulstream_reads_units_delays_and_erasure(tmp_path, seed, unit):
    records = [random_run(seed, i, unit) for i in range(1 + seed % 4)]
    write_talk_logs(tmp_path, records, unit)
    reader = simulstream_reader(tmp_path, unit)
    outputs = reader.final_outputs_and_latencies()
    assert list(outputs) == [f"talk-{record.index:04d}" for record in records]
    for record, output in zip(records, outputs.values(), strict=True):
        units = record.units(unit)
        assert output.text_items(unit) == list(units.texts)
        ideal, aware = record.delays_ms(units.delays), record.elapsed_ms(units.times_ms)
        assert [1000 * s for s in output.ideal_delays] == pytest.approx(ideal, abs=WITHIN)
        assert [1000 * s for s in output.computational_aware_delays] == pytest.approx(
            aware, abs=WITHIN
        )
    n_erased = sum(record.n_erased(unit) for record in records)
    assert reader.num_deleted_tokens() == n_erased
    n_units = sum(len(record.units(unit).texts) for record in records)
    if n_units:
        assert NormalizedErasure().compute(reader) == pytest.approx(n_erased / n_units)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_stream_laal_of_our_sentences_is_simulstreams(tmp_path, unit):
    """Its aligner is another one, so that its scorer is given what ours makes."""
    records = [random_run(seed, seed, unit) for seed in SEEDS]
    write_talk_logs(tmp_path, records, unit)
    references = YamlReferenceReader(
        str(tmp_path / "segments.yaml"), str(tmp_path / "reference.txt")
    ).references
    samples = []
    for record, (name, reference) in zip(records, references.items(), strict=True):
        talk = realigned_talk(record, unit)
        outputs = [
            OutputWithDelays(
                sentence.prediction,
                [(sentence.start_ms + ms) / 1000 for ms in sentence.delays_ms],
                [(sentence.start_ms + ms) / 1000 for ms in sentence.elapsed_ms],
            )
            for sentence in talk.sentences
        ]
        samples.append(ResegmentedLatencyScoringSample(name, outputs, reference))
    found = StreamLaal(Namespace(latency_unit=unit))._do_score(samples)
    ours = ours_of(records, unit)[1]
    assert 1000 * found.ideal_latency == pytest.approx(ours["long_laal"], abs=WITHIN)
    aware = 1000 * found.computational_aware_latency
    assert aware == pytest.approx(ours["ca_long_laal"], abs=WITHIN)


def test_where_nothing_is_ambiguous_both_aligners_agree(tmp_path):
    items = [Item("a b c d", (f"w{i} x{i} y{i} z{i}",)) for i in range(20)]
    record = exact_run(talk_at_pace(items), lag_words=2)
    write_talk_logs(tmp_path, [record], "word")
    reader = simulstream_reader(tmp_path, "word")
    references = YamlReferenceReader(
        str(tmp_path / "segments.yaml"), str(tmp_path / "reference.txt")
    ).references
    samples = [
        LatencyScoringSample(name, output, references[name])
        for name, output in reader.final_outputs_and_latencies().items()
    ]
    found = StreamLaal(Namespace(latency_unit="word")).score(samples)
    ours = ours_of([record], "word")[1]["long_laal"]
    assert 1000 * found.ideal_latency == pytest.approx(ours, abs=WITHIN)


def test_simulstreams_command_takes_the_log(tmp_path, real_talk):
    write_talk_logs(tmp_path, [real_talk], "word")
    command = [sys.executable, "-m", "simulstream.metrics.score_latency"]
    command += ["--eval-config", tmp_path / "simulstream.yaml"]
    command += ["--log-file", tmp_path / "simulstream.jsonl"]
    command += ["--audio-definition", tmp_path / "segments.yaml"]
    command += ["--reference", tmp_path / "reference.txt", "--scorer", "stream_laal"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"ideal_latency=([\d.]+)", done.stdout)
    assert found, done.stdout
    # By another alignment, so near and not equal.
    ours = ours_of([real_talk], "word")[1]["long_laal"]
    assert 1000 * float(found.group(1)) == pytest.approx(ours, rel=0.1)
