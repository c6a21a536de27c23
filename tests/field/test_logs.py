"""SimulEval and OmniSTEval read our logs unchanged, and find in them what we found."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from golden_cases import GOLDEN
from omnisteval.io import load_shortform_instances
from omnisteval.scoring import evaluate_instances
from simuleval import options as simuleval_options
from simuleval.evaluator import SentenceLevelEvaluator
from simuleval.evaluator.instance import TextToTextInstance
from simuleval.evaluator.scorers import get_scorer_class

from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.figures import elapsed_ms, policy_figures
from mlx_simul.evaluation.latency import average_token_delay, mean_latency
from mlx_simul.evaluation.logs import write_logs
from mlx_simul.evaluation.quality import text_quality
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.units import reference_length

pytestmark = [
    pytest.mark.field,
    # SimulEval's, when it skips an empty translation.
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]

SIMULEVAL_SCORES = ("LAAL", "AL", "AP", "DAL")
WORD_MS = 250.0
WITHIN = 1e-6
WORDS = [
    "le",
    "la",
    "un",
    "chat",
    "chien",
    "dort",
    "mange",
    "ici",
    "demain",
    ",",
    "grand",
    "petit",
    "!",
]
IDEOGRAMS = "猫は家で寝る犬も外に走る"


def words_of(n_words, seed):
    return " ".join(WORDS[(seed * 7 + i * i + i) % len(WORDS)] for i in range(n_words))


def characters_of(n_chars, seed):
    return "".join(IDEOGRAMS[(seed * 5 + i * i) % len(IDEOGRAMS)] for i in range(n_chars))


def corpus(text_of):
    """The golden delays as records, with texts of their lengths and some time for each word."""
    items, records = [], []
    for case in json.loads((GOLDEN / "latency.json").read_text("utf-8"))["cases"]:
        delays, n_source = case["delays"], case["source_length"]
        if any(delay > n_source for delay in delays):
            continue  # no session reads more than there is
        index = len(records)
        fed_ms = tuple(10.0 * j for j in range(n_source))
        times_ms = tuple(10.0 * (d - 1) + 4.0 + i / 50 for i, d in enumerate(delays))
        hypothesis = text_of(len(delays), index)
        reference = text_of(case["reference_length"], index // 3)
        items.append(Item(words_of(n_source, index + 1), (reference, "another")))
        records.append(
            Record(
                index=index,
                prediction=hypothesis,
                source_words=n_source,
                delays=tuple(delays),
                times_ms=times_ms,
                fed_ms=fed_ms,
                total_ms=10.0 * n_source,
                n_tokens=len(delays),
                n_passes=len(delays),
                reason="end_of_turn",
            )
        )
    return items, records


@pytest.fixture(params=["word", "char"])
def evaluated(request, tmp_path):
    """Unit, items, records and our figures of them; their logs in a folder."""
    items, records = corpus(words_of if request.param == "word" else characters_of)
    assert any(not record.delays for record in records)
    write_logs(tmp_path, items, records, WORD_MS)
    figures = policy_figures(items, records, request.param, WORD_MS)
    return request.param, items, records, figures, tmp_path


def quality_of(items, records, tokenizer):
    """BLEU and chrF against the first references, which are what the logs hold."""
    return text_quality(
        [record.prediction for record in records],
        [item.references[:1] for item in items],
        tokenizer,
    )


def simuleval_of(folder, unit, monkeypatch, *more):
    """SimulEval's evaluator of a log, as its command makes it."""
    told = ["--score-only", "--output", folder, "--eval-latency-unit", unit, *more]
    told += ["--latency-metrics", *SIMULEVAL_SCORES]
    monkeypatch.setattr(sys, "argv", ["simuleval", *map(str, told)])
    parser = simuleval_options.general_parser()
    simuleval_options.add_evaluator_args(parser)
    simuleval_options.add_scorer_args(parser)
    simuleval_options.add_dataloader_args(parser)
    return SentenceLevelEvaluator.from_args(parser.parse_args())


def test_simuleval_scores_the_log_as_we_do(evaluated, monkeypatch):
    unit, items, records, figures, folder = evaluated
    tokenizer = "13a" if unit == "word" else "char"
    plain = simuleval_of(folder, unit, monkeypatch, "--sacrebleu-tokenizer", tokenizer)
    assert len(plain.instances) == len(items)
    # With this flag all of SimulEval's scores are computation-aware, whatever their names.
    aware = simuleval_of(folder, unit, monkeypatch, "--computation-aware").latency
    for name in SIMULEVAL_SCORES:
        ours, ours_aware = (figures[kind][name.lower()] for kind in ("latency", "latency_ca"))
        assert plain.latency[name] == pytest.approx(ours, abs=WITHIN)
        assert aware[f"{name}_CA"] == pytest.approx(ours_aware, abs=1e-5)
    ours = quality_of(items, records, tokenizer)
    assert plain.quality["BLEU"] == pytest.approx(ours.bleu, abs=WITHIN)
    # What would be found if delays were off by one.
    off = [replace(r, delays=tuple(max(1, d - 1) for d in r.delays)) for r in records]
    wrong = policy_figures(items, off, unit, WORD_MS)
    assert plain.latency["LAAL"] != pytest.approx(wrong["latency"]["laal"], abs=0.1)


def test_simulevals_delay_of_text_is_ours(evaluated):
    """From a log SimulEval takes every source for speech, so this asks its scorer directly."""
    unit, items, records, figures, _ = evaluated
    instances = {}
    for item, record in zip(items, records, strict=True):
        instance = TextToTextInstance.__new__(TextToTextInstance)
        instance.delays, instance.latency_unit = list(record.delays), unit
        instance.source, instance.reference = item.source.split(), item.references[0]
        instance.metrics = {}
        instances[record.index] = instance
    assert get_scorer_class("latency", "ATD")()(instances) == pytest.approx(
        figures["latency"]["atd"], abs=WITHIN
    )
    for record, instance in zip(records, instances.values(), strict=True):
        assert instance.reference_length == reference_length(instance.reference, unit)
        if record.delays:
            assert get_scorer_class("latency", "ATD")()({0: instance}) == pytest.approx(
                average_token_delay(record.delays), abs=WITHIN
            )


def test_omnisteval_scores_its_log_as_we_do(evaluated):
    unit, items, records, figures, folder = evaluated
    tokenizer = "13a" if unit == "word" else "char"
    instances = load_shortform_instances(
        str(folder / "omnisteval.jsonl"),
        str(folder / "reference.txt"),
        "delays",
        "elapsed",
        char_level=unit == "char",
    )
    found, *_ = evaluate_instances(
        instances, is_longform=False, bleu_tokenizer=tokenizer, compute_quality=True
    )
    for name in ("laal", "al", "dal"):
        in_ms = WORD_MS * figures["latency"][name]
        assert found[name] == pytest.approx(in_ms, abs=1e-4)
        in_ms = WORD_MS * figures["latency_ca"][name]
        assert found[f"ca_{name}"] == pytest.approx(in_ms, abs=1e-2)
    assert found["ap"] == pytest.approx(figures["latency"]["ap"], abs=WITHIN)
    ours = quality_of(items, records, tokenizer)
    assert found["bleu"] == pytest.approx(ours.bleu, abs=WITHIN)
    assert found["chrf"] == pytest.approx(ours.chrf, abs=WITHIN)


def test_both_commands_take_the_logs(evaluated):
    unit, _, _, figures, folder = evaluated
    command = [sys.executable, "-m", "simuleval.cli", "--score-only", "--output", folder]
    command += ["--latency-metrics", "LAAL", "--eval-latency-unit", unit]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    header, values = (line.split() for line in shown.strip().splitlines()[-2:])
    laal = float(dict(zip(header, values[1:], strict=True))["LAAL"])
    assert laal == pytest.approx(figures["latency"]["laal"], abs=1e-3)

    command = [sys.executable, "-m", "omnisteval.cli", "shortform", f"--{unit}_level"]
    command += ["--hypothesis_file", folder / "omnisteval.jsonl"]
    command += ["--ref_sentences_file", folder / "reference.txt", "--output_folder", folder / "out"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (folder / "out" / "scores.tsv").read_text("utf-8").splitlines()
    scores = dict(line.split("\t") for line in lines)
    in_ms = WORD_MS * figures["latency"]["laal"]
    assert float(scores["LAAL (CU)"]) == pytest.approx(in_ms, abs=1e-3)


def test_computing_is_in_the_elapsed_times(evaluated):
    *_, records, figures, _ = evaluated
    assert figures["latency_ca"]["laal"] > figures["latency"]["laal"] + 0.01
    for record in records:
        for delay, elapsed in zip(record.delays, elapsed_ms(record, WORD_MS), strict=True):
            assert elapsed >= delay * WORD_MS
    assert mean_latency([]) is None
