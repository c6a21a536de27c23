"""What an evaluation is made of: figures from records, quality, and the folder of the records."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import write_chat_folder

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.figures import policy_figures
from mlx_simul.evaluation.folder import ResultFolder, files_digest
from mlx_simul.evaluation.logs import write_logs
from mlx_simul.evaluation.quality import paired_bootstrap, require_scorable, text_quality
from mlx_simul.evaluation.record import Record

END = "end_of_turn"

# Figures


def test_figures_follow_from_the_records():
    items = [Item("a b c d", ("w x y z",)), Item("a b", ("v w", "v w x")), Item("a", ("b",))]
    held = [
        Record(
            0, "w x y z", 4, (2, 3, 4, 4), (5, 9, 14, 15), (0, 1, 6, 10), 20, 6, 7, "end_of_turn"
        ),
        Record(1, "v", 2, (1,), (2,), (0, 5), 8, 2, 3, "max_tokens"),
        Record(2, "", 1, (), (), (0,), 2, 0, 1, "end_of_turn"),
    ]
    figures = policy_figures(items, held, "word", 100)
    # AL by hand: (2 + 3-1 + 4-2) / 3 = 2 and 1; the empty one has none.
    assert figures["latency"]["al"] == pytest.approx((2 + 1) / 2)
    assert figures["latency"]["ap"] == pytest.approx((13 / 16 + 1 / 4) / 2)
    assert figures["lag_words"] == 14 / 5
    assert figures["passes_per_token"] == 11 / 8
    assert figures["ended"] == 2 / 3
    assert figures["n_empty"] == 1
    assert figures["seconds"] == pytest.approx(0.03)
    # Of the work only what is done since the word was there counts: 4, 3 and 4 ms, and 2.
    lags = (2.04 + 3.03 - 1 + 4.04 - 2) / 3, 1.02
    assert figures["latency_ca"]["al"] == pytest.approx(sum(lags) / 2)
    assert figures["ms_per_word"] == {"p50": 3, "p95": 4}


def test_nothing_written_has_no_latency():
    empty = Record(0, "", 1, (), (), (0,), 2, 0, 1, "end_of_turn")
    figures = policy_figures([Item("a", ("b",))], [empty], "word", 100)
    assert figures["latency"] is None
    assert figures["ms_per_word"] == {"p50": None, "p95": None}
    assert figures["passes_per_token"] == 1


# Quality

REFERENCES = [["the cat sat on the mat", "a cat sat there"], ["it rains in the north again"]] * 8
GOOD = [given[0] for given in REFERENCES]
BAD = ["the dog slept in the sun", "it snows in the south today"] * 8


def test_any_reference_of_a_source_will_do():
    assert text_quality(GOOD, REFERENCES).bleu == pytest.approx(100)
    second = [given[-1] for given in REFERENCES]
    assert text_quality(second, REFERENCES).bleu == pytest.approx(100)
    assert text_quality(second, [given[:1] for given in REFERENCES]).bleu < 90


def test_bootstrap_tells_a_difference_from_none():
    found, signatures = paired_bootstrap(
        {"bad": BAD, "good": GOOD, "same": GOOD}, "good", REFERENCES, n_samples=200
    )
    assert found["good"]["bleu"].p is None
    assert found["bad"]["bleu"].p < 0.05 and found["bad"]["chrf"].p < 0.05
    assert found["same"]["bleu"].p == 1.0
    for metric in ("bleu", "chrf"):
        assert found["bad"][metric].score == getattr(text_quality(BAD, REFERENCES), metric)
        assert "bs:200" in signatures[metric] and "version" in signatures[metric]


def test_an_unknown_tokenizer_is_refused_by_name():
    with pytest.raises(InvalidOptionError, match=r"no tokenizer 'moses'.*13a"):
        text_quality(GOOD, REFERENCES, "moses")


# The folder


def test_a_line_cut_off_is_taken_out(tmp_path):
    folder = ResultFolder(tmp_path, {"model": "a"}, Record)
    record = Record(0, "a", 1, (1,), (1.0,), (0.0,), 2.0, 1, 1, "end_of_turn")
    folder.append("wait-k:1", record)
    log = tmp_path / "wait-k_1" / "records.jsonl"
    with log.open("a", encoding="utf-8") as file:
        file.write(replace(record, index=1).to_json()[:-9])
    assert folder.records("wait-k:1") == {0: record}
    folder.append("wait-k:1", replace(record, index=2))
    assert list(folder.records("wait-k:1")) == [0, 2]
    assert folder.records("wait-k:2") == {}


@pytest.mark.parametrize("damaged", ["{}", "[1]", "not json", "3"])
def test_a_damaged_line_is_named(tmp_path, damaged):
    folder = ResultFolder(tmp_path, {}, Record)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "records.jsonl").write_text(damaged + "\n", "utf-8")
    with pytest.raises(DataError, match="line 1: not the record"):
        folder.records("whole")


def test_records_of_another_setting_are_not_mixed_in(tmp_path):
    ResultFolder(tmp_path / "a", {"model": "y", "unit": "word"}, Record)  # nothing came of it
    folder = ResultFolder(tmp_path / "a", {"model": "x", "unit": "word"}, Record)
    folder.append("whole", Record(0, "", 1, (), (), (0,), 2, 0, 1, END))
    ResultFolder(tmp_path / "a", {"model": "x", "unit": "word"}, Record)
    with pytest.raises(InvalidOptionError, match=r"of unit: 'word', and now it is 'char'"):
        ResultFolder(tmp_path / "a", {"model": "x", "unit": "char"}, Record)
    (tmp_path / "a" / "setting.json").write_text("[]", "utf-8")
    with pytest.raises(InvalidOptionError, match="holds a JSON list where an object belongs"):
        ResultFolder(tmp_path / "a", {}, Record)
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(InvalidOptionError, match="is a file"):
        ResultFolder(tmp_path / "file", {}, Record)
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        ResultFolder(tmp_path / "file" / "below", {}, Record)


@given(st.text(min_size=1))
def test_no_policy_leaves_the_folder(tmp_path_factory, spec):
    folder = ResultFolder(tmp_path_factory.getbasetemp() / "results", {}, Record)
    assert folder.of_policy(spec).resolve().parent == folder.path.resolve()


def test_policies_that_would_share_files_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="would share"):
        ResultFolder(tmp_path, {}, Record).require_distinct(["a/1", "a:1"])


def test_a_checkpoints_digest_sees_its_weights(tmp_path):
    write_chat_folder(tmp_path / "model")
    before = files_digest(tmp_path / "model")
    assert files_digest(tmp_path / "model") == before
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    changed = files_digest(tmp_path / "model")
    assert changed != before
    (tmp_path / "model" / "record.json").write_text("{}", "utf-8")
    assert files_digest(tmp_path / "model") == changed
    (tmp_path / "model" / "merges.txt").write_text("a b", "utf-8")
    assert files_digest(tmp_path / "model") != changed


def test_a_line_break_in_a_text_shifts_no_line(tmp_path):
    items = [Item("a\nb", ("v\r\nw",)), Item("c", ("x",))]
    held = [Record(i, "", 2 - i, (), (), (0,), 2, 0, 1, END) for i in range(2)]
    write_logs(tmp_path, items, held, 400)
    assert (tmp_path / "source.txt").read_text("utf-8").splitlines() == ["a b", "c"]
    assert (tmp_path / "reference.txt").read_text("utf-8").splitlines() == ["v w", "x"]


def test_nothing_is_divided_by_a_reference_that_bleu_does_not_see():
    scores = text_quality(["", "x"], [["<skipped>"], ["<skipped>"]])
    assert (scores.bleu, scores.length_ratio) == (0, None)
    # Which reference is the closest depends on what was written: to nothing, one of no tokens.
    assert text_quality([""], [["a b", "<skipped>"]]).length_ratio is None
    assert text_quality(["a b"], [["a b", "<skipped>"]]).length_ratio == 1


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char"])
def test_references_are_scorable_if_bleu_finds_something_in_one(tokenizer):
    require_scorable([["<skipped>"], ["<skipped>", "a"]], tokenizer)
    if tokenizer == "13a":
        with pytest.raises(DataError, match="another one"):
            require_scorable([["<skipped>"], ["<skipped>", "<skipped>"]], tokenizer)
