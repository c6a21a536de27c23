"""The load benchmark in small: what it counts, and that it would notice a wrong text."""

import asyncio
from dataclasses import replace
from importlib import import_module

import pytest
from repository import ROOT
from rich.console import Console

SENTENCES = ("The weather is nice today.", "I have a big dog.", "Where do you live?", "She reads.")


@pytest.fixture(scope="module")
def load():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("serve_load")


@pytest.fixture(scope="module")
def talks(load, tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "set.tsv"
    path.write_text("".join(f"{text} {i}\tUn.\n" for i in range(60) for text in SENTENCES))
    made, alone_ms = load.talks_of(path, 0, "wait-k:3")
    assert alone_ms > 0
    return made


@pytest.fixture(scope="module")
def server(load):
    with load.serving("wait-k:3", 200) as server:
        yield server


def test_sessions_that_speak_at_once_hear_what_they_hear_alone(load, talks, server):
    done = asyncio.run(load.speak_at_once([server], talks, 3, seed=0))
    assert done.equal == 3
    assert done.words >= 3 * 8
    assert 0 < done.p50_ms <= done.p95_ms <= done.p99_ms
    assert 1 <= done.rows_a_pass <= 3


def test_a_text_that_differs_is_counted(load, talks, server):
    """Negative control."""
    wrong = [replace(talk, target=talk.target + "!") for talk in talks]
    assert asyncio.run(load.speak_at_once([server], wrong, 2, seed=0)).equal == 0


def test_a_storm_leaves_survivors_whole(load, talks, server):
    outcome = asyncio.run(load.storm(server, talks, 3.0, 0, Console(quiet=True), n_at_once=4))
    assert outcome["survived"] == outcome["equal"] > 0
    assert outcome["cut"] > 0


def test_memory_is_looked_at_now_and_then(load, talks, server):
    rows = asyncio.run(load.one_after_another(server, talks, 10, Console(quiet=True)))
    assert [row["sessions"] for row in rows] == list(range(1, 11))
    assert all(row["rss_mb"] > 10 for row in rows)
