"""Output files: whole turns, whatever ends the process, and nothing overwritten by mistake."""

import json
import resource
from contextlib import closing
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_turns import turn

from mlx_simul.console.live import WholeText
from mlx_simul.console.outputs import ENDINGS, OutputFile, require_outputs
from mlx_simul.console.resuming import behind_journal
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.session import Resumed
from mlx_simul.stream.journal import Journal

TURNS = [
    turn(["Bonjour", "à", "tous."], ["Good", "morning."]),
    turn(["Ça", "va", "?"] * 12, ["Fine", "?"] * 12, began_ms=4000.0, first=(2, 3)),
    turn([], ["Hm."], began_ms=20_000.0),
    turn(["日本。"], ["Japan."], began_ms=21_000.0),
]


def write(path, turns, side="target", **options):
    with closing(OutputFile(path, side, **options)) as output:
        for end in turns:
            output.add(end)
        output.require_end()
    return path.read_bytes()


@cache
def whole(ending):
    with TemporaryDirectory() as folder:
        return write(Path(folder, f"talk{ending}"), TURNS)


def test_what_the_files_hold(tmp_path):
    assert whole(".txt").decode().splitlines()[0] == "Bonjour à tous."
    assert len(whole(".txt").splitlines()) == len(TURNS)
    pairs = write(tmp_path / "a.txt", TURNS, "both").decode().splitlines()
    assert pairs[0] == "Good morning.\tBonjour à tous."
    assert write(tmp_path / "b.txt", TURNS, "source").startswith(b"Good morning.\n")
    turns = [json.loads(line) for line in whole(".jsonl").splitlines()]
    assert [fields["target_text"] for fields in turns] == [end.target_text for end in TURNS]
    assert all(fields["type"] == "turn_end" and fields["complete"] for fields in turns)
    assert whole(".srt").startswith(b"1\n00:00:00,300 --> ")
    assert whole(".vtt").startswith(b"WEBVTT\n\n1\n00:00:00.300 --> ")


@given(st.sampled_from(ENDINGS), st.floats(0, 1))
def test_a_file_cut_anywhere_goes_on_to_the_same_bytes(ending, place):
    data = whole(ending)
    with TemporaryDirectory() as folder:
        path = Path(folder, f"talk{ending}")
        path.write_bytes(data[: int(place * len(data))])
        assert write(path, TURNS) == data


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, ending):
    path, data = tmp_path / f"talk{ending}", whole(ending)
    for other in (b"mine", data[:-2] + b"??", data + b"more"):
        path.write_bytes(other)
        with pytest.raises(InvalidOptionError, match=r"not the output of this journal.*overwrite"):
            write(path, TURNS)
        assert path.read_bytes() == other
    assert write(path, TURNS, overwrite=True) == data


def test_a_full_disk_is_named_and_leaves_whole_turns(tmp_path):
    path = tmp_path / "talk.srt"
    first = write(path, TURNS[:1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) + 20, hard))
    try:
        with pytest.raises(SimulError, match=r"talk\.srt cannot be written: File too large"):
            write(path, TURNS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == first
    assert write(path, TURNS) == whole(".srt")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.doc"], r"\.srt, \.vtt, \.txt, \.jsonl files, got 'a\.doc'"),
        (["none/a.srt"], "cannot be written"),
        (["folder.srt"], "is a folder"),
        (["there.srt"], r"there\.srt exists; name another file, or give --overwrite\.$"),
        (["a.srt", "a.srt"], "named twice"),
        (["talk.txt"], "talk.txt: this file is named twice"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, names, says):
    (tmp_path / "folder.srt").mkdir()
    (tmp_path / "there.srt").touch()
    inputs = [tmp_path / "talk.txt"]
    with pytest.raises(InvalidOptionError, match=says):
        require_outputs([tmp_path / name for name in names], inputs, may_exist=False)
    require_outputs([tmp_path / "a.srt", tmp_path / "there.srt"], inputs, may_exist=True)


# ---- A source behind a journal ----


@pytest.fixture
def journal(tmp_path):
    """A journal with some text in it."""
    file = Journal(tmp_path / "journal", {}, date(2026, 7, 30))
    for piece in ("Good mor", "ning.", " Fine"):
        file.add_text(piece)
    file.close()
    return tmp_path / "journal"


HELD = "Good morning. Fine"


def rest(source):
    pieces = []
    while (piece := source.read()) is not None:
        pieces.append(piece)
    return "".join(pieces)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_what_a_journal_holds_is_skipped_once(journal, size):
    text = f"{HELD} weather. Good morning."
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    resumed = Resumed(1, len(HELD), (), False)
    assert rest(behind_journal(WholeText(*pieces), journal, resumed)) == " weather. Good morning."
    # Text that the session adds later is not skipped.
    assert rest(behind_journal(WholeText(text), journal, replace(resumed, source_chars=8))) == (
        "ning. Fine weather. Good morning."
    )


@pytest.mark.parametrize(
    ("text", "closed", "says"),
    [
        ("Good evening. Fine", False, "after character 5 the journal holds 'mor', but it has"),
        ("Good", False, "after character 4 the journal holds ' mor', but it ends"),
        (f"{HELD} more", True, "after character 18 the journal ends, but it goes on with ' more'"),
    ],
)
def test_another_text_is_refused_by_name(journal, text, closed, says):
    resumed = Resumed(1, len(HELD), (), closed)
    with pytest.raises(InvalidOptionError, match=says):
        behind_journal(WholeText(text), journal, resumed)
    assert rest(behind_journal(WholeText(HELD), journal, resumed)) == ""
