"""Hypotheses in, words that stay out: each once, none taken back, all of them at the end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.events import Tail
from mlx_simul.text import agreement as module
from mlx_simul.text.agreement import Agreement
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.stabiliser import Stabiliser, stabilise

WORDS = st.sampled_from(["a", "b", "c", "d", "So,", "so", "end.", "你", "好", "。", "ไทย", "12手"])
TEXTS = st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=6)
AGREE = st.integers(1, 4)


def words_of(text: str) -> list[str]:
    segmenter = SourceSegmenter()
    return [word.strip() for word in segmenter.feed(text) + segmenter.finish()]


# What a recogniser means to say, and what it says on the way: each hypothesis holds a little more
# of it, and a tail that is wrong.
TRUTH = st.lists(WORDS, max_size=12)


WRONG = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3)


@st.composite
def revisions(draw: st.DrawFn, truth: Sequence[str]) -> list[str]:
    """Hypotheses that never revise what two in a row agree on."""
    steps = draw(st.lists(st.tuples(st.integers(0, 4), WRONG), max_size=10))
    silences = draw(st.lists(st.integers(0, 10), max_size=2))
    ends = accumulate(step for step, _ in steps)
    said = [
        # Two wrong tails in a row must not agree.
        " ".join([*truth[:end], *(f"{word}{i}" for word in wrong)])
        for i, (end, (_, wrong)) in enumerate(zip(ends, steps, strict=True))
    ]
    for silence in silences:
        said.insert(silence, "")
    return [*said, *[" ".join(truth)] * 4]


@given(st.data(), TRUTH, st.integers(2, 4), st.booleans(), st.sampled_from(["final", "beginning"]))
def test_right_words_come_out_once_in_order_and_all(
    data: st.DataObject, truth: list[str], agree: int, is_final: bool, since: str
) -> None:
    stabiliser, given, words = Stabiliser(agree, since=since), "", words_of(" ".join(truth))
    hypotheses = data.draw(revisions(truth))
    for i, hypothesis in enumerate(hypotheses):
        given += stabiliser.hear(hypothesis, final=is_final and i == len(hypotheses) - 1)
        so_far = words_of(given)
        assert so_far == words[: len(so_far)]
    assert words_of(given + stabiliser.finish()) == words
    assert stabiliser.contradictions == 0
    assert stabiliser.tail == Tail("")


@given(st.lists(TEXTS, max_size=12), AGREE)
def test_only_what_successive_hypotheses_agree_on_is_given(texts: list[str], agree: int) -> None:
    """By another road, until a hypothesis contradicts what was given."""
    stabiliser, given, expected = Stabiliser(agree, since="beginning"), "", []
    for i, text in enumerate(texts):
        given += stabiliser.hear(text)
        if stabiliser.contradictions:
            break
        latest = [words_of(text) for text in texts[max(0, i + 1 - agree) : i + 1]]
        columns = zip(*latest, strict=False) if len(latest) == agree else ()
        common = [words[0] for words in takewhile(lambda words: len({*words}) == 1, columns)]
        if len(common) > len(expected):
            expected = common
        if [module._spoken(word) for word in expected] != [
            module._spoken(word) for word in words_of(given)
        ]:
            assert words_of(given) == expected


@given(st.lists(st.tuples(TEXTS, st.booleans() | st.integers(0, 5)), max_size=12), AGREE)
def test_no_hypothesis_raises_and_no_word_is_taken_back(
    heard: list[tuple[str, bool | int]], agree: int
) -> None:
    for since in ("final", "beginning"):
        stabiliser, given = Stabiliser(agree, since=since), ""
        for text, final in heard:
            given += stabiliser.hear(text, final=final)
            # A session reads every word now, unless it is written without a space behind it.
            segmenter = SourceSegmenter()
            segmenter.feed(given)
            assert not segmenter.finish() or any(
                is_spaceless(char) for text, _ in heard for char in text
            )
            if final is True:
                assert stabiliser.tail == Tail("")
        rest = stabiliser.finish()
        assert words_of(rest) == words_of(stabiliser.tail.unstable) or not stabiliser.tail.unstable


@given(st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=6))
def test_finals_come_out_as_they_are(finals: list[str]) -> None:
    stabiliser, given = Stabiliser(), ""
    for text in finals:
        stabiliser.hear(text + " um")
        given += stabiliser.hear(text, final=True)
    assert words_of(given + stabiliser.finish()) == words_of(" ".join(finals))


@given(st.lists(WORDS, min_size=3, max_size=20), st.integers(0, 18))
def test_the_first_words_may_be_final(truth: list[str], n_final: int) -> None:
    words = words_of(" ".join(truth))
    n_final = min(n_final, len(words) - 1)
    stabiliser = Stabiliser(2)
    given = stabiliser.hear(" ".join(words), final=n_final)
    assert words_of(given) == words[:n_final]
    given += stabiliser.hear(" ".join(words[n_final:]))  # agrees with the rest before
    assert words_of(given) == words
    assert stabiliser.contradictions == 0


# Contradictions


def said(hypotheses: Sequence[str], agree: int = 1, kind: type[Stabiliser] = Stabiliser) -> str:
    stabiliser = kind(agree, since="beginning")
    return ("".join(map(stabiliser.hear, hypotheses)) + stabiliser.finish()).strip()


@pytest.mark.parametrize(
    ("hypotheses", "expected"),
    [
        (["we saw a cat", "we saw the cat sit"], "we saw a cat sit"),
        (["we saw a cat", "well we saw a cat sit"], "we saw a cat sit"),
        (["well we saw a cat", "we saw a cat sit"], "well we saw a cat sit"),
        (["a b", "a c b d"], "a b d"),
        (["the", "a dog and the cat"], "the dog and the cat"),
        (["so it is", "So, it is. And"], "so it is And"),
        (["a b c", "a b", "a b c d"], "a b c d"),
        (["a b c", "", "a b c d"], "a b c d"),
        (["a b c", "x y z d"], "a b c d"),
        (["你好", "您好吗"], "你好吗"),
    ],
)
def test_what_was_given_stays_and_the_rest_follows(hypotheses: list[str], expected: str) -> None:
    assert said(hypotheses) == expected


def test_case_and_less_text_are_not_contradictions() -> None:
    stabiliser = Stabiliser(1)
    for text in ["so it is", "So, it is. And", "So", "", "so it was"]:
        assert stabiliser.contradictions == 0
        stabiliser.hear(text)
    assert stabiliser.contradictions == 1


EDITS = st.tuples(st.integers(0, 299), st.sampled_from(["replace", "insert", "delete"]))


@given(st.integers(8, 300), st.lists(EDITS, max_size=3))
def test_words_behind_a_contradiction_come_once(n_words: int, edits: list[tuple[int, str]]) -> None:
    before = [str(i) for i in range(n_words)]
    revised = [*before]
    for place, edit in edits:
        at = place % (len(revised) - 1)  # the last stays, to show where they meet
        revised[at : at + (edit != "insert")] = [] if edit == "delete" else ["x"]
    texts = [" ".join(before), " ".join([*revised, "p", "q", "r"])]
    assert said(texts).split() == [*before, "p", "q", "r"]


def test_an_empty_final_text_ends_a_hypothesis() -> None:
    stabiliser = Stabiliser(1)
    given = [stabiliser.hear("so it"), stabiliser.hear("", final=True), stabiliser.hear("well")]
    assert given == ["so it ", "", "well "]
    assert stabiliser.contradictions == 0


def test_the_law_rejects_alignment_by_counting_words() -> None:
    class CountingAgreement(Agreement):
        def _position(self, words: Sequence[str]) -> int:
            return min(len(words), self._n_before + len(self._given))

    class Counting(Stabiliser):
        def __init__(self, agree: int, *, since: str) -> None:
            super().__init__(agree, since=since)
            self._agreement = CountingAgreement(agree)

    assert said(["a b", "x a b c"], kind=Counting) == "a b b c"
    assert said(["a b", "x a b c"]) == "a b c"


def test_the_law_rejects_giving_what_only_one_said() -> None:
    hypotheses = ["the cap", "the cat sat"]
    assert said(hypotheses, agree=1).split()[1] == "cap"
    assert said(hypotheses, agree=2) == "the cat sat"


# Text and tail


def test_text_has_the_spaces_that_make_words_whole() -> None:
    stabiliser = Stabiliser(2)
    assert stabiliser.hear("Good mor") == ""
    assert stabiliser.tail == Tail("Good mor")
    assert stabiliser.hear("Good morning") == "Good "
    assert stabiliser.tail == Tail("morning")
    assert stabiliser.hear("Good morning all", final=True) == "morning all "
    assert stabiliser.hear("We are iPhone15手机") == ""
    assert stabiliser.hear("We are iPhone15手机") == "We are iPhone15手机"
    assert stabiliser.hear("We are iPhone15手机 ok", final=True) == " ok "
    assert stabiliser.tail == Tail("")
    assert stabiliser.finish() == ""


def test_a_source_of_hypotheses() -> None:
    tails: list[Tail] = []
    heard = ["I", "I am", ("I am here", True), "And you", ("And you too now", 2), "too"]
    texts = list(stabilise(heard, show=tails.append))
    assert texts == ["I ", "am here ", "And you ", "too "]
    assert [tail.unstable for tail in tails] == ["I", "am", "", "And you", "too now", ""]
    assert "".join(stabilise(["a b", "a c", "a c d"], agree=3)) == "a c d "
    assert list(stabilise([])) == []


def test_nothing_grows_with_the_stream() -> None:
    stabiliser = Stabiliser(2)
    for i in range(500):
        stabiliser.hear(f"word {i}")
        stabiliser.hear(f"word {i} ends", final=True)
        assert len(stabiliser._agreement._given) <= module._KEPT_WORDS
        assert sum(map(len, stabiliser._agreement._rests)) <= 6
    long = Stabiliser(2, since="beginning")
    text = ""
    for i in range(200):
        text += f"word{i} "
        long.hear(text)
        assert len(long._agreement._given) <= module._KEPT_WORDS
        assert long.hear("") == ""
        assert long.hear(text) == ""
    assert long.contradictions == 0
    assert long.hear(text) == "word199 "
    assert long.hear("new" + text[4:] + "so") == ""  # the first word is long out of sight
    assert long.contradictions == 0
    assert long.hear(text + "so") == "so "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Stabiliser(0), "agree must be an integer of at least 1, got 0"),
        (lambda: Stabiliser(True), "agree must be .* got True"),
        (lambda: Stabiliser(1.5), "agree must be .* got 1.5"),
        (lambda: Stabiliser(since="now"), "since must be .* got 'now'"),
        (lambda: Stabiliser().hear("a", final=-1), "final must be .* got -1"),
        (lambda: Stabiliser().hear("a", final="all"), "final must be .* got 'all'"),
        (lambda: Stabiliser().hear(b"a"), "not bytes"),
        (lambda: next(stabilise([None])), "a hypothesis must be"),
        (lambda: next(stabilise([("a", True, 3)])), "a hypothesis must be"),
    ],
)
def test_what_is_outside_its_range_is_refused(call: object, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        call()


def test_a_finished_stabiliser_is_closed() -> None:
    stabiliser = Stabiliser()
    stabiliser.finish()
    for call in (lambda: stabiliser.hear("a"), stabiliser.finish):
        with pytest.raises(SessionClosedError, match=r"after finish\(\)"):
            call()
