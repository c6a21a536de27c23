"""Word by word, an interpreter says what a session writes, when it writes it."""

import pytest
from streams import TEXT, words_of

import mlx_simul
from mlx_simul import Finished, WaitK, Write
from mlx_simul.errors import InvalidOptionError
from mlx_simul.serving.interpreter import Answer, Interpreter

OPTIONS = {"max_tokens": 40, "max_tokens_per_word": 4, "max_target_source_ratio": 3.0}


@pytest.fixture
def begin(model, tokenizer):
    def session(**more):
        options = OPTIONS | {"policy": WaitK(2)} | more
        return mlx_simul.SimulSession(model, tokenizer, **options)

    return session


def run(session, text):
    session.push(text)
    return session.finish()


def heard(interpreter, text):
    """Each word that an interpreter answers, and how many it had heard, as SimulEval counts."""
    interpreter.reset()
    source, words, finished = text.split(), [], False
    for n in range(1, len(source) + 1):
        answer = interpreter.answer(source[n - 1 : n], n == len(source))
        assert not finished or not answer.words
        finished = answer.finished
        words += [(word, n) for word in answer.words]
    assert finished
    return words


@pytest.mark.parametrize("k", [1, 2, 5, 100])
@pytest.mark.parametrize("source", [TEXT, "one", " spaces  \n are   white "])
def test_it_answers_what_a_session_writes_when_it_writes_it(begin, source, k):
    expected = words_of(run(begin(policy=WaitK(k)), source))
    assert expected
    assert heard(Interpreter(lambda: begin(policy=WaitK(k))), source) == expected


def test_a_session_that_ends_before_its_source_is_over_at_once(begin):
    interpreter = Interpreter(lambda: begin(max_words=2, policy=WaitK(1)))
    answers = [interpreter.answer([word], False) for word in ["a", "b", "c"]]
    assert [answer.finished for answer in answers] == [False, True, True]
    assert answers[2] == Answer((), finished=True)


def test_a_source_without_words_ends_with_nothing(begin):
    answer = Interpreter(begin).answer([], True)
    assert (answer.words, answer.finished) == ((), True)
    assert "the source is empty" in (answer.remark or "")


@pytest.mark.parametrize("word", [None, b"word", 3])
def test_a_word_that_is_not_text_is_refused(begin, word):
    with pytest.raises(InvalidOptionError, match=type(word).__name__):
        Interpreter(begin).answer([word], False)


def test_several_words_at_once_are_heard_like_one_after_another(begin):
    first, second = Interpreter(begin), Interpreter(begin)
    one_by_one = [first.answer([word], False) for word in ["a", "b", "c", "d"]]
    at_once = second.answer(["a", "b", "c", "d"], False)
    assert at_once.words == tuple(word for answer in one_by_one for word in answer.words)


def test_a_reset_forgets_the_source_under_way(begin):
    interpreter = Interpreter(begin)
    undisturbed = heard(interpreter, TEXT)
    interpreter.answer(["half", "of", "another"], False)
    assert heard(interpreter, TEXT) == undisturbed


class Scripted:
    """A session that writes these target words, so many for each source word and the end."""

    def __init__(self, *by_word):
        self._by_word = iter(by_word)

    def feed(self, text):
        return [Write(0, each, True, 0, 0) for each in next(self._by_word)]

    def finish(self):
        return [*self.feed(""), Finished("end_of_turn", (), "", (), 0)]


def test_what_is_written_at_once_is_cut_at_white_space_only():
    # Target words of the loop end behind "1." and behind "?".
    interpreter = Interpreter(lambda: Scripted([" 1.", "5", " kg"], [" ?", "!"], [" 3."], ["5"]))
    assert interpreter.answer(["a"], False).words == ("1.5", "kg")
    assert interpreter.answer(["b"], False).words == ("?!",)
    assert interpreter.answer(["c"], True) == Answer(("3.5",), finished=True)


def test_what_comes_with_a_later_answer_is_another_word():
    interpreter = Interpreter(lambda: Scripted([" 3."], ["5"], []))
    assert interpreter.answer(["a"], False).words == ("3.",)
    assert interpreter.answer(["b"], True) == Answer(("5",), finished=True)


class ForgetsTheSpace(Interpreter):
    """A live word without white space behind it is not yet a word, so everything comes late."""

    def answer(self, source_words, source_finished):
        session = self._session or self._begin()
        self._session = session
        fed = [event for word in source_words for event in session.feed(f" {word}")]
        events = fed + (session.finish() if source_finished else [])
        return Answer(tuple("".join(map(self._completed, events)).split()), self._finished)


class WritesParts(Interpreter):
    """What is no whole word yet is written as one."""

    def _completed(self, event):
        text = super()._completed(event) + self._part
        self._part = ""
        return f"{text} "


@pytest.mark.parametrize("broken", [ForgetsTheSpace, WritesParts])
def test_one_that_is_late_or_writes_parts_is_detected(begin, broken):
    expected = words_of(run(begin(policy=WaitK(1)), TEXT))
    assert heard(broken(lambda: begin(policy=WaitK(1))), TEXT) != expected
