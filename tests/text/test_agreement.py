"""Words that agree by their sound; what agrees letter by letter is tested with the stabiliser."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.agreement import Agreement


def given_words(hypotheses: Sequence[str], *, by_sound: bool = True) -> list[list[str]]:
    """What becomes stable with each hypothesis, and at the end."""
    agreement, found = Agreement(2, by_sound=by_sound), []
    for text in hypotheses:
        words = text.split()
        stable = agreement.hear(words)
        found.append(words[stable.start : stable.stop])
    rest = [*agreement.rest]
    assert agreement.finish() == range(len(words) - len(rest), len(words))
    return [*found, rest]


def test_words_agree_by_their_sound_and_are_written_as_the_latest_has_them() -> None:
    hypotheses = ["best of times.", "best of times, it was", "best of Times. It was the"]
    assert given_words(hypotheses) == [[], ["best", "of", "times,"], ["It", "was"], ["the"]]
    exact = given_words(hypotheses, by_sound=False)
    assert exact == [[], ["best", "of"], [], ["Times.", "It", "was", "the"]]


def test_the_last_word_waits_for_what_follows_it() -> None:
    assert given_words(["so it is", "so it is."]) == [[], ["so", "it"], ["is."]]
    assert given_words(["so it is.", "so it is."]) == [[], ["so", "it", "is."], []]


WORDS = st.sampled_from(["a", "b", "c"])
MARKS = st.sampled_from(["", ",", "."])


@given(st.lists(WORDS, max_size=12), st.data())
def test_marks_hold_up_no_word_but_the_last(words: list[str], data: st.DataObject) -> None:
    """Hypotheses that differ in marks alone give all words but the last at the second."""
    n_words = len(words)
    first, second = (
        "".join(f" {word}{mark}" for word, mark in zip(words, marks, strict=True))
        for marks in data.draw(
            st.tuples(*[st.lists(MARKS, min_size=n_words, max_size=n_words)] * 2)
        )
    )
    none, stable, rest = given_words([first, second])
    assert none == [] and [*stable, *rest] == second.split()
    assert len(rest) == (n_words > 0 and first.split()[-1] != second.split()[-1])


def test_what_is_forgotten_is_not_looked_for() -> None:
    agreement = Agreement(1)
    assert agreement.hear(["a", "b", "c"]) == range(3)
    agreement.forget(2)
    assert agreement.hear(["c", "d"]) == range(1, 2)
    assert agreement.contradictions == 0


def test_agree_outside_its_range_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"agree must be .* got 0"):
        Agreement(0)
