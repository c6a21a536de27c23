"""Hypotheses as JSON lines: out and in again, in any pieces; what is not one is refused."""

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import RecogniserError
from mlx_simul.speech.json_lines import MAX_LINE_BYTES, JsonLines, hypothesis_as_plain
from mlx_simul.speech.recogniser import Hypothesis, Word
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.stabiliser import stabilise

times = st.integers(0, 10**9).map(lambda ms: ms / 1000)
hypotheses = st.lists(
    st.builds(
        Hypothesis,
        st.lists(st.builds(Word, st.text(max_size=9), times, times), max_size=3).map(tuple),
        st.text(max_size=9),
        st.booleans(),
        times,
    ),
    max_size=5,
)


class Clock:
    now_s = 50.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


def heard(data, cuts=(), **options):
    """What bytes say that arrive in pieces."""
    reader, writer = os.pipe()

    def write():
        for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
            os.write(writer, data[a:b])
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield from JsonLines(reader, **options)
    finally:
        while os.read(reader, 65536):
            pass  # else a writer would wait for ever
        thread.join()
        os.close(reader)


def lines(*objects):
    return "".join(json.dumps(said) + "\n" for said in objects).encode()


@given(hypotheses, st.data())
def test_what_is_written_is_read_as_it_was(made, data):
    text = lines(*map(hypothesis_as_plain, made))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
    assert list(heard(text, cuts)) == made


def test_other_lines_of_the_command_are_skipped():
    said = {"type": "read", "source": "One"}, {"type": "hypothesis", "words": [{"text": " One"}]}
    data = lines(said[0]) + b"\n \n" + lines(said[1])
    assert [hypothesis.text for hypothesis in heard(data)] == [" One "]


def words_of(texts):
    segmenter = SourceSegmenter()
    return [word.strip() for word in segmenter.feed("".join(texts)) + segmenter.finish()]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["my", "train", "leaves", "日本"]), max_size=5).map(" ".join),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_whole_texts_become_words_as_the_stabiliser_says(revised):
    data = lines(*({"text": text, "final": final} for text, final in revised))
    made = list(heard(data))
    assert words_of(hypothesis.text for hypothesis in made) == words_of(stabilise(revised))


def test_the_tail_is_what_the_stabiliser_may_still_change():
    made = list(heard(lines({"text": "My train"}, {"text": "My trains leave"})))
    assert [(hypothesis.text, hypothesis.tail) for hypothesis in made] == [
        ("", "My train"),
        (" My ", "trains leave"),
        (" trains leave ", ""),
    ]


def test_a_time_that_a_line_does_not_say_is_when_the_line_came():
    data = lines(
        {"words": [{"text": " One"}]},
        {"words": [{"text": " two", "end_s": 0.5}], "heard_s": 9},
        {"text": "three", "final": True},
    )
    made = list(heard(data, clock=Clock()))
    assert [[word.end_s for word in hypothesis.words] for hypothesis in made] == [[0], [0.5], [9]]
    assert [hypothesis.heard_s for hypothesis in made] == [0, 9, 9]


@pytest.mark.parametrize("has_clock", [True, False])
def test_the_audio_began_before_the_first_line(has_clock):
    reader, writer = os.pipe()
    os.write(writer, lines({"tail": "my", "heard_s": 2.0}))
    os.close(writer)
    source = JsonLines(reader, has_clock=has_clock, clock=Clock())
    assert source.began_s is None
    list(source)
    assert source.began_s == (51.0 - 2.0 if has_clock else None)
    os.close(reader)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "holds a JSON list where an object belongs"),
        (b'{"words": {}}', "words must be an array, got {}"),
        (b'{"words": ["one"]}', "a word must be an object with a text, got 'one'"),
        (b'{"words": [{"text": 1}]}', "text must be a string, got 1"),
        (b'{"words": [{"text": "a", "end_s": NaN}]}', "end_s must be seconds, from 0"),
        (b'{"words": [{"text": "a", "end_s": -1}]}', "end_s must be seconds, from 0"),
        (b'{"heard_s": 1' + b"0" * 400 + b"}", "heard_s must be seconds"),
        (b'{"heard_s": true}', "heard_s must be seconds"),
        (b'{"pause": 1}', "pause must be true or false, got 1"),
        (b'{"text": "a", "final": -1}', "final must be true, false or a number of words, got -1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"tail": "\xff"}', "utf-8"),
        (b" " * (MAX_LINE_BYTES + 1), f"more than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_a_line_that_will_not_do_ends_it_behind_those_before(line, says):
    before = lines({"text": "One two"})
    made = heard(before + line + b"\n" + lines({"text": "never read"}))
    given_ = [next(made).tail, next(made).text]
    with pytest.raises(RecogniserError, match="line 2 of the hypotheses") as refused:
        next(made)
    assert says in str(refused.value)
    assert given_ == ["One two", " One two "]


def test_times_are_written_to_the_millisecond():
    hypothesis = Hypothesis((Word(" One", 0.1 + 0.2, 1.23456),), "two", False, 2.0)
    assert json.dumps(hypothesis_as_plain(hypothesis)) == (
        '{"type": "hypothesis", "words": [{"text": " One", "start_s": 0.3, "end_s": 1.235}], '
        '"tail": "two", "pause": false, "heard_s": 2.0}'
    )


def test_a_pipe_that_is_stopped_is_read_no_further():
    reader, writer = os.pipe()
    os.write(writer, lines({"tail": "one"}))
    source = JsonLines(reader)
    made = iter(source)
    assert next(made).tail == "one"
    source.stop()
    assert list(made) == []
    os.close(writer)
    os.close(reader)
