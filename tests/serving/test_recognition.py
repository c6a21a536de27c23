"""The thread that owns the recogniser: fairness, order, ends, drops, and how it fails."""

import queue
import threading

import mlx.core as mx
import numpy as np
import pytest
from served import WAIT_S
from tone_recogniser import PAUSE, ToneRecogniser, ToneRecognition, tones

from mlx_simul.errors import InvalidOptionError, ModelLoadError, RecogniserError
from mlx_simul.serving import recognition
from mlx_simul.serving.audio import RATE_HZ, EndSpeech, Hear, Recognised, RecogniserFailed
from mlx_simul.serving.recognition import MAX_PIECE_S, RecogniserThread
from mlx_simul.speech.recogniser import Hypothesis, Word

SECOND = bytes(2 * RATE_HZ)
END = EndSpeech()


def speech(*words):
    return tones(words, RATE_HZ).tobytes()


class Heard:
    """A running thread, and what it delivers."""

    def __init__(self, recogniser):
        self.said, self.by_stream = queue.SimpleQueue(), {}
        self.thread = RecogniserThread(lambda: recogniser, self.said.put)
        self.thread.start()

    def send(self, stream, *commands):
        for command in commands:
            command = Hear(command) if isinstance(command, bytes) else command
            self.thread.send(stream, command)

    def until_end(self, stream):
        """The answers about a stream up to that to its next end, in order."""
        while True:
            found = self.by_stream.setdefault(stream, [])
            if found and (isinstance(found[-1], RecogniserFailed) or found[-1].ended):
                return self.by_stream.pop(stream)
            who, answer = self.said.get(timeout=WAIT_S)
            self.by_stream.setdefault(who, []).append(answer)


@pytest.fixture
def hear():
    """Starts threads that are stopped behind the test."""
    running = []

    def hear(recogniser=None):
        running.append(Heard(ToneRecogniser() if recogniser is None else recogniser))
        return running[-1]

    yield hear
    for each in running:
        each.thread.stop()
        assert not each.thread.is_alive


def words(answers):
    found = [hypothesis for answer in answers for hypothesis in answer.hypotheses]
    return [word.text.strip() for hypothesis in found for word in hypothesis.words]


def test_words_are_recognised_whatever_pieces_their_audio_comes_in(hear):
    sent = ("Do", "you", "want", "coffee?", PAUSE, "much.")
    audio = speech(*sent)
    heard = hear()
    for number, size in enumerate((2, 480, 9600, 10**6)):
        pieces = [audio[at : at + size] for at in range(0, len(audio), size)]
        heard.send(number, *map(Hear, pieces), END)
        answers = heard.until_end(number)
        assert words(answers) == [word for word in sent if word]
        assert sum(answer.n_samples for answer in answers) == len(audio) // 2
        pauses = [each for answer in answers for each in answer.hypotheses if each.pause]
        assert len(pauses) == 1


def test_what_was_not_resampled_would_be_other_words(hear):
    heard = hear()
    heard.send("a", tones(["Do", "you"], 16_000).tobytes(), END)
    assert words(heard.until_end("a")) != ["Do", "you"]


def test_times_and_languages_begin_anew_behind_an_end(hear):
    recogniser = ToneRecogniser()
    heard = hear(recogniser)
    for language in ("English", "French"):
        heard.send("a", Hear(speech("Do", "you"), language), END)
        found = heard.until_end("a")
        first = next(w for a in found for each in a.hypotheses for w in each.words)
        assert first.start_s == pytest.approx(0, abs=0.05)
    assert recogniser.languages == ["English", "French"]
    heard.send("a", END)  # nothing to end
    assert heard.until_end("a") == [Recognised(0, [], ended=True)]


class Gated(ToneRecogniser):
    """Waits in each call until it is let through; notes how much it was given."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes = []

    def begin(self, language=None):
        owner = self

        class Recognition(ToneRecognition):
            def hear(self, audio):
                owner.sizes.append(len(audio))
                owner.entered.release()
                assert owner.gate.acquire(timeout=WAIT_S)
                return super().hear(audio)

        return Recognition()


def test_streams_take_turns_and_what_waits_is_joined(hear):
    recogniser = Gated()
    heard = hear(recogniser)
    heard.send("long", 3 * MAX_PIECE_S * SECOND)
    assert recogniser.entered.acquire(timeout=WAIT_S)
    for _ in range(40):  # while the first piece is under way
        heard.send("short", SECOND[: len(SECOND) // 40])
    for _ in range(4):
        recogniser.gate.release()
    order = [heard.said.get(timeout=WAIT_S) for _ in range(4)]
    assert [who for who, _ in order] == ["long", "short", "long", "long"]
    assert [answer.n_samples // RATE_HZ for _, answer in order] == [
        MAX_PIECE_S,
        1,
        *[MAX_PIECE_S] * 2,
    ]


def test_a_stream_that_is_dropped_is_heard_no_more(hear):
    recogniser = Gated()
    heard = hear(recogniser)
    heard.send("dropped", 2 * MAX_PIECE_S * SECOND)
    heard.send("stays", SECOND)
    assert recogniser.entered.acquire(timeout=WAIT_S)
    heard.thread.drop("dropped")
    heard.thread.drop("unknown")
    for _ in range(2):
        recogniser.gate.release()
    assert heard.said.get(timeout=WAIT_S)[0] == "stays"
    assert len(recogniser.sizes) == 2 and heard.said.empty()


class Fails(ToneRecogniser):
    """Its recognitions fail as they are told to."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def begin(self, language=None):
        if language == "works":
            return ToneRecognition()
        error = self.error

        class Recognition(ToneRecognition):
            def finish(self):
                raise error

        return Recognition()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidOptionError("no Klingon"), "(no Klingon)"),
        (RecogniserError("a secret"), "broke off."),
        (ZeroDivisionError("a secret"), "broke off."),
    ],
)
def test_a_recogniser_that_fails_ends_one_stream_and_no_other(hear, error, said, caplog):
    heard = hear(Fails(error))
    heard.send("bad", SECOND, END, SECOND)
    heard.send("good", Hear(speech("Do"), "works"), END)
    failed = heard.until_end("bad")[-1]
    assert isinstance(failed, RecogniserFailed)
    assert said in failed.message and "secret" not in failed.message
    assert words(heard.until_end("good")) == ["Do"]
    heard.send("bad", SECOND, END)
    heard.send("good", END)
    heard.until_end("good")
    assert heard.said.empty()
    assert type(error).__name__ in caplog.text


class Gives(ToneRecogniser):
    """Gives the same for any audio."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def begin(self, language=None):
        given = self.given

        class Recognition(ToneRecognition):
            def hear(self, audio):
                return given

            def finish(self):
                return []

        return Recognition()


def of(text, start_s, end_s):
    return [Hypothesis((Word(text, start_s, end_s),))]


@pytest.mark.parametrize(
    "given",
    [
        None,
        [None],
        ["a"],
        of(" a", float("nan"), 1.0),
        of(" a", 0.0, float("inf")),
        of(" a", None, 1.0),
        of(b" a", 0.0, 1.0),
        of(" \ud800", 0.0, 1.0),
        [Hypothesis(tail="\ud800")],
        [Hypothesis(heard_s=float("nan"))],
    ],
)
def test_what_cannot_be_used_is_the_failure_of_the_recogniser(hear, given):
    heard = hear(Gives(given))
    heard.send("a", SECOND)
    assert isinstance(heard.until_end("a")[-1], RecogniserFailed)


def test_what_can_be_used_is_handed_on(hear):
    heard = hear(Gives(of(" a", 0.0, 0.0)))
    heard.send("a", SECOND, END)
    assert words(heard.until_end("a")) == ["a", "a"]


def test_a_recogniser_that_cannot_be_loaded_is_an_error_at_the_start():
    def load():
        raise ModelLoadError("it is not there")

    thread = RecogniserThread(load, print)
    with pytest.raises(ModelLoadError, match="not there"):
        thread.start()


class OnMlx(ToneRecogniser):
    """Computes with MLX, as some recognisers do."""

    def begin(self, language=None):
        class Recognition:
            def hear(self, audio):
                loud = mx.max(mx.abs(mx.array(np.asarray(audio)))).item()
                return [Hypothesis(tail=f"{loud:.1f}")]

            def finish(self):
                return []

        return Recognition()


def test_a_recogniser_may_use_mlx(hear):
    heard = hear(OnMlx())
    heard.send("a", speech("Do"), END)
    assert heard.until_end("a")[0].hypotheses[0].tail == "0.5"


def test_what_it_does_is_counted(hear):
    heard = hear()
    heard.send("a", 3 * SECOND, END)
    heard.until_end("a")
    figures = heard.thread.figures
    assert figures.audio_s == 3 and figures.busy_s > 0 and heard.thread.is_alive


def test_a_recogniser_that_hangs_does_not_keep_a_server_from_ending(monkeypatch):
    gate, begun = threading.Event(), threading.Event()

    class Hanging(ToneRecognition):
        def hear(self, audio):
            begun.set()
            gate.wait(WAIT_S)
            return super().hear(audio)

    class HangingRecogniser(ToneRecogniser):
        def begin(self, language=None):
            return Hanging()

    monkeypatch.setattr(recognition, "STOP_S", 0.01)
    heard = Heard(HangingRecogniser())
    heard.send("a", SECOND)
    assert begun.wait(WAIT_S)
    heard.thread.stop()
    assert heard.thread.is_alive
    gate.set()
    monkeypatch.setattr(recognition, "STOP_S", WAIT_S)
    heard.thread.stop()
    assert not heard.thread.is_alive
