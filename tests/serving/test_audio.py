"""The audio of a stream's conversation, without sockets, threads and a recogniser."""

import base64
import json
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoken import Listener, Speech, in_pieces

from mlx_simul.events import Finished, Tail
from mlx_simul.serving.audio import (
    RATE_HZ,
    AudioInput,
    EndSpeech,
    Hear,
    Recognised,
    RecogniserFailed,
)
from mlx_simul.serving.backlog import StreamLimits
from mlx_simul.serving.commands import Close, Failed, Opened, Push, Taken
from mlx_simul.serving.messages import ProtocolError
from mlx_simul.serving.protocol import Protocol
from mlx_simul.serving.told import Told
from mlx_simul.speech.recogniser import Hypothesis, Word
from mlx_simul.speech.window import GrowingWindow

quick = settings(max_examples=200)
SECOND = bytes(2 * RATE_HZ)


def message(kind, **values):
    return json.dumps({"type": f"session.{kind}", **values})


def sound(audio, **values):
    text = base64.b64encode(audio).decode()
    return message("input_audio_buffer.append", audio=text, **values)


def typed(text):
    return message("input_text_buffer.append", text=text)


END = message("input_audio_buffer.commit")
CLOSE = message("close")


def hearing(**limits):
    return Protocol(StreamLimits(**limits), hears=True)


def heard(*words, tail="", pause=False, n_samples=RATE_HZ, heard_s=0.0, ended=False):
    spoken = tuple(Word(f" {word}", number, number + 0.5) for number, word in enumerate(words))
    found = [Hypothesis(spoken, tail, pause, heard_s)] if words or tail or pause else []
    return Recognised(n_samples, found, ended)


def refusal(protocol, sent):
    with pytest.raises(ProtocolError) as caught:
        protocol.receive(sent)
    return caught.value


# What a client sends


def test_audio_goes_to_the_recogniser_with_the_language_of_the_session():
    protocol = hearing()
    assert protocol.receive(sound(b"")) == [Hear(b"", None)]
    protocol.say(Opened({"source_language": "English"}))
    assert protocol.receive(sound(SECOND)) == [Hear(SECOND, "English")]
    assert protocol.audio_ms == 1000 and protocol.source_chars == 0


@pytest.mark.parametrize(
    ("audio", "said"),
    [("A", "base64"), ("A===", "base64"), ("AAA*", "base64"), ("AAAA", "even in number, got 3"),
     ("AA==", "got 1"), (7, "Expected"), (None, "Expected")],
)  # fmt: skip
def test_what_is_not_audio_is_refused_and_named(audio, said):
    protocol = hearing()
    error = refusal(protocol, message("input_audio_buffer.append", audio=audio, event_id="mine"))
    assert (error.code, error.param, error.event_id) == ("invalid_value", "audio", "mine")
    assert said in str(error) and protocol.audio_ms == 0
    assert protocol.receive(sound(b"\1\0")) == [Hear(b"\1\0")]


@pytest.mark.parametrize("sent", [sound(SECOND), END])
def test_a_server_without_a_recogniser_says_so(sent):
    assert refusal(Protocol(), sent).code == "no_recogniser"


@pytest.mark.parametrize("sent", [sound(SECOND), END])
def test_nothing_is_heard_behind_the_end(sent):
    protocol = hearing()
    protocol.receive(CLOSE)
    assert refusal(protocol, sent).code == "session_closed"


def test_audio_that_waits_is_bounded_and_comes_as_fast_as_it_may():
    protocol = hearing(max_waiting_audio_s=3)
    for _ in range(3):
        protocol.receive(sound(SECOND))
    error = refusal(protocol, sound(b"\0\0"))
    assert (error.code, error.kind, error.param) == (
        "audio_backlog_full", "rate_limit_error", "audio",
    )  # fmt: skip
    assert "3.0 seconds of audio wait" in str(error) and protocol.audio_ms == 3000
    protocol.hear(heard())
    protocol.receive(sound(SECOND))
    assert refusal(protocol, sound(b"\0\0")).code == "audio_backlog_full"


def test_a_flood_of_ends_is_bounded():
    protocol = hearing(max_waiting_audio_s=3)
    n_ends = 0
    with pytest.raises(ProtocolError, match="wait to be recognised"):
        while n_ends < 1000:
            protocol.receive(sound(b"\0\0"))
            n_ends += len(protocol.receive(END))
    assert n_ends <= 30


def test_audio_waits_while_the_words_of_it_would():
    protocol = hearing(max_waiting_chars=100, max_words_per_s=1)
    protocol.receive(sound(SECOND))
    protocol.hear(heard(*["word"] * 30))
    assert refusal(protocol, sound(SECOND)).code == "source_backlog_full"
    protocol.say(Taken(0))
    assert refusal(protocol, sound(SECOND)).code == "too_fast"


# What is recognised


def test_words_become_source_and_a_tail_is_shown():
    protocol = hearing()
    protocol.receive(sound(SECOND))
    messages, todo = protocol.hear(heard("Good", "morning", tail="how"))
    assert todo == [Push("Good morning "), Tail("how")]
    (said,) = messages
    assert {name: said[name] for name in said if name not in ("event_id", "seq")} == {
        "type": "session.input_audio_buffer.recognised",
        "text": "Good morning ",
        "words": [
            {"text": " Good", "start_ms": 0, "end_ms": 500},
            {"text": " morning", "start_ms": 1000, "end_ms": 1500},
        ],
        "pause": False,
        "audio_ms": 1500,
        "position_chars": 13,
    }
    assert (said["seq"], protocol.source_chars, protocol.tail, protocol.heard_ms) == (
        1, 0, "how", 1000,
    )  # fmt: skip


def test_what_was_typed_and_what_was_said_stay_apart():
    protocol = hearing()
    protocol.receive(typed("half a wor"))
    protocol.receive(sound(SECOND))
    _, todo = protocol.hear(heard("Good"))
    assert todo[0] == Push(" Good ")
    assert protocol.receive(typed("d")) == [Push("d")]
    _, todo = protocol.hear(replace(heard(), hypotheses=[Hypothesis((Word("今", 0, 1),))]))
    assert todo[0] == Push("今")  # a script without spaces
    assert protocol.source_chars == len("half a word")


def test_a_pause_ends_a_turn_once_and_asks_for_no_answer():
    protocol = hearing()
    for _ in range(9):
        protocol.receive(sound(SECOND))
    assert protocol.hear(heard(pause=True)) == ([], [Tail("")])
    assert protocol.hear(heard("Good"))[1] == [Push("Good "), Tail("")]
    (said,), todo = protocol.hear(heard(pause=True, heard_s=2.5))
    assert todo[0] == Push("\n\n") and (said["pause"], said["audio_ms"]) == (True, 900)
    for _ in range(3):
        assert protocol.hear(heard(pause=True)) == ([], [Tail("")])
    _, todo = protocol.hear(heard("day", pause=True))
    assert todo[0] == Push("day \n\n")
    assert protocol.commits == 0


def test_an_end_is_answered_once_all_before_it_is_recognised():
    protocol = hearing()
    assert protocol.receive(END) == []  # there is nothing to end
    protocol.receive(sound(SECOND))
    assert protocol.receive(END) == [EndSpeech()]
    assert protocol.receive(END) == []
    protocol.receive(sound(SECOND))
    protocol.hear(heard("Good"))
    *_, said = protocol.hear(heard("day", n_samples=0, ended=True))[0]
    assert (said["words"], said["pause"], said["audio_ms"]) == ([], True, 1000)
    (said,) = protocol.hear(heard("again"))[0]
    assert said["words"][0]["start_ms"] == 1000  # the recogniser began anew there


@pytest.mark.parametrize("found", [heard(n_samples=0, ended=True), heard(tail="m", ended=True)])
def test_an_end_leaves_no_tail(found):
    protocol = hearing()
    protocol.receive(sound(SECOND))
    protocol.receive(END)
    assert protocol.hear(heard("Good", tail="mor"))[1][-1] == Tail("mor")
    assert protocol.hear(found)[1] == [Push("\n\n"), Tail("")]
    assert protocol.tail == ""


def test_the_source_ends_behind_what_was_said():
    protocol = hearing()
    protocol.receive(sound(SECOND))
    assert protocol.receive(CLOSE) == [EndSpeech()]
    assert protocol.closing and protocol.receive(CLOSE) == []
    assert protocol.hear(heard("Good"))[1] == [Push("Good "), Tail("")]
    _, todo = protocol.hear(heard("day", n_samples=0, ended=True))
    assert todo == [Push("day "), Push("\n\n"), Tail(""), Close()]


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_recogniser_that_breaks_off_leaves_a_stream_of_text(is_closing):
    protocol = hearing()
    protocol.receive(sound(SECOND))
    protocol.hear(heard("Good", tail="mor", n_samples=9))
    if is_closing:
        protocol.receive(CLOSE)
    (said,), todo = protocol.hear(RecogniserFailed("it broke."))
    assert (said["error"]["code"], said["error"]["message"], said["seq"]) == (
        "recogniser_failed", "it broke.", 2,
    )  # fmt: skip
    assert todo == [Tail(""), *([Close()] if is_closing else [])]
    assert protocol.hear(heard("late")) == ([], [])
    if not is_closing:
        for sent in (sound(SECOND), sound(b"")):
            assert refusal(protocol, sent).code == "recogniser_failed"
        assert protocol.receive(typed("text")) == [Push("text")]
        assert protocol.receive(CLOSE) == [Close()]


@pytest.mark.parametrize(
    "end", [Finished("end_of_turn", (), "", (), 0), Failed("dropped", "dropped")]
)
def test_nothing_is_said_of_audio_behind_the_end(end):
    protocol = hearing()
    protocol.receive(sound(SECOND))
    protocol.say(end)
    assert protocol.hear(heard("late")) == ([], [])


@pytest.mark.parametrize("pieces_s", [0.1, 1.0, 5.0])
def test_behind_what_is_said_to_have_become_words_all_others_are_said(pieces_s):
    """A killed server is sent the audio behind that again, and no other."""
    texts = [" Good", " morning.", " How", " are", " you?"]
    speech = Speech(texts, [0.3, 0.1, 0.9, 0.1, 0.1], [0.4] * len(texts))
    listener = Listener(speech)
    window = GrowingWindow(listener.transcribe, listener.find_voice)
    audio = AudioInput(max_waiting_s=30)
    answers = [window.hear(piece) for piece in in_pieces(speech.audio, [pieces_s])]
    spoken = [
        said for found in [*answers, window.finish()] for said in audio.hear(Recognised(0, found))
    ]
    assert [word.text for said in spoken for word in said.words] == texts
    assert any(said.pause for said in spoken)
    known_ms = 0
    for said in spoken:
        assert all(word["start_ms"] >= known_ms for word in said.word_values())
        known_ms = said.audio_ms


# All orders, and all places for a kill

WORDS = st.lists(st.sampled_from(["a", "b.", "cc"]), max_size=2)
STEPS = st.lists(
    st.one_of(
        st.sampled_from(["hear", "hear", "take", END, "kill", sound(b"\0\0" * 480), sound(b"\0")]),
        st.sampled_from(["x ", "y", ""]).map(typed),
        st.tuples(st.just("say"), WORDS, st.booleans()),
    ),
    max_size=50,
)


class Life:
    """A stream, its client's count of what it typed, and what its records hold."""

    def __init__(self, kind=Protocol):
        self.kind = kind
        self.messages, self.journal = [], []  # what is on the disk; pushes with their origin
        self.begin(Told())

    def begin(self, told):
        self.protocol = self.kind(StreamLimits(max_waiting_audio_s=0.5), told, hears=True)
        self.pushed = deque()  # on their way to the journal
        self.waiting = deque()  # on their way to the recogniser
        text = "".join(text for text, _, _ in self.journal)
        self.messages += self.protocol.say(Opened({}, len(text)))
        self.said_s = 0.0

    def run(self, steps):
        for step in steps:
            match step:
                case "hear":
                    self.hear([], pause=False)
                case ("say", words, pause):
                    self.hear(words, pause=pause)
                case "take":
                    self.take()
                case "kill":
                    self.kill()
                case _:
                    self.send(step)
            self.check()
        return self

    def send(self, sent):
        try:
            self.obey(self.protocol.receive(sent), [])
        except ProtocolError as error:
            assert error.code in ("audio_backlog_full", "invalid_value")

    def hear(self, words, *, pause):
        if not self.waiting:
            return
        command = self.waiting.popleft()
        spoken = []
        for word in words:
            spoken.append(Word(f" {word}", self.said_s, self.said_s + 0.01))
            self.said_s += 0.01
        found = [Hypothesis(tuple(spoken), "", pause, self.said_s)]
        ended = isinstance(command, EndSpeech)
        n_samples = 0 if ended else len(command.audio) // 2
        messages, todo = self.protocol.hear(Recognised(n_samples, found, ended))
        if ended:
            self.said_s = 0.0
        self.messages += messages
        self.obey(todo, [each for each in messages if each["text"]])

    def obey(self, todo, messages):
        """Do it; messages tell of the pushes in it that were spoken."""
        spoken = iter(messages)
        for item in todo:
            match item:
                case Hear() | EndSpeech():
                    self.waiting.append(item)
                case Push(text=text):
                    said = next(spoken, None)
                    self.pushed.append((text, "typed" if said is None else "spoken", said))

    def take(self):
        if self.pushed:
            self.journal.append(self.pushed.popleft())
            self.protocol.say(Taken(0))

    def kill(self):
        """End the process: what has not reached the disk is gone."""
        told = Told()
        for each in self.messages:
            told.count(each)
        lost = [said for _, _, said in self.pushed if said is not None]
        self.begin(told)
        text_typed = "".join(text for text, origin, _ in self.journal if origin == "typed")
        assert self.protocol.source_chars == len(text_typed)
        # The client speaks on from there: it says no word again that is held, and all that are not.
        from_ms = self.protocol.audio_ms
        assert all(said["audio_ms"] <= from_ms for _, _, said in self.journal if said is not None)
        assert all(word["start_ms"] >= from_ms for said in lost for word in said["words"])

    def check(self):
        held = [*self.journal, *self.pushed]
        assert self.protocol.source_chars == sum(
            len(t) for t, origin, _ in held if origin == "typed"
        )
        spoken = "".join(text for text, origin, _ in held if origin == "spoken")
        assert self.protocol.told.mark.spoken_chars == len(spoken)
        assert [each["seq"] for each in self.messages] == [*range(1, len(self.messages) + 1)]
        assert self.protocol.audio.waiting_s <= 0.5 + 0.1
        assert self.protocol.heard_ms is None or self.protocol.heard_ms <= self.protocol.audio_ms


@given(STEPS)
@quick
def test_a_killed_server_knows_what_was_typed_and_what_was_said(steps):
    Life().run(steps).kill()


EXAMPLE = [
    typed("x "), sound(b"\0\0" * 480), ("say", ["a"], False), "take", "take", typed("y"),
    sound(b"\0\0" * 480), ("say", ["cc"], True), "take", "kill", typed("x x x x x "), "take",
    "kill", sound(b"\0\0" * 480), ("say", ["a"], True), "take", "kill",
]  # fmt: skip


def test_words_whose_way_was_cut_are_said_to_be_lost():
    life = Life().run(EXAMPLE)
    (lost,) = [each for each in life.messages if each["type"].endswith(".lost")]
    assert (lost["audio_ms"], lost["position_chars"]) == (10, len("x a y"))


class CountsAllAlike(Protocol):
    def _opened(self, opened):
        messages = super()._opened(opened)
        self.source_chars = opened.source_chars
        return messages


class BelievesEveryMessage(Protocol):
    def _opened(self, opened):
        self.told.forget_behind = lambda chars: False
        return super()._opened(opened)


class ForgetsHowMuchItHeard(Protocol):
    def _opened(self, opened):
        messages = super()._opened(opened)
        self.audio.resume(0)
        return messages


class KeepsTheLossToItself(Protocol):
    def _opened(self, opened):
        super()._opened(opened)
        return []


class ForgetsWhatWasSaid(Protocol):
    def _spoken(self, spoken, messages):
        todo = super()._spoken(spoken, messages)
        self.told.marks.clear()
        return todo


@pytest.mark.parametrize(
    "kind",
    [
        CountsAllAlike,
        BelievesEveryMessage,
        ForgetsHowMuchItHeard,
        KeepsTheLossToItself,
        ForgetsWhatWasSaid,
    ],
)
def test_a_broken_protocol_is_noticed(kind):
    with pytest.raises(AssertionError):
        Life(kind).run(EXAMPLE)
