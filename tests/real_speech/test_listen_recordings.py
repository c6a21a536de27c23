"""listen with a real recogniser and the packaged model: recordings become French."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from heard import TWO_CITIES, word_error_rate

import mlx_simul
from mlx_simul.console import cli
from mlx_simul.events import TurnEnd

pytestmark = pytest.mark.real_speech

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def listened(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Lines, list[str]]]:
    """For each recording, what --json writes, and the subtitles in both languages."""
    place = tmp_path_factory.mktemp("listened")
    made = {}
    # The two voices of the dialogue leave silences of about half a second.
    for name, pause_s in (("two_cities", "0.8"), ("endgame_nagg_nell", "0.4")):
        output = place / f"{name}.srt"
        options = ["--fast", "--json", "--output", str(output), "--output-text", "both"]
        recogniser = f"faster-whisper:{folder / 'tiny.en'}"
        lines = place / f"{name}.jsonl"
        with lines.open("w", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", file)
            recording = str(folder / f"{name}.wav")
            heard = ["--recogniser", recogniser, "--pause-s", pause_s]
            code = cli.main(["listen", recording, *heard, *options])
        assert code in (0, cli.EXIT_INCOMPLETE)
        made[name] = (
            [json.loads(line) for line in lines.read_text("utf-8").splitlines()],
            output.read_text("utf-8").strip().split("\n\n"),
        )
    return made


def of_type(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if line["type"] == kind]


def heard_words(lines: Lines) -> list[dict[str, Any]]:
    return [word for line in of_type(lines, "hypothesis") for word in line["words"]]


def as_text(lines: Lines) -> list[tuple[str, str]]:
    """The turns of a session that is fed the same words and pauses as text."""
    session = mlx_simul.SimulSession(*mlx_simul.load())
    events = []
    for line in of_type(lines, "hypothesis"):
        events += session.feed(" ".join(word["text"].strip() for word in line["words"]) + " ")
        if line["pause"]:
            session.end_turn()
            events += session.events()
    events += session.finish()
    turns = [event for event in events if isinstance(event, TurnEnd)]
    return [(end.source_text, end.target_text) for end in turns]


@pytest.mark.parametrize("name", ["two_cities", "endgame_nagg_nell"])
def test_nothing_is_lost_beside_the_same_words_as_text(
    listened: dict[str, tuple[Lines, list[str]]], name: str
) -> None:
    lines, cues = listened[name]
    turns = [(end["source_text"], end["target_text"]) for end in of_type(lines, "turn_end")]
    assert turns == as_text(lines)
    source = " ".join(text for text, _ in turns).split()
    assert source == "".join(word["text"] for word in heard_words(lines)).split()
    shown = " ".join(line for cue in cues for line in cue.split("\n")[2:]).split()
    assert sorted(shown) == sorted(" ".join(f"{a} {b}" for a, b in turns).split())


def test_what_was_said_is_translated(listened: dict[str, tuple[Lines, list[str]]]) -> None:
    lines, _ = listened["two_cities"]
    text = "".join(word["text"] for word in heard_words(lines))
    assert word_error_rate(TWO_CITIES, text) <= 0.04
    french = [end["target_text"] for end in of_type(lines, "turn_end")]
    assert all(each.startswith("C'était l") for each in french[:2])


def test_words_are_written_when_they_had_been_said(
    listened: dict[str, tuple[Lines, list[str]]],
) -> None:
    lines, _ = listened["two_cities"]
    ends_ms = [0.0, *(1000 * word["end_s"] for word in heard_words(lines))]
    for write in of_type(lines, "write"):
        assert write["time_ms"] == pytest.approx(ends_ms[write["source_words_read"]], abs=1)


@pytest.mark.parametrize(
    ("name", "least_pauses", "least_turns"), [("two_cities", 1, 10), ("endgame_nagg_nell", 8, 10)]
)
def test_no_turn_goes_on_behind_a_pause(
    listened: dict[str, tuple[Lines, list[str]]], name: str, least_pauses: int, least_turns: int
) -> None:
    lines, _ = listened[name]
    n_words, pauses = 0, []
    for line in of_type(lines, "hypothesis"):
        n_words += len(line["words"])
        pauses += [n_words] if line["pause"] else []
    spans = [end["source_span_words"] for end in of_type(lines, "turn_end")]
    assert len(pauses) >= least_pauses and len(spans) >= least_turns
    assert not any(first < pause < behind for first, behind in spans for pause in pauses)
