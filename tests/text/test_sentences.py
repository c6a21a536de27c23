"""Where sentences end, in the language of a text."""

from __future__ import annotations

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.sentences import checked, ends_before, language_code, sentence_splitter

PIECES = ["Dr.", "e.g.", "M.", "5.", "1.", "—", "Hi.", "me.", "z.B.", "“", "”", "។", "。", "a", " "]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        *[("French", "fr"), ("french", "fr"), ("fr", "fr"), ("fr-CA", "fr"), ("FR_ca", "fr")],
        *[("Brazilian Portuguese", "pt"), ("pt-BR", "pt"), ("Spanish (Mexico)", "es")],
        *[("Bengali", "bn"), ("Bangla", "bn"), ("Czech", "cs"), ("be", "be"), ("yue-Hant", "yue")],
        *[(None, "en"), ("", "en"), ("English", "en"), ("Klingon", "en"), (" German ", "de")],
    ],
)
def test_a_language_has_a_code(language: str | None, code: str) -> None:
    assert language_code(language) == code


def test_a_language_that_is_not_a_text_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"a name or a code, .* got 3"):
        sentence_splitter(3)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map(" ".join))
def test_sentences_concatenate_to_their_text(text: str) -> None:
    for language in ("English", "French", "es", "km"):
        assert "".join(sentence_splitter(language)(text)) == text


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "We met at Mary's. |I left. |I can't. |I'm tired. |He’d. |A cat came."),
        ("en", "It is J. Smith's. |Ask 'J. Smith' and J. Doe."),
        ("fr", "Un roman d'A. Dumas. |Il est là."),
    ],
)
def test_what_follows_an_apostrophe_is_an_initial_only_as_a_capital(
    language: str, text: str
) -> None:
    sentences = text.split("|")
    assert sentence_splitter(language)("".join(sentences)) == sentences


# What sentencex gets wrong by itself: it cuts where a "|" is not, or does not where one is.
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "1. Buy milk. |2. Eat eggs."),
        ("en", "— 1. Buy milk. |Eat eggs."),
        ("en", "She gave it to me. |Tom saw it. |I am ill. |Tom left."),
        ("es", "Estoy bien. |Ella vive junto al mar. |Mira."),
        ("fr", "Je vois M. Dupont. |Il est là."),
        ("nb", "Det er 5. mai. |Ja."),
        ("ru", "Это т. е. он. |Да."),
        ("hi", "डॉ. राम आए। |ठीक है।"),
        ("km", "នេះជាសៀវភៅ។ |គាត់ទៅផ្ទះ។"),
    ],
)
def test_what_the_library_gets_wrong_is_put_right(language: str, text: str) -> None:
    sentences = text.split("|")
    whole = "".join(sentences)
    assert sentence_splitter(language)(whole) == sentences
    assert sentencex.segment(language, whole) != sentences  # else the repair may go


def test_rules_are_those_of_the_language() -> None:
    text = "Das war usw. Der Rest."
    assert len(sentence_splitter("German")(text)) == 1
    assert len(sentence_splitter("English")(text)) == 2


def test_what_follows_tells_whether_a_sentence_ends() -> None:
    split = sentence_splitter("en")
    assert ends_before(split, "I live in the U.S.", " The")
    assert not ends_before(split, "I live in the U.S.", " Navy")
    assert ends_before(split, "I see. You go.", " And")
    assert not ends_before(split, "I see. You", " go.")


@pytest.mark.parametrize(
    "sentences", ["a text", ["one"], ["one two", "three"], [], None, [" one", "two!"]]
)
def test_a_splitter_that_changes_text_is_refused(sentences: object) -> None:
    with pytest.raises(InvalidOptionError, match="does not concatenate to its input 'one two'"):
        checked(lambda text: sentences)("one two")


def test_a_splitter_may_change_white_space() -> None:
    assert checked(str.split)("one  two\n") == ["one", "two"]


def test_a_splitter_that_is_not_a_function_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"splitter must be a function .* not str"):
        checked("sentences")
