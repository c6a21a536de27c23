"""An evaluation of talks: each a real session with turns, recorded, scored, stopped and resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.run import evaluate
from mlx_simul.evaluation.talk_record import End, TalkRecord
from mlx_simul.evaluation.talk_run import talks_digest
from mlx_simul.evaluation.talk_translate import TalkTranslator
from mlx_simul.evaluation.talks import talk_at_pace
from mlx_simul.evaluation.translate import Player
from mlx_simul.options import SessionOptions
from mlx_simul.policies import parse_policy

PAIRS = [
    ("I have a big dog.", "J'ai un grand chien."),
    ("Do you want a job?", "Veux-tu un travail ?"),
    ("She is reading a book.", "Elle lit un livre."),
    ("We went to the sea yesterday.", "Nous sommes allés à la mer hier."),
    ("The train is late today.", "Le train est en retard aujourd'hui."),
    ("Open the window, please.", "Ouvre la fenêtre, s'il te plaît."),
]
SESSION = {
    "source_language": "English",
    "target_language": "French",
    "max_tokens": 40,
    "max_tokens_per_word": 4,
}
POLICIES = ("wait-k:2", "confidence:0.5")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("talks") / "model")


@pytest.fixture
def options(model_folder, tmp_path):
    """Two talks of three sentences."""
    corpus = tmp_path / "set.tsv"
    rows = [f"{source}\t{target}\n" for source, target in PAIRS]
    corpus.write_text("".join([*rows[:3], "\n", *rows[3:]]), "utf-8")
    return EvaluationOptions(
        model=str(model_folder),
        corpus=str(corpus),
        folder=str(tmp_path / "results"),
        policies=POLICIES,
        session=SESSION,
        talks=True,
        n_bootstrap=20,
    )


def untimed(folder, spec):
    lines = (
        (Path(folder) / spec.replace(":", "_") / "records.jsonl").read_text("utf-8").splitlines()
    )
    records = sorted(map(TalkRecord.from_json, lines), key=lambda record: record.index)
    return [
        ([(each.text, each.source_words, each.n_erased) for each in record.shown], record.ends)
        for record in records
    ]


# Nothing is lost


@pytest.mark.parametrize("spec", ["wait-k:3", "confidence:0.5"])
def test_each_sentence_of_a_talk_is_what_a_session_of_its_own_writes(spec):
    """The packaged model: as many turns as sentences, none without translation."""
    loaded, policy = mlx_simul.load(), parse_policy(spec)
    talk = talk_at_pace([Item(source, (target,)) for source, target in PAIRS])
    record = TalkTranslator(Player(*loaded))(0, talk, policy)
    alone = []
    for source, _ in PAIRS:
        *events, _ = mlx_simul.stream_generate(*loaded, source, policy=policy)
        alone.append("".join(event.text for event in events).strip())
    assert "".join(each.text for each in record.shown).strip() == " ".join(alone)
    assert [end.reason for end in record.ends] == ["end_of_turn"] * len(PAIRS)
    assert record.ends[-1].source_words == len(talk.said_ms)
    assert record.lost_sentences() == []


def test_a_talk_in_one_turn_is_another_one(model_folder):
    """The control: without turns there is one end, and another text."""
    loaded = mlx_simul.load(model_folder)
    talk = talk_at_pace([Item(source, (target,)) for source, target in PAIRS])
    records = [
        TalkTranslator(Player(*loaded, SessionOptions.of(turns=turns, **SESSION)))(
            0, talk, parse_policy("wait-k:2")
        )
        for turns in ("sentence", None)
    ]
    assert [len(record.ends) for record in records] == [len(PAIRS), 1]
    texts = ["".join(each.text for each in record.shown) for record in records]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("ends", "lost"),
    [
        ([(5, 5), (10, 4), (15, 5)], []),
        ([(5, 5), (10, 0), (15, 5)], [1]),
        ([(3, 2), (5, 0), (15, 9)], []),  # half a sentence has a translation
        ([(5, 0), (15, 9)], [0]),
        ([(5, 5)], [1, 2]),  # a stream that ended early
        ([], [0, 1, 2]),
    ],
)
def test_sentences_without_translation_are_counted(ends, lost):
    talk = talk_at_pace([Item(source, (target,)) for source, target in PAIRS[:3]])
    assert [len(sentence.said_ms) for sentence in talk.sentences] == [5, 5, 5]
    held = tuple(End(*end, "end_of_turn") for end in ends)
    record = TalkRecord(0, talk, (), tuple(range(15)), held)
    assert record.lost_sentences() == lost
    assert TalkRecord.from_json(record.to_json()) == record


# A whole evaluation


class Stopped(Exception):
    pass


def test_an_evaluation_that_was_stopped_goes_on(options, tmp_path):
    options, seen = replace(options, quality=False, plot=False), []

    def stop(policy, n_done, n_all):
        seen.append((policy, n_done, n_all))
        if n_done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(options, stop)
    evaluate(options, lambda *told: seen.append(told))
    assert [(n_done, n_all) for _, n_done, n_all in seen] == [(n, 4) for n in range(1, 5)]
    whole = replace(options, folder=str(tmp_path / "at once"), processes=2)
    evaluate(whole)
    for spec in POLICIES:
        assert untimed(options.folder, spec) == untimed(whole.folder, spec)


def test_another_pace_needs_no_new_translation(options):
    options = replace(options, quality=False, plot=False)
    calm = evaluate(options)["policies"]
    told = []
    fast = evaluate(replace(options, word_ms=200), lambda *each: told.append(each))["policies"]
    assert not told
    for spec in POLICIES:
        yaal = calm[spec]["latency"]["yaal"]
        assert fast[spec]["latency"]["yaal"] == pytest.approx(yaal / 2)
        # Time to compute stays what it was, so it weighs more in a faster talk.
        assert fast[spec]["latency_ca"]["yaal"] > calm[spec]["latency_ca"]["yaal"] / 2


def test_the_same_sentences_in_other_talks_are_another_test_set(options):
    options = replace(options, quality=False, plot=False, policies=("wait-k:2",))
    evaluate(options)
    with pytest.raises(InvalidOptionError, match="another setting of test set"):
        evaluate(replace(options, sentences_per_talk=2))
    items = [Item(source, (target,)) for source, target in PAIRS]
    halves = [talk_at_pace(items[:3]), talk_at_pace(items[3:])]
    assert talks_digest(halves) != talks_digest([talk_at_pace(items)])
    assert talks_digest(halves) == talks_digest([talk_at_pace(items[:3], 300), halves[1]])


def test_what_an_evaluation_says_and_leaves(options):
    results = evaluate(options)
    folder = Path(options.folder)
    assert json.loads((folder / "talks.json").read_text("utf-8")) == results
    assert not (folder / "evaluation.json").exists()
    corpus = results["corpus"]
    assert (corpus["n_talks"], corpus["n_sentences"], corpus["n_references"]) == (2, 6, 6)
    n_words = sum(len(source.split()) for source, _ in PAIRS)
    assert corpus["source_words"] == n_words
    assert corpus["minutes"] == pytest.approx(n_words * 0.4 / 60)
    for spec, figures in results["policies"].items():
        assert figures["n_turns"] == sum(figures["ends"].values()) == 6
        assert figures["erasure"] == {"n_units": 0, "share": 0}
        assert 0 <= figures["bleu"]["score"] <= 100
        assert figures["latency_ca"]["laal"] >= figures["latency"]["laal"]
        log = (folder / spec.replace(":", "_") / "omnisteval.jsonl").read_text("utf-8").splitlines()
        assert len(log) == 2
    assert (folder / "lagging.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_shows_tables_and_says_what_was_cut(options, capsys):
    command = ["evaluate", "--model", options.model, "--corpus", options.corpus]
    command += ["--folder", options.folder, "--from", "English", "--to", "French"]
    command += ["--max-tokens", "40", "--max-tokens-per-word", "4", "--bootstrap", "0"]
    command += ["--policy", *POLICIES]
    assert cli.main([*command, "--talks"]) == 0
    out, err = capsys.readouterr()
    assert "2 talks, 6 sentences" in out
    for text in (*POLICIES, "LongYAAL", "StreamLAAL", "BLEU", "drift", "erasure", "talks.json"):
        assert text in out
    assert "6 of 6 turns did not end by themselves" in err
    # The same sentences, cut into other talks.
    cut = ["--folder", options.folder + "-cut", "--sentences-per-talk", "4", "--json"]
    assert cli.main([*command, *cut]) == 0
    assert json.loads(capsys.readouterr().out)["corpus"]["n_talks"] == 2
