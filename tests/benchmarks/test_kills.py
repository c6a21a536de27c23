"""Kills at random moments, in small: a few, of a tiny model."""

import random
import shutil
from importlib import import_module

import pytest
from repository import ROOT
from tiny_checkpoints import golden_folder

OPTIONS = [
    *("--turns", "sentence", "--policy", "wait-k:1", "--max-ratio", "1"),
    *("--max-tokens", "24", "--max-tokens-per-word", "3"),
]
TEXT = "Good morning, how are you? I would like a café au lait.\n\nThank you. See you on Monday!"
N_KILLS = 5


@pytest.fixture(scope="module")
def kills():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield import_module("kills")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = golden_folder(tmp_path_factory.mktemp("kills") / "model", "qwen2")
    return ["--model", str(folder), *OPTIONS]


def test_a_talk_that_is_killed_comes_out_as_if_left_alone(tmp_path, kills, options):
    found = list(kills.run(tmp_path / "talks", N_KILLS, 0, TEXT, options))
    lives = [each for each in found if isinstance(each, kills.Life)]
    outcomes = [each for each in found if isinstance(each, kills.Outcome)]
    assert sum(life.killed for life in lives) >= N_KILLS
    assert sum(outcome.n_kills for outcome in outcomes) == sum(life.killed for life in lives)
    assert [outcome.differences for outcome in outcomes] == [[]] * len(outcomes)
    assert outcomes


def test_what_differs_is_found(tmp_path, kills, options):
    """Negative control."""
    whole = kills.Command(tmp_path / "whole", TEXT, options)
    whole.live(random.Random(0))

    def spoiled(name, spoil):
        folder = tmp_path / name
        shutil.copytree(whole.folder, folder)
        path = folder / name
        path.write_bytes(spoil(path.read_bytes()))
        found = kills.differences(folder, whole.folder)
        shutil.rmtree(folder)
        return found

    assert spoiled("talk.txt", lambda data: data) == []
    assert spoiled("talk.txt", lambda data: data + b"more\n")
    assert spoiled("talk.srt", lambda data: data.replace(b"00:00:", b"00:01:", 1))
    assert spoiled("talk.journal", lambda data: data.replace(b"Monday", b"Sunday"))
    last_turn = whole.journal.read_bytes().rindex(b'{"turn"')
    assert spoiled("talk.journal", lambda data: data[:last_turn])


def test_a_command_that_fails_is_said(tmp_path, kills, options):
    with pytest.raises(RuntimeError, match="policy"):
        list(kills.run(tmp_path / "talks", 1, 0, TEXT, [*options, "--policy", "none-such"]))
