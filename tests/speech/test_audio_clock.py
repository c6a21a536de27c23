"""When words were said, counted as a session counts them, and events in the audio's time."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from made_turns import turn

from mlx_simul.events import Finished, Read, Write
from mlx_simul.speech.audio_clock import AudioClock, WordTimes
from mlx_simul.speech.recogniser import Hypothesis, Word
from mlx_simul.text.segmenter import SourceSegmenter

texts = st.sampled_from([" train", " o'clock.", "日", "本語。", " iPhone15", "手机", " é"])
hypotheses = st.lists(
    st.tuples(st.lists(texts, max_size=4), st.booleans()).map(
        lambda made: Hypothesis(tuple(Word(text, 0.0, 0.0) for text in made[0]), pause=made[1])
    ),
    max_size=8,
)


def timed(made):
    """The same hypotheses, their words a second each, one after another."""
    at = 0
    for hypothesis in made:
        words = tuple(
            Word(word.text, at + i, at + i + 1) for i, word in enumerate(hypothesis.words)
        )
        at += len(words)
        yield Hypothesis(words, pause=hypothesis.pause)


def n_counted(made, text_of):
    """Words as a session counts them that is fed so."""
    segmenter, n_words = SourceSegmenter(), 0
    for hypothesis in made:
        n_words += len(segmenter.feed(text_of(hypothesis)))
        if hypothesis.pause:
            n_words += len(segmenter.flush())
    return n_words + len(segmenter.finish())


def first_words(made, n):
    words = [word for hypothesis in made for word in hypothesis.words]
    return Hypothesis(tuple(words[:n]))


@given(st.lists(st.integers(0, 3), max_size=6))
def test_words_between_spaces_have_the_times_of_the_recogniser(lengths):
    times, ends_s = WordTimes(), [0.0]
    for i, n in enumerate(lengths):
        words = [Word(" word", i, i + j / 9) for j in range(n)]
        times.add(Hypothesis(tuple(words)))
        ends_s += [word.end_s for word in words]
    assert [times.end_s(n) for n in range(len(ends_s))] == ends_s


@given(hypotheses)
def test_words_are_counted_as_a_session_counts_them(made):
    times = WordTimes()
    made = [*timed(made), Hypothesis(pause=True)]
    for hypothesis in made:
        times.add(hypothesis)
    n_words = n_counted(made, lambda hypothesis: hypothesis.text)
    n_said = sum(len(hypothesis.words) for hypothesis in made)
    ends_s = [times.end_s(n) for n in range(n_words + 1)]
    assert ends_s[0] == 0.0 and ends_s[-1] == times.end_s(n_words + 9) == n_said
    assert all(a <= b for a, b in pairwise(ends_s))
    for n in range(n_said):  # no word before it was said
        n_then = n_counted([first_words(made, n)], lambda hypothesis: hypothesis.text)
        assert sum(end_s <= n for end_s in ends_s[1:]) <= n_then
    times.forget(n_words // 2)
    assert [times.end_s(n) for n in range(n_words // 2, n_words + 1)] == ends_s[n_words // 2 :]


def test_text_without_a_space_at_its_end_would_hold_a_word_back():
    """Negative control: what is counted is the text that a session is fed."""
    made = [Hypothesis((Word(" One", 0, 1),)), Hypothesis((Word("two", 1, 2),))]
    assert n_counted(made, lambda hypothesis: hypothesis.text) == 2
    assert n_counted(made, lambda hypothesis: "".join(w.text for w in hypothesis.words)) == 1


def test_a_word_was_said_when_it_ended_and_not_when_the_next_one_did():
    times = WordTimes()
    times.add(Hypothesis((Word("日", 0, 1), Word("本", 1, 2))))
    times.add(Hypothesis((Word(" Tokyo", 5, 6),)))
    assert [times.end_s(n) for n in range(4)] == [0.0, 1.0, 2.0, 6.0]


def test_words_that_a_recogniser_times_backwards_are_in_order_all_the_same():
    times = WordTimes()
    times.add(Hypothesis((Word(" one", 0, 2), Word(" two", 0, 1))))
    assert [times.end_s(n) for n in range(3)] == [0.0, 2.0, 2.0]


def clock(audio_began_s, session_began_s=100.0, *, n_words=9):
    """Of words that take a second each."""
    times = WordTimes()
    times.add(Hypothesis(tuple(Word(" word", i, i + 1) for i in range(n_words))))
    return AudioClock(times, lambda: audio_began_s, session_began_s)


def times_of(event):
    return [*event.word_times_ms, event.time_ms]


END = turn(["un", "deux"], ["one", "two", "three"], times_ms=(7000.0, 9000.0), delays=(1, 3))


def test_where_somebody_speaks_the_time_is_that_since_the_audio_began():
    made = clock(102.0)  # two seconds after the session
    assert made.timed(Read("one", 1, 1, time_ms=4000.0)).time_ms == 2000.0
    assert made.timed(Write(0, "un", True, 1, 1, time_ms=7000.0)).time_ms == 5000.0
    assert times_of(made.timed(END)) == [5000.0, 7000.0, 7000.0]
    assert made.timed(Finished("end_of_turn", (), "", (), 3, total_ms=9500.0)).total_ms == 7500.0


def test_where_nobody_speaks_it_is_when_the_words_were_said():
    made = clock(None)
    assert made.timed(Write(0, "un", True, 3, 1, time_ms=10.0)).time_ms == 3000.0
    end = made.timed(END)
    assert [end.began_ms, *times_of(end)] == [1000.0, 1000.0, 3000.0, 3000.0]


@given(st.integers(0, 9), st.floats(0, 20_000), st.floats(90, 110))
def test_nothing_is_written_before_its_words_were_said(n_words, time_ms, began_s):
    event = Write(0, "un", True, n_words, 1, time_ms=time_ms)
    assert clock(began_s).timed(event).time_ms >= 1000.0 * n_words


def test_the_session_s_own_times_would_be_too_early_for_some():
    """Negative control: audio that comes faster than it was spoken."""
    event = Write(0, "un", True, 9, 1, time_ms=500.0)
    assert event.time_ms < 9000.0 == clock(100.0).timed(event).time_ms


def test_only_times_change():
    assert clock(102.0).timed(END) == END  # times take no part in equality


def test_what_is_kept_does_not_grow_with_the_stream():
    times, n_words = WordTimes(), 0
    made = AudioClock(times, lambda: None, 0.0)
    for i in range(50):
        times.add(Hypothesis(tuple(Word(" word", i, i + 1) for _ in range(3))))
        made.timed(turn(["un"], ["word"] * 3, first=(n_words, i)))
        n_words += 3
        assert len(times._ends_s) == 1
        assert times.end_s(n_words) == i + 1
