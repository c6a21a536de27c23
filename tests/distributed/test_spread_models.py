"""A model that is spread over ranks gives what it gives whole; what differs is found out.

Each launch starts Python a few times, so it runs many cases, and the tests look at what it wrote.
"""

import json
import os
import re
import signal
import time
from contextlib import contextmanager
from functools import cache

import httpx
import pytest
from launching import HERE, LIMIT_S, ended, launched, started
from ranks_cases import CASES
from tiny_chat import write_chat_folder

from mlx_simul.console import cli
from mlx_simul.machine.liveness import EXIT_LOST

pytestmark = pytest.mark.distributed

ON_FOUR = ("beams_in_turns", "evidence", "batch")
"""What is run on four ranks too, which on two cores is slow."""


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """By the number of ranks, what each case gave."""

    @cache
    def run(n_ranks):
        path = tmp_path_factory.mktemp(f"ranks{n_ranks}") / "results"
        names = () if n_ranks == 2 else ON_FOUR
        ranks = launched(n_ranks, HERE / "ranks_cases.py", path, *names)
        assert [each.code for each in ranks] == [0] * n_ranks, ranks
        # Only rank 0 says anything.
        assert not any(each.out for each in ranks), ranks
        return json.loads(path.read_text("utf-8"))

    return run


@pytest.mark.parametrize(
    ("n_ranks", "name"), [*((2, name) for name in CASES), *((4, name) for name in ON_FOUR)]
)
def test_a_stream_over_ranks_is_that_of_one_process(results, n_ranks, name):
    """To the token, with the same events and delays; evidence to 1e-5."""
    result = results(n_ranks)[name]
    assert result["same"], result["why"]


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_what_rank_0_no_longer_holds_no_rank_keeps(results, n_ranks):
    result = results(n_ranks)["nothing is kept"]
    assert result["same"], result["why"]


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """By model type, the largest relative difference of the logits, or why it is refused."""
    path = tmp_path_factory.mktemp("families") / "results"
    ranks = launched(2, HERE / "ranks_families.py", path)
    assert [each.code for each in ranks] == [0, 0], ranks
    return json.loads(path.read_text("utf-8"))


NOT_SPREAD = {
    "prism_hadamard_qwen35": "cannot be cut into as many parts",  # mlx-lm's shard lacks a weight
    "muse_spark": "No Metal back-end",  # its shard needs a kernel of Metal's
}
"""Families with ``shard`` that are not compared here, and what is said of them."""


def test_every_family_that_mlx_lm_can_spread_gives_the_same_logits(families):
    refused = {name: what for name, what in families.items() if isinstance(what, str)}
    assert all(NOT_SPREAD.get(name, name) in what for name, what in refused.items()), refused
    wrong = {name: what for name, what in families.items() if name not in refused and what > 1e-5}
    assert not wrong
    assert len(families) > 20


# What must be found out


@pytest.fixture(scope="session")
def failures(tmp_path_factory):
    def run(which):
        folder = tmp_path_factory.mktemp(which)
        ranks = launched(2, HERE / "ranks_failures.py", which, folder / "results")
        said = [folder / f"results.{rank}" for rank in range(2)]
        return ranks, [json.loads(path.read_text()) if path.exists() else {} for path in said]

    return cache(run)


@pytest.mark.parametrize(
    ("what", "rank", "said"),
    [
        ("heads", 0, "ModelLoadError: .*num_key_value_heads=3, which 2 ranks cannot share"),
        ("family", 0, "ModelLoadError: .*'gemma3_text' model over ranks; run it in one process"),
        ("layers", 0, "ModelLoadError: .*layers=1, which 2 ranks"),
        ("no pipeline", 0, "ModelLoadError: .*without pipeline=True it can"),
        ("long", 1, "ModelLoadError: (long ){600}"),
        ("memory", 1, "ModelLoadError: .*more ranks, or fewer bits"),
        ("enough", 0, "loaded"),
    ],
)
def test_a_model_that_cannot_be_spread_is_refused_on_every_rank(failures, what, rank, said):
    _, told = failures("refusals")
    other = told[1 - rank][what]
    assert re.match(said, told[rank][what])
    # The others say the same, or what the rank that could not has said.
    _, _, message = told[rank][what].partition(": ")
    assert re.match(said, other) or other == f"RanksError: rank {rank} said: {message}"


def test_a_rank_that_does_not_do_what_it_is_told_gives_another_text(failures):
    """Negative control of the laws above: its moved keys stay where they were."""
    ranks, told = failures("refusals")
    assert [each.code for each in ranks] == [0, 0], ranks
    assert told[0]["fixed_start"]  # no key is moved
    assert not told[0]["follows_closely"]


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("skips", "rank 1 has not carried out the orders that rank 0 has"),
        ("breaks", "rank 1 failed .*7 follow, where at most"),
        ("claims", "rank 1 failed .*cannot carry out PassPlan.*its caches hold something else"),
    ],
)
def test_ranks_that_no_longer_do_the_same_all_end(failures, which, said):
    ranks, _ = failures(which)
    for each in ranks:
        assert each.code == 1
        assert re.search(f"RanksError: {said}", each.err, re.DOTALL)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("cli") / "model")


def command(folder, *more):
    languages = ["--from", "English", "--to", "French"]
    limits = ["--max-tokens-per-word", "3", "--max-tokens", "12"]
    source = "Good morning, how are you today?"
    return [
        "-m",
        "mlx_simul",
        "translate",
        source,
        "--model",
        str(folder),
        *languages,
        *limits,
        *more,
    ]


def test_the_command_translates_on_rank_0_and_prints_once(folder, capsys):
    first, second = launched(2, *command(folder))
    code = cli.main(command(folder)[2:])
    assert first.code == code
    assert first.out == capsys.readouterr().out != ""
    assert (second.code, second.out, second.err) == (0, "", "")


def test_bench_measures_a_model_over_ranks(folder, tmp_path):
    figures = tmp_path / "figures.json"
    short = ["--tokens", "6", "--repeats", "1", "--wait-k", "2", "--json", str(figures)]
    first, second = launched(2, "-m", "mlx_simul", "bench", folder, *short)
    assert (first.code, second.code) == (0, 0), (first, second)
    assert "2" in first.out and not second.out
    (row,) = json.loads(figures.read_text("utf-8"))["ranks"]
    assert row["same_tokens_as_plain"] and row["passes_per_token"] > 0


@pytest.mark.parametrize(
    ("n_ranks", "more", "code", "said"),
    [
        (3, [], 1, "num_attention_heads=4, which 3 ranks cannot share evenly; use 2 ranks"),
        (2, ["--policy", "wait-k:none"], 2, "wait-k"),
    ],
)
def test_a_command_that_fails_says_why_once_and_ends_all(folder, n_ranks, more, code, said):
    first, *others = launched(n_ranks, *command(folder, *more))
    assert first.code == code
    assert said in first.err
    assert all((each.out, each.err) == ("", "") for each in others), others
    assert all(each.code == (1 if code == 1 else 0) for each in others)


@pytest.mark.parametrize("asked", ["--version", "--nonsense"])
def test_what_ends_by_itself_is_said_once_though_others_end_late(asked):
    first, second = launched(2, "-c", LATE, "translate" * (asked != "--version"), asked)
    assert first.code == (2 if asked == "--nonsense" else 0)
    assert first.out or first.err
    assert (second.code, second.out, second.err) == (0, "", "")


LATE = """
import sys, time
from mlx_simul.engine.ranks import Ranks
follow = Ranks.follow
def late(self):
    code = follow(self)
    time.sleep(2)
    return code
Ranks.follow = late
from mlx_simul.console.cli import main
sys.exit(main([each for each in sys.argv[1:] if each]))
"""


@contextmanager
def serving(folder, *more):
    """A server over two ranks, and a client of it."""
    with started(2, "-m", "mlx_simul", "serve", "--model", folder, "--port", "0", *more) as ranks:
        while not ranks[0].out.endswith("\n"):
            assert ranks[0].process.poll() is None, ranks
            time.sleep(0.2)
        url = f"http://127.0.0.1:{int(ranks[0].out.rpartition(':')[2])}"
        with httpx.Client(base_url=url, timeout=LIMIT_S) as client:
            yield ranks, client


class Stream:
    """A stream of a server, that is spoken to by requests."""

    def __init__(self, client):
        self.answer = client.post("/v1/streams", json={}).raise_for_status().json()
        self.address = f"/v1/streams/{self.answer['id']}"
        self.headers = {"Authorization": f"Bearer {self.answer['secret']}"}

    def push(self, client, text):
        place = f"{self.address}/text"
        client.post(place, json={"text": text}, headers=self.headers).raise_for_status()

    def close(self, client):
        client.delete(self.address, headers=self.headers).raise_for_status()

    def messages(self, client):
        """All that was said, once it has ended."""
        said = client.get(self.answer["events"], headers=self.headers).raise_for_status().text
        lines = [line for line in said.splitlines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(messages):
    kind = "session.output_transcript.delta"
    return "".join(each["delta"] for each in messages if each["type"] == kind)


def test_a_server_over_ranks_serves_and_ends_all(folder):
    """It waits for clients in a collective, and streams that are open share passes."""
    with serving(folder) as (ranks, client):
        streams = [Stream(client) for _ in range(2)]
        for stream in streams:
            stream.push(client, "One. Two. ")
            stream.close(client)
        for stream in streams:
            assert stream.messages(client)[-1]["type"] == "session.closed"
        ranks[0].process.send_signal(signal.SIGINT)
        first, second = ended(ranks)
    assert (first.code, second.code) == (0, 0), (first, second)
    assert (second.out, second.err) == ("", "")


@pytest.mark.parametrize("victim", [0, 1])
def test_streams_of_a_server_that_lost_a_rank_go_on_when_all_are_started_again(
    victim, folder, tmp_path
):
    journal = ("--journal", tmp_path / "journal")
    with serving(folder, *journal) as (ranks, client):
        stream = Stream(client)
        stream.push(client, "One. Two. Three")
        ranks[victim].process.kill()
        other = ended(ranks)[1 - victim]
        assert other.code == EXIT_LOST, other
        assert f"RanksError: rank {victim} has closed its connection" in other.err
    with serving(folder, *journal) as (ranks, client):
        held = client.get(stream.address, headers=stream.headers).raise_for_status().json()
        assert held["source_chars"] == len("One. Two. Three")
        undisturbed = Stream(client)
        undisturbed.push(client, "One. Two. Three")
        for each in (stream, undisturbed):
            each.push(client, " and four.")
            each.close(client)
        messages = stream.messages(client)
        numbers = [each["seq"] for each in messages if "seq" in each]
        assert numbers == list(range(1, len(numbers) + 1)) != []
        assert text_of(messages) == text_of(undisturbed.messages(client)) != ""


@contextmanager
def listening(folder, tmp_path):
    """A translation over two ranks that waits for more of its source, in a collective."""
    source = tmp_path / "source"
    os.mkfifo(source)
    command = ("-m", "mlx_simul", "translate", "--file", source, "--model", folder)
    with started(2, *command) as ranks, source.open("w") as pipe:
        pipe.write("Good morning, how are you today? I would like ")
        pipe.flush()
        while not ranks[0].out:
            assert ranks[0].process.poll() is None, ranks
            time.sleep(0.2)
        yield ranks


def test_ctrl_c_ends_all(folder, tmp_path):
    """A terminal sends it to all ranks; rank 0 decides what follows."""
    with listening(folder, tmp_path) as ranks:
        for rank in reversed(ranks):
            rank.process.send_signal(signal.SIGINT)
        first, second = ended(ranks)
    assert (first.code, second.code) == (130, 0), (first, second)


@pytest.mark.parametrize(
    ("victim", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM)]
)
def test_a_rank_of_a_command_that_is_ended_ends_the_other_by_name(victim, number, folder, tmp_path):
    with listening(folder, tmp_path) as ranks:
        ranks[victim].process.send_signal(number)
        results = ended(ranks)
    lost, other = results[victim], results[1 - victim]
    assert (lost.code, other.code) == (-number, EXIT_LOST)
    said = f"rank {1 - victim} ends. RanksError: rank {victim} has closed its connection"
    assert other.err.count(said) == 1
