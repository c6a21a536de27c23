"""Audio and a recogniser together: what was heard is given, whatever broke off behind it."""

import pytest
from speech_scripts import Scripted, said, silence

from mlx_simul.errors import RecogniserError, SimulWarning
from mlx_simul.speech.capture import LATE_S, Arriving, AtOnce
from mlx_simul.speech.hearing import Recognised
from mlx_simul.speech.recogniser import Hypothesis, Word

SCRIPT = [said("one two", 1.0, tail="three"), said("three", 2.0), said("four", 9.0)]


def heard(hearing):
    """What is heard, and what broke it off."""
    made = []
    try:
        for item in hearing:
            made.append(item)
    except Exception as error:
        return made, str(error)
    return made, None


def test_what_a_recogniser_hears_is_given_in_order():
    recogniser = Scripted(SCRIPT)
    assert heard(Recognised(recogniser, AtOnce([silence(3.0)]), "English")) == (SCRIPT, None)
    assert recogniser.language == "English"
    assert sum(map(len, recogniser.heard)) == len(silence(3.0))


@pytest.mark.parametrize("n_s", [0.5, 1.5, 3.0])
def test_audio_that_breaks_off_is_heard_to_where_it_did(n_s):
    audio = Arriving()
    audio.put(silence(n_s), wait=False)
    audio.end(RecogniserError("the microphone has gone"))
    assert heard(Recognised(Scripted(SCRIPT), audio)) == (SCRIPT, "the microphone has gone")


def test_a_recogniser_that_raises_is_not_asked_again():
    recogniser = Scripted([SCRIPT[0], RecogniserError("out of memory"), SCRIPT[1]])
    made, error = heard(Recognised(recogniser, AtOnce([silence(3.0)])))
    assert (made, error, recogniser.has_finished) == ([], "out of memory", False)


def test_what_cannot_be_used_breaks_it_off():
    recogniser = Scripted([*SCRIPT[:1], Hypothesis((Word(" x", float("nan"), 2.0),), heard_s=2.0)])
    made, error = heard(Recognised(recogniser, AtOnce([silence(1.5), silence(1.5)])))
    assert made == SCRIPT[:1]
    assert error is not None and "from nan to 2.0 s" in error


def test_when_it_is_stopped_what_was_said_is_still_heard():
    audio = Arriving()
    hearing = Recognised(Scripted(SCRIPT), audio)
    audio.put(silence(1.0), wait=False)
    made = iter(hearing)
    assert next(made) == SCRIPT[0]
    hearing.stop()
    assert list(made) == SCRIPT[1:]


def test_when_it_is_left_nothing_more_is_computed():
    """Negative control of the test above."""
    audio, recogniser = Arriving(), Scripted(SCRIPT)
    hearing = Recognised(recogniser, audio)
    audio.put(silence(1.0), wait=False)
    made = iter(hearing)
    next(made)
    hearing.stop(now=True)
    assert (list(made), recogniser.has_finished) == ([], False)


def test_listening_that_cannot_keep_up_is_said_among_what_is_heard():
    class Slow(Arriving):
        """The machine takes a second to hear a second, and the speaker began before."""

        def remarks(self):
            clock.now_s += LATE_S
            self.put(silence(LATE_S), wait=False)
            said_ = super().remarks()
            self.end()
            return said_

    class Clock:
        now_s = 0.0

        def __call__(self):
            return self.now_s

    clock = Clock()
    audio = Slow(clock)
    audio.put(silence(1.0), wait=False)
    made, _ = heard(Recognised(Scripted(SCRIPT), audio))
    (warning,) = [item for item in made if isinstance(item, SimulWarning)]
    assert "listening is 5 s behind the speaker: this machine cannot keep up" in str(warning)
    assert [item for item in made if item is not warning] == SCRIPT
