"""Heads that follow the source are found, and stored with the model."""

import json

import numpy as np
import pytest
from tiny_chat import write_chat_folder

from mlx_simul import load
from mlx_simul.console import cli
from mlx_simul.engine.needs import calibrated_heads
from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.calibrate import _chosen, calibrate, store
from mlx_simul.training.word_alignment import align

WORDS = {"the": "le", "cat": "chat", "sees": "voit", "dog": "chien", "big": "gros", "a": "un"}
SENTENCES = ["the cat sees a dog", "a big dog sees the cat", "the dog sees the big cat"]


def translated(sentence):
    """Word by word, but for adjectives, which French puts behind."""
    words = sentence.split()
    for i, word in enumerate(words[:-1]):
        if word == "big":
            words[i : i + 2] = words[i + 1], "big"
            break
    return [WORDS[word] for word in words]


def test_words_are_linked_across_an_inversion():
    pairs = [(s.split(), translated(s)) for s in SENTENCES]
    backwards = {french: english for english, french in WORDS.items()}
    hits = [
        source[row.index(max(row))] == backwards[word]
        for (source, target), rows in zip(pairs, align(pairs), strict=True)
        for word, row in zip(target, rows, strict=True)
    ]
    assert all(sum(row) == pytest.approx(1) for rows in align(pairs) for row in rows)
    assert sum(hits) / len(hits) > 0.85


def test_the_head_that_points_best_comes_first_and_noise_is_left_out():
    rng = np.random.default_rng(0)
    links = [np.eye(6)[rng.permutation(6)] for _ in range(5)]
    noise = [rng.random((2, 6, 6)) for _ in links]
    half = [0.4 * link + noise[i][0] for i, link in enumerate(links)]
    seen = [np.stack([n[0], h, link, n[1]]) for n, h, link in zip(noise, half, links, strict=True)]
    heads = [(0, 0), (0, 1), (1, 0), (1, 1)]
    found = _chosen(heads, seen, links, n_heads=3)
    assert found.heads == ((1, 0),)
    assert found.score == found.scores[1, 0] == 1
    assert found.scores[0, 1] > found.scores[0, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("calibrate") / "model")


def test_a_model_is_calibrated_from_pairs(folder):
    model, tokenizer = load(folder)
    pairs = [Pair(s, " ".join(translated(s))) for s in SENTENCES]
    found = calibrate(model, tokenizer, pairs, n_heads=2, target_language="French")
    n_layers = len(model.layers)
    assert {layer for layer, _ in found.scores} == set(range(n_layers))
    assert 1 <= len(found.heads) <= 2
    assert found.score >= max(found.scores.values())
    assert all(0 <= score <= 1 for score in found.scores.values())
    with pytest.raises(DataError, match="no pair"):
        calibrate(model, tokenizer, [Pair("one", "un")])


def test_the_command_stores_what_policies_read(folder, tmp_path, capsys):
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{s}\t{' '.join(translated(s))}\n" for s in SENTENCES), "utf-8")
    before = json.loads((folder / "config.json").read_text())
    args = ["calibrate", str(folder), "--data", str(data), "--heads", "2", "--to", "French"]
    assert cli.main([*args, "--dry-run"]) == 0
    assert json.loads((folder / "config.json").read_text()) == before
    assert cli.main(args) == 0
    after = json.loads((folder / "config.json").read_text())
    heads = after.pop("mlx_simul")["alignment_heads"]
    assert after == before
    assert calibrated_heads(load(folder)[0]) == tuple(map(tuple, heads))
    assert "+".join(f"{layer}-{head}" for layer, head in heads) in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--heads", "--pairs"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_no_heads_and_no_pairs_are_refused(folder, tmp_path, option, number, capsys):
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{s}\t{' '.join(translated(s))}\n" for s in SENTENCES), "utf-8")
    args = ["calibrate", str(folder), "--data", str(data), "--to", "French", "--dry-run"]
    assert cli.main([*args, option, number]) == cli.EXIT_USAGE
    assert f"at least 1, got {number}" in capsys.readouterr().err


def test_storing_keeps_what_else_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1, "mlx_simul": {"target_start": 64}}')
    store(tmp_path, [(1, 2)])
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "a": 1,
        "mlx_simul": {"target_start": 64, "alignment_heads": [[1, 2]]},
    }
    with pytest.raises(InvalidOptionError, match=r"does not hold a config\.json"):
        store(tmp_path / "none", [(1, 2)])
