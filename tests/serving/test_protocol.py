"""The conversation of one stream, without sockets and without MLX (PROTOCOL)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking import Echo

from mlx_simul.events import Finished, Read, Tail, TurnEnd, Write
from mlx_simul.serving.commands import (
    Change,
    Changed,
    Close,
    EndTurn,
    Failed,
    Opened,
    Push,
    Refused,
    Taken,
    TurnEnded,
)
from mlx_simul.serving.messages import MAX_HISTORY_PAIRS, ProtocolError
from mlx_simul.serving.protocol import (
    CHARS_PER_WORD,
    MAX_TAIL_CHARS,
    UPDATE_CHARS,
    Protocol,
    StreamLimits,
    Told,
)

quick = settings(max_examples=60)


def message(kind, **values):
    return json.dumps({"type": f"session.{kind}", **values})


def append(text):
    return message("input_text_buffer.append", text=text)


COMMIT = message("input_text_buffer.commit")
CLOSE = message("close")


# Every message of a client


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (append("Good mor"), [Push("Good mor")]),
        (append(""), [Push("")]),
        (COMMIT, [EndTurn(1)]),
        (message("input_text_buffer.tail", text="perhaps"), [Tail("perhaps")]),
        (message("update"), [Change({})]),
        (CLOSE, [Close()]),
        (append("Good mor").encode(), [Push("Good mor")]),
        (message("update", event_id="e", session={"policy": "whole"}, unknown=1), None),
    ],
)
def test_a_message_becomes_a_command(sent, heard):
    wanted = [Change({"policy": "whole"}, "e")] if heard is None else heard
    assert Protocol().receive(sent) == wanted


def test_languages_come_as_codes_or_as_names():
    audio = {"input": {"language": "en"}, "output": {"language": "fr-CA"}}
    (change,) = Protocol().receive(message("update", session={"audio": audio}))
    assert change.options == {"source_language": "English", "target_language": "French"}
    named = {"audio": audio, "target_language": "Klingon"}
    (change,) = Protocol().receive(message("update", session=named))
    assert change.options["target_language"] == "Klingon"


def test_all_that_may_change_arrives():
    session = {
        "instruction": "Translate", "context": None, "glossary": {"a": "b"}, "policy": "wait-k:2",
        "history": 2, "pairs": [["a", "b"]], "source_language": None, "target_language": "German",
    }  # fmt: skip
    (change,) = Protocol().receive(message("update", session={**session, "type": "translation"}))
    assert change.options == {**session, "pairs": [("a", "b")]}


# Every wrong one


def refusal(protocol, sent):
    with pytest.raises(ProtocolError) as caught:
        protocol.receive(sent)
    return caught.value


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        ("", "invalid_json", None),
        ("{", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ('{"a":' * 100_000, "invalid_json", None),
        ('{"type": "session.close", "event_id": "\\ud800"}', "invalid_json", None),
        ("[]", "invalid_value", None),
        ("7", "invalid_value", None),
        ("{}", "unknown_type", "type"),
        ('{"type": 7}', "unknown_type", "type"),
        ('{"type": "session.open"}', "unknown_type", "type"),
        (message("input_text_buffer.append"), "missing_field", "text"),
        (append(None), "invalid_value", "text"),
        (append(["a"]), "invalid_value", "text"),
        (message("input_text_buffer.tail"), "missing_field", "text"),
        (message("input_text_buffer.tail", text=1), "invalid_value", "text"),
        (
            message("input_text_buffer.tail", text="a" * (MAX_TAIL_CHARS + 1)),
            "tail_too_long",
            "text",
        ),
        (message("input_audio_buffer.append"), "missing_field", "audio"),
        (message("input_audio_buffer.append", audio="AAAA"), "no_recogniser", "type"),
        (message("close", event_id=7), "invalid_value", "event_id"),
        (message("update", session=7), "invalid_value", "session"),
        (message("update", session={"policy": 7}), "invalid_value", "session.policy"),
        (message("update", session={"history": "1"}), "invalid_value", "session.history"),
        (message("update", session={"history": -1}), "invalid_value", "session.history"),
        (
            message("update", session={"history": MAX_HISTORY_PAIRS + 1}),
            "invalid_value",
            "session.history",
        ),
        (
            message("update", session={"audio": {"output": {"language": 7}}}),
            "invalid_value",
            "session.audio.output.language",
        ),
        (
            message("update", session={"glossary": {"a": 7}}),
            "invalid_value",
            "session.glossary[...]",
        ),
        (message("update", session={"pairs": [["a"]]}), "invalid_value", "session.pairs[0]"),
        (
            message("update", session={"pairs": [["a", "b"]] * (MAX_HISTORY_PAIRS + 1)}),
            "invalid_value",
            "session.pairs",
        ),
        (message("update", session={"instruction": "a" * 9000}), "prompt_too_long", "session"),
        (
            message("update", session={"glossary": {"a" * 5000: "b" * 5000}}),
            "prompt_too_long",
            "session",
        ),
        (message("update", session={"model": "another"}), "invalid_value", "session.model"),
    ],
)
def test_what_is_wrong_is_refused_and_named(sent, code, param):
    protocol = Protocol(identity={"model": "en-fr"})
    error = refusal(protocol, sent)
    assert (error.code, error.param) == (code, param)
    assert str(error).endswith(".")
    assert protocol.source_chars == 0 and not protocol.closing
    assert protocol.receive(append("a")) == [Push("a")]


@pytest.mark.parametrize(
    "sent",
    [
        message("input_text_buffer.append", event_id="mine"),
        message("nonsense", event_id="mine"),
        message("input_audio_buffer.append", audio="", event_id="mine"),
        message("update", session={"history": 99}, event_id="mine"),
        message("update", session={"history": {}}, event_id="mine"),
    ],
)
def test_an_error_names_the_message_it_is_about(sent):
    assert refusal(Protocol(), sent).body()["event_id"] == "mine"


@pytest.mark.parametrize(
    "sent", [append("a"), COMMIT, message("update"), message("input_text_buffer.tail", text="a")]
)
@pytest.mark.parametrize("end", ["close", "finished", "failed"])
def test_nothing_is_taken_behind_the_end(sent, end):
    protocol = Protocol()
    match end:
        case "close":
            protocol.receive(CLOSE)
        case "finished":
            protocol.say(Finished("end_of_turn", (), "", (), 0))
        case "failed":
            protocol.say(Failed("broken", "internal_error"))
    assert refusal(protocol, sent).code == "session_closed"
    assert protocol.source_chars == protocol.commits == 0 and protocol.tail == ""


def test_closing_twice_changes_nothing():
    protocol = Protocol()
    assert protocol.receive(CLOSE) == [Close()]
    assert protocol.receive(CLOSE) == []
    protocol.say(Finished("end_of_turn", (), "", (), 0))
    assert refusal(protocol, CLOSE).code == "session_closed"


# Limits


def test_source_that_waits_is_bounded():
    protocol = Protocol(StreamLimits(max_waiting_chars=100))
    protocol.receive(append("a" * 60))
    error = refusal(protocol, append("b" * 41))
    assert (error.code, error.kind, error.param) == (
        "source_backlog_full",
        "rate_limit_error",
        "text",
    )
    assert protocol.source_chars == 60
    protocol.receive(append("b" * 40))
    protocol.say(Taken(16))
    protocol.say(Taken(17))
    assert protocol.backlog.words_behind == 17
    assert refusal(protocol, append("a")).code == "source_backlog_full"
    protocol.say(Read("a", 1, 10))
    protocol.receive(append("a" * (100 - 7 * CHARS_PER_WORD)))


@pytest.mark.parametrize(
    ("sent", "counts"),
    [(append(""), CHARS_PER_WORD), (append("a"), CHARS_PER_WORD), (COMMIT, CHARS_PER_WORD),
     (message("update"), UPDATE_CHARS)],
)  # fmt: skip
def test_a_flood_of_small_messages_is_bounded_too(sent, counts):
    protocol = Protocol(StreamLimits(max_waiting_chars=1000))
    n_taken = 0
    with pytest.raises(ProtocolError, match="wait to be read"):
        while n_taken < 1000:
            protocol.receive(sent)
            n_taken += 1
    assert n_taken <= 1000 // counts + 1
    for _ in range(n_taken):
        protocol.say(Taken(0))
    protocol.receive(append("a" * 1000))


def test_words_may_come_as_fast_as_is_allowed():
    now_s = [0.0]
    protocol = Protocol(StreamLimits(max_words_per_s=2), clock_s=lambda: now_s[0])
    protocol.receive(append("a" * CHARS_PER_WORD * 20))  # those of ten seconds at once
    error = refusal(protocol, append("a" * CHARS_PER_WORD))
    assert (error.code, error.kind) == ("too_fast", "rate_limit_error")
    assert protocol.source_chars == CHARS_PER_WORD * 20
    now_s[0] = 0.5
    protocol.receive(append("a" * CHARS_PER_WORD))
    assert refusal(protocol, append("a")).code == "too_fast"


# Every answer of the thread that owns MLX


def test_answers_become_messages():
    protocol = Protocol(identity={"id": "sess"})
    assert protocol.say(Opened({"policy": "whole"}, 5, 1)) == []
    assert (protocol.session, protocol.source_chars) == ({"id": "sess", "policy": "whole"}, 5)
    assert protocol.receive(COMMIT) == [EndTurn(2)]
    end = TurnEnd(0, "a b", "A B", (0, 2), (0, 2), (1,), (1, 2), "sentence", "end_of_turn", 1.6)
    said = [
        *protocol.say(Read(" a", 1, 1, time_ms=1.5)),
        *protocol.say(Read("", 1, 1)),
        *protocol.say(Write(1, "", False, 1, 0)),
        *protocol.say(Write(1, "A", True, 1, 1, time_ms=2.5)),
        *protocol.say(Changed({"policy": "wait-k:3"}, "e")),
        *protocol.say(end),
        *protocol.say(TurnEnded(2)),
        *protocol.say(Finished("end_of_turn", (), "", (), 2, 2, 1, total_ms=9.4, n_passes=3)),
    ]
    usage = {"source_words": 2, "target_words": 2, "turns": 1, "passes": 3, "total_ms": 9}
    assert [{k: v for k, v in each.items() if k not in ("event_id", "seq")} for each in said] == [
        {"type": "session.input_transcript.delta", "delta": " a", "elapsed_ms": 1, "turn": 0,
         "source_words": 1},
        {"type": "session.output_transcript.delta", "delta": "A", "elapsed_ms": 2, "turn": 0,
         "source_words": 1, "target_words": 1},
        {"type": "session.updated", "session": {"id": "sess", "policy": "wait-k:3"}},
        {"type": "session.turn.done", "turn": 0, "source_text": "a b", "target_text": "A B",
         "source_span_words": [0, 2], "target_span_words": [0, 2], "delays": [1, 2],
         "began_ms": 2, "word_times_ms": [], "time_ms": 0, "ended_by": "sentence",
         "reason": "end_of_turn"},
        {"type": "session.input_text_buffer.committed", "commits": 2},
        {"type": "session.closed", "reason": "end_of_turn", "usage": usage},
    ]  # fmt: skip
    assert [each["event_id"] for each in said] == [f"event_{each['seq']}" for each in said]
    assert protocol.closed


def test_a_failure_is_the_last_that_is_said():
    protocol = Protocol()
    error, closed = protocol.say(Failed("it broke", "internal_error"))
    assert error["error"]["type"] == "server_error" and error["error"]["message"] == "it broke"
    assert (closed["type"], closed["reason"], closed["seq"]) == ("session.closed", "failed", 2)
    assert protocol.say(Read(" late", 1, 1)) == protocol.say(Failed("again", "dropped")) == []


def test_a_refusal_is_for_one_client_alone():
    (error,) = Protocol().say(Refused("no such policy", "session.policy", "mine"))
    assert "seq" not in error
    assert error["error"]["param"] == "session.policy" and error["error"]["event_id"] == "mine"


# All orders

WORDS = st.sampled_from(["a ", "b. ", "ca", "t ", "d", ". ", " ", "e f. g "])
SENT = st.one_of(
    WORDS.map(append),
    st.sampled_from(
        [COMMIT, message("input_text_buffer.tail", text="perhaps"), message("update"),
         message("update", session={"instruction": "refuse me"}), append(7), "{", CLOSE]
    ),
)  # fmt: skip
STEPS = st.lists(SENT | st.sampled_from(["take", "say"]), max_size=60)


class Conversation:
    """A protocol between a client and a worker; holds the laws at every step."""

    def __init__(self, kind=Protocol, limits=None):
        self.protocol, self.worker = kind(limits), Echo()
        self.messages, self.private, self.tails, self.commands = [], [], [], []
        self.accepted = ""

    def run(self, steps):
        for step in steps:
            if step == "take":
                self.hear(self.worker.take() if self.worker.commands else [])
            elif step == "say":
                self.hear(self.worker.say())
            else:
                self.send(step)
            self.check()
        return self

    def to_the_end(self):
        if not self.protocol.closing:
            self.send(CLOSE)
        while self.worker.commands or self.worker.can_say:
            self.run(["take", "say"])
        assert self.protocol.closed and self.messages[-1]["type"] == "session.closed"
        return self

    def send(self, data):
        try:
            heard = self.protocol.receive(data)
        except ProtocolError as error:
            assert error.param or error.code in ("invalid_json", "session_closed")
            return
        for item in heard:
            if isinstance(item, Tail):
                self.tails.append(item)
            else:
                self.commands.append(item)
                self.worker.commands.append(item)
                self.accepted += item.text if isinstance(item, Push) else ""

    def hear(self, answers):
        for answer in answers:
            for said in self.protocol.say(answer):
                (self.messages if "seq" in said else self.private).append(said)

    def check(self):
        seqs = [said["seq"] for said in self.messages]
        assert seqs == list(range(1, len(seqs) + 1))
        types = [said["type"] for said in self.messages]
        assert "session.closed" not in types[:-1]
        assert "session.input_transcript.tail" not in types
        assert self.protocol.source_chars == len(self.accepted)
        assert self.protocol.told == recount(self.messages)
        commits = [said["commits"] for said in self.messages if "commits" in said]
        assert commits == list(range(1, len(commits) + 1))
        for side, changed in (("input", str), ("output", str.upper)):
            words = " ".join(self.accepted.split())
            text = text_of(self.messages, side)
            shown = " ".join("".join(text).split())
            if not self.protocol.commits:  # a commit may cut a word in two
                assert changed(words).startswith(shown.rstrip())


def recount(messages):
    told = Told()
    for said in messages:
        told.count(said)
    return told


def text_of(messages, side="output"):
    kind = f"session.{side}_transcript.delta"
    return [said["delta"] for said in messages if said["type"] == kind]


@given(STEPS)
@quick
def test_messages_are_sound_in_every_order(steps):
    talk = Conversation().run(steps).to_the_end()
    assert text_of(talk.messages) == [word.upper() for word in text_of(talk.messages, "input")]
    n_done = sum(said["type"] == "session.turn.done" for said in talk.messages)
    assert talk.protocol.told.turns == n_done
    assert talk.protocol.told.commits == talk.protocol.commits  # each was answered


@given(STEPS)
@quick
def test_a_little_room_is_enough(steps):
    """The laws hold where much is refused, and what was refused left no trace."""
    limits = StreamLimits(max_waiting_chars=12, max_prompt_chars=1)
    Conversation(limits=limits).run(steps).to_the_end()


@given(STEPS)
@quick
def test_a_commit_is_answered_behind_all_before_it(steps):
    talk = Conversation().run(steps).to_the_end()
    before, at_commit = "", []
    for command in talk.commands:
        if isinstance(command, EndTurn):
            at_commit.append("".join(before.split()))
        before += getattr(command, "text", "")
    shown = ""
    for said in talk.messages:
        if said["type"] == "session.output_transcript.delta":
            shown += said["delta"].strip().lower()
        elif "commits" in said:
            assert shown == at_commit[said["commits"] - 1]


# Resuming


def resumed(talk, seq, kind=Protocol):
    """The messages of a second life, told what the first one's first messages said."""
    told = recount(talk.messages[:seq])
    protocol = kind(told=told)
    worker, answers = talk.worker.reopened(talk.commands, told.turns)
    while worker.can_say and not protocol.closed:
        answers += worker.say()
    messages = [said for answer in answers for said in protocol.say(answer)]
    return talk.messages[:seq] + messages


QUIET = st.lists(
    st.one_of(WORDS.map(append), st.sampled_from([COMMIT, "take", "say"])), max_size=40
)


@given(QUIET, st.integers(0, 10_000))
@quick
def test_a_resumed_stream_says_what_an_undisturbed_one_would(steps, seq):
    talk = Conversation().run(steps).to_the_end()
    assert resumed(talk, seq % (len(talk.messages) + 1)) == talk.messages


def test_a_resumed_stream_knows_what_has_arrived():
    protocol = Protocol(told=Told(seq=7, turns=1, commits=1))
    protocol.say(Opened({}, 40, 2, False))
    assert (protocol.source_chars, protocol.commits, protocol.closing) == (40, 2, False)
    assert protocol.receive(COMMIT) == [EndTurn(3)]
    assert Protocol(told=Told(seq=7, closed=True)).closed
    protocol = Protocol(told=Told(seq=7))
    protocol.say(Opened({}, 40, 0, True))
    assert refusal(protocol, append("a")).code == "session_closed"


def test_what_an_earlier_life_has_translated_does_not_wait():
    protocol = Protocol(StreamLimits(max_waiting_chars=100), Told(seq=7, turns=900))
    protocol.say(Opened({}, 40_000, source_words=9002, source_words_done=9000))
    protocol.receive(append("half a wo"))
    protocol.say(Taken(9004))
    assert protocol.backlog.words_behind == 4
    protocol.receive(append("rd"))
    waits = Protocol(StreamLimits(max_waiting_chars=100), Told(seq=7, turns=1))
    waits.say(Opened({}, 200, source_words=30, source_words_done=10))
    assert refusal(waits, append("a")).code == "source_backlog_full"


# Negative controls


class NumbersTails(Protocol):
    def show_tail(self, text):
        self._numbered({"type": "session.input_transcript.tail", "text": text})
        return super().show_tail(text)


class SpeaksBehindTheEnd(Protocol):
    closed = property(lambda self: False)


class CountsWhatItRefuses(Protocol):
    def append(self, text):
        self.source_chars += len(text)
        heard = super().append(text)
        self.source_chars -= len(text)
        return heard


class LosesANumber(Protocol):
    def say(self, answer):
        if isinstance(answer, TurnEnd):
            self.told.seq += 1
        return super().say(answer)


class SaysCommitsAgain(Protocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told.commits = 0


class SkipsNothing(Protocol):
    _n_reads_to_skip = property(lambda self: 0, lambda self, value: None)
    _n_writes_to_skip = _n_reads_to_skip


class SkipsTooMuch(Protocol):
    def say(self, answer):
        messages = super().say(answer)
        if isinstance(answer, TurnEnd):
            self._n_reads_to_skip = 1
        return messages


EXAMPLE = [
    append("a b. c"), "take", "say", message("input_text_buffer.tail", text="?"), COMMIT, "take",
    append("d e. " + "f" * 19_990), append("g" * 100), "say", "take",
]  # fmt: skip


def shows(kind):
    """Runs the laws over an example that all of them have a hand in."""
    talk = Conversation(kind).run(EXAMPLE).to_the_end()
    talk.hear([Read(" late", 1, 99)])
    talk.check()
    for seq in range(len(talk.messages) + 1):
        assert resumed(talk, seq, kind) == talk.messages


def test_the_example_is_sound():
    shows(Protocol)


@pytest.mark.parametrize(
    "kind",
    [NumbersTails, SpeaksBehindTheEnd, CountsWhatItRefuses, LosesANumber, SaysCommitsAgain,
     SkipsNothing, SkipsTooMuch],
)  # fmt: skip
def test_a_broken_protocol_is_noticed(kind):
    with pytest.raises(AssertionError):
        shows(kind)
