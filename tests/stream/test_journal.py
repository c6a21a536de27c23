"""A journal: after a kill at any moment, the whole target equals the undisturbed one (SPEC 8)."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from golden_cases import GOLDEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import ROOT
from tiny_chat import CHAT_TEMPLATE
from tiny_checkpoints import golden_folder
from transformers import PreTrainedTokenizerFast

import mlx_simul
from mlx_simul import SimulSession, SimulWarning, TurnEnd
from mlx_simul.cache.positions import FixedStart
from mlx_simul.errors import InvalidOptionError, JournalError, SessionClosedError
from mlx_simul.stream.identity import identity_of
from mlx_simul.stream.journal import read_entries, read_turns

TALK = (
    "Good morning, how are you today? I would like a ticket to Paris.\n\nThank you. See you "
    "on Monday, at three or four o'clock. Good bye!"
)
OPTIONS = {
    "turns": "sentence",
    "max_tokens": 24,
    "max_tokens_per_word": 3,
    "max_target_source_ratio": 1.0,
    "history": 1,
    "policy": "wait-k:2",
}

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def live(model, tokenizer, journal, source=TALK, **more):
    """A session on a journal, fed what the journal does not hold, to its end."""
    session = SimulSession(model, tokenizer, journal=journal, **(OPTIONS | more))
    events = [*session.events()]
    for at in range(session.resumed.source_chars, len(source), 5):
        events += session.feed(source[at : at + 5])
    return events + session.finish()


def target(journal):
    return [(end.source_text, end.target_text, end.token_ids) for end in read_turns(journal)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, golden_models, tokenizer):
    """An undisturbed journal, and the bytes of it."""
    path = tmp_path_factory.mktemp("journal") / "talk.jsonl"
    live(golden_models["qwen2-tiny-0"], tokenizer, path)
    return path.read_bytes(), target(path)


@pytest.fixture
def model(golden_models):
    return golden_models["qwen2-tiny-0"]


@quick
@given(data=st.data())
def test_a_journal_cut_at_any_byte_goes_on_to_the_same_target(
    data, tmp_path_factory, model, tokenizer, whole
):
    written, wanted = whole
    path = tmp_path_factory.mktemp("cut") / "talk.jsonl"
    path.write_bytes(written[: data.draw(st.integers(0, len(written)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SimulWarning)  # a torn last line
        live(model, tokenizer, path)
    assert target(path) == wanted


def test_a_session_that_feeds_again_what_the_journal_holds_is_told_apart(
    tmp_path, model, tokenizer, whole
):
    """Negative control."""
    written, wanted = whole
    path = tmp_path / "talk.jsonl"
    path.write_bytes(written[: written.rindex(b'{"text"')])
    session = SimulSession(model, tokenizer, journal=path, **OPTIONS)
    session.feed(TALK)
    session.finish()
    assert target(path) != wanted


@pytest.mark.parametrize("killed_at", [40, 75, 110])
@pytest.mark.parametrize(
    "changed", [{"policy": "whole", "instruction": "Again"}, {"history": 3}, {"history": 0}]
)
def test_updates_hold_from_the_same_turn_on(tmp_path, model, tokenizer, killed_at, changed):
    def begin(path):
        return SimulSession(model, tokenizer, journal=path, **OPTIONS)

    whole = begin(tmp_path / "whole")
    whole.feed(TALK[:40])
    whole.update(**changed)
    whole.feed(TALK[40:])
    whole.finish()
    cut = begin(tmp_path / "cut")
    cut.feed(TALK[:40])
    cut.update(**changed)
    cut.feed(TALK[40:killed_at])
    cut._journal.close()  # as a kill would
    resumed = begin(tmp_path / "cut")
    assert resumed.options == whole.options
    resumed.feed(TALK[killed_at:])
    resumed.finish()
    assert target(tmp_path / "cut") == target(tmp_path / "whole")


@pytest.mark.parametrize(
    "changed",
    [
        {"pairs": ()},
        {"pairs": [("No.", "Non.")], "history": 0},
        {"examples": [("Two", "Deux")]},
        {"instruction": None, "glossary": None},
        {"messages": [{"role": "system", "content": "Again"}]},
    ],
)
def test_an_update_comes_back_whole_whatever_was_given_before(tmp_path, model, tokenizer, changed):
    given = {"pairs": [("Yes.", "Oui.")], "glossary": {"ticket": "billet"}, "instruction": "Say"}
    if "messages" in changed:
        given = {"pairs": given["pairs"]}

    def begin(path):
        return SimulSession(model, tokenizer, journal=path, **(OPTIONS | given))

    for path in (tmp_path / "whole", tmp_path / "cut"):
        session = begin(path)
        session.feed(TALK[:40])
        session.update(**changed)
        if path.name == "cut":
            session._journal.close()  # as a kill would
            options, session = session.options, begin(path)
            assert identity_of(session.options) == identity_of(options)
        session.feed(TALK[40:])
        session.finish()
    assert target(tmp_path / "cut") == target(tmp_path / "whole")


def test_a_policy_without_a_name_is_refused_and_the_journal_can_still_be_opened(
    tmp_path, model, tokenizer
):
    class Unnamed(mlx_simul.WaitK):
        pass

    session = SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    with pytest.raises(InvalidOptionError, match="has no name"):
        session.update(policy=Unnamed(2))
    session._journal.close()
    assert SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS).resumed.turns == 0


@pytest.mark.parametrize("max_words", [9, 14, 16, 18])
def test_words_that_are_left_are_counted_alike(tmp_path, model, tokenizer, max_words):
    """A cut word counts as one, and the text of a turn does not show where words were cut."""
    options = OPTIONS | {"max_words": max_words, "max_tokens_per_word": 2, "policy": "wait-k:1"}
    for path in (tmp_path / "whole", tmp_path / "cut"):
        session = SimulSession(model, tokenizer, journal=path, **options)
        session.feed(TALK[:75])
        if path.name == "cut":
            session._journal.close()  # as a kill would
            session = SimulSession(model, tokenizer, journal=path, **options)
        session.feed(TALK[75:])
        session.finish()
    assert target(tmp_path / "cut") == target(tmp_path / "whole")


def test_options_that_are_objects_are_compared_too(tmp_path, model, tokenizer):
    given = OPTIONS | {"date": "2026-07-30", "target_start": FixedStart(40)}
    for _ in range(2):
        SimulSession(model, tokenizer, journal=tmp_path / "talk", **given)._journal.close()
    with pytest.raises(JournalError, match="target_start"):
        other = given | {"target_start": FixedStart(41)}
        SimulSession(model, tokenizer, journal=tmp_path / "talk", **other)
    with pytest.raises(JournalError, match="date"):
        SimulSession(model, tokenizer, journal=tmp_path / "talk", **(given | {"date": None}))


def test_a_stream_keeps_the_day_on_which_it_began(tmp_path, model):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"),
        eos_token="<|im_end|>",
        chat_template="Today: {{ strftime_now('%Y-%m-%d') }}" + CHAT_TEMPLATE,
    )

    def fed(path, *, day=None, kill=False):
        session = SimulSession(model, tokenizer, journal=path, date=day, **OPTIONS)
        session.feed(TALK[session.resumed.source_chars : 75 if kill else len(TALK)])
        if kill:
            session._journal.close()
        else:
            session.finish()

    first, second = tmp_path / "first", tmp_path / "second"
    fed(first, kill=True)
    head, rest = first.read_bytes().split(b"\n", 1)
    today, day = json.loads(head)["date"], "2001-02-03"
    # As if the journal, without a turn that has ended, were an old one.
    lines = [line for line in rest.splitlines(True) if line.startswith(b'{"text"')]
    first.write_bytes(head.replace(today.encode(), day.encode()) + b"\n" + b"".join(lines))
    fed(first)
    fed(second, day=day)
    assert target(first) == target(second)
    fed(tmp_path / "today")
    assert target(first) != target(tmp_path / "today")  # negative control


def test_a_line_that_could_not_be_read_again_is_refused(tmp_path, model, tokenizer, monkeypatch):
    monkeypatch.setattr("mlx_simul.stream.journal.MAX_LINE_BYTES", 4000)
    session = SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    with pytest.raises(JournalError, match="in smaller pieces"):
        session.feed("a" * 4000)
    session.feed(TALK)
    session.finish()
    assert "".join(entry.text for entry in read_entries(tmp_path / "talk")) == TALK


def test_a_torn_last_line_is_dropped_and_said(tmp_path, model, tokenizer, whole):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(whole[0] + b'{"text": "and th')
    with pytest.warns(SimulWarning, match="16 bytes are dropped"):
        SimulSession(model, tokenizer, journal=path, **OPTIONS)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data.replace(b'{"text"', b'{"txet"', 1), "damaged at line 2"),
        (lambda data: data.replace(b'"turn": 0', b'"turn": "', 1), "damaged at line"),
        (lambda data: data.replace(b'"target_speech": "', b'"target_speech": "x'), "damaged"),
        (lambda data: b"[]\n" + data, "is not a journal"),
        (lambda data: b"my notes, on one line", "is not a journal"),
        (lambda data: b"my notes\nand a line that is not ended", "is not a journal"),
        (lambda data: data.replace(b"wait-k:2", b"wait-k:7", 1) + b'{"text": "an', "wait-k:7"),
        (lambda data: b'{"journal": 99}\n', "not a journal of this version"),
    ],
)
def test_a_damaged_journal_is_refused_and_left_alone(
    tmp_path, model, tokenizer, whole, spoil, says
):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(spoil(whole[0]))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=says):
        SimulSession(model, tokenizer, journal=path, **OPTIONS)
    assert path.read_bytes() == before


def test_the_journal_of_another_model_or_setting_is_refused(
    tmp_path, golden_models, model, tokenizer, whole
):
    path = tmp_path / "talk.jsonl"
    path.write_bytes(whole[0])
    with pytest.raises(JournalError, match=r"policy='wait-k:2', and this one has .*'wait-k:5'"):
        SimulSession(model, tokenizer, journal=path, **(OPTIONS | {"policy": "wait-k:5"}))
    with pytest.raises(JournalError, match=r"turn\.history"):
        SimulSession(model, tokenizer, journal=path, **(OPTIONS | {"history": 0}))
    with pytest.raises(JournalError, match="model="):
        SimulSession(golden_models["llama-tiny-0"], tokenizer, journal=path, **OPTIONS)
    SimulSession(model, tokenizer, journal=path, **OPTIONS)  # negative control


def test_a_journal_from_before_there_were_beams_goes_on(tmp_path, model, tokenizer, whole):
    text = whole[0].decode()
    assert not {"num_beams", "length_penalty", "logprobs"} & {*re.findall(r"\w+", text)}
    path = tmp_path / "talk.jsonl"
    path.write_text(text)
    with pytest.raises(JournalError, match=r"num_beams=2|length_penalty"):
        SimulSession(model, tokenizer, journal=path, num_beams=2, **OPTIONS)
    SimulSession(model, tokenizer, journal=path, logprobs=True, **OPTIONS)  # decides no token


def test_two_sessions_do_not_share_a_journal(tmp_path, model, tokenizer):
    first = SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    with pytest.raises(JournalError, match="another session"):
        SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    first.finish()
    SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)


def test_a_session_that_broke_off_lets_go_of_its_journal_and_adds_nothing(
    tmp_path, model, tokenizer, whole
):
    def fail(tokens, logits):
        raise ZeroDivisionError

    path = tmp_path / "talk"
    broken = SimulSession(model, tokenizer, journal=path, logits_processors=[fail], **OPTIONS)
    with pytest.raises(ZeroDivisionError):
        broken.feed(TALK[:60])
    before = path.read_bytes()
    for act in (lambda: broken.push("more"), broken.end_turn, broken.close):
        with pytest.raises(SessionClosedError, match="cut short"):
            act()
    assert path.read_bytes() == before
    live(model, tokenizer, path)
    assert target(path) == whole[1]


class Full:
    """A file on a disk that has no room for a while."""

    def __init__(self, file, n_writes):
        self._file, self._left = file, n_writes

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._left -= 1
        if self._left == 0:
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)


@pytest.mark.parametrize("n_writes", [1, 2, 5, 9, 14, 20])
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, model, tokenizer, whole, n_writes):
    session = SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    session._journal._file = Full(session._journal._file, n_writes)
    failed = 0

    def again(act, *given):
        nonlocal failed
        try:
            return act(*given)
        except JournalError as error:
            assert "No space left" in str(error)
            failed += 1
            return act(*given)

    for at in range(0, len(TALK), 5):
        again(session.push, TALK[at : at + 5])
        again(lambda: [*session.events()])
    again(session.close)
    again(lambda: [*session.events()])
    assert failed == 1
    assert target(tmp_path / "talk") == whole[1]


def test_a_journal_needs_turns_and_a_folder(tmp_path, model, tokenizer):
    with pytest.raises(InvalidOptionError, match="turns"):
        SimulSession(model, tokenizer, journal=tmp_path / "talk", turns=None)
    with pytest.raises(JournalError, match="No such file"):
        SimulSession(model, tokenizer, journal=tmp_path / "none" / "talk", **OPTIONS)


def test_what_is_closed_is_finished_when_it_is_opened_again(tmp_path, model, tokenizer):
    live(model, tokenizer, tmp_path / "talk")
    session = SimulSession(model, tokenizer, journal=tmp_path / "talk", **OPTIONS)
    assert session.resumed.source_closed
    (finished,) = session.events()
    ends = list(read_turns(tmp_path / "talk"))
    assert finished.turns == len(ends) == session.resumed.turns
    assert finished.target_words == ends[-1].target_span_words[1]


CHILD = """
import json, sys, time
import mlx_simul
model, tokenizer = mlx_simul.load(sys.argv[1])
session = mlx_simul.SimulSession(model, tokenizer, journal=sys.argv[2], **json.loads(sys.argv[4]))
text = sys.argv[3]
for at in range(session.resumed.source_chars, len(text), 3):
    for event in session.feed(text[at : at + 3]):
        print(type(event).__name__, flush=True)
        time.sleep(0.05)  # so that it is killed in the middle
session.finish()
print("done", flush=True)
"""


def test_a_real_kill(tmp_path):
    folder = golden_folder(tmp_path / "model", "qwen2")
    model, tokenizer = mlx_simul.load(folder)
    live(model, tokenizer, tmp_path / "whole")

    def child():
        arguments = [str(folder), str(tmp_path / "cut"), TALK, json.dumps(OPTIONS)]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    for n_lines in (4, 17):
        process = child()
        for _ in range(n_lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    out, _ = child().communicate()
    assert out.endswith("done\n")
    assert target(tmp_path / "cut") == target(tmp_path / "whole")


def test_turns_read_from_a_journal_are_those_that_were_said(tmp_path, model, tokenizer):
    said = [e for e in live(model, tokenizer, tmp_path / "talk") if isinstance(e, TurnEnd)]
    assert list(read_turns(Path(tmp_path / "talk"))) == said
