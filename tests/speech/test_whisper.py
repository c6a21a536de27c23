"""What Whisper writes though nobody said it. The segments are what tiny.en made of real speech."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.speech.recogniser import Word
from mlx_simul.speech.whisper import Segment, known_language, without_repeats, words_said


def words(text: str, start_s: float, end_s: float) -> list[Word]:
    """Words that share a time evenly."""
    parts = text.split()
    step_s = (end_s - start_s) / len(parts)
    return [
        Word(f" {part}", start_s + i * step_s, start_s + (i + 1) * step_s)
        for i, part in enumerate(parts)
    ]


def text_of(said: list[Word]) -> str:
    return "".join(word.text for word in said).strip()


SAID = Segment(words("It was the season of light.", 0.6, 1.76), 0.0, 0.77)
VOICES = [(0.48, 1.95)]


@pytest.mark.parametrize(
    ("text", "compression_ratio"),
    [
        ("Thanks for watching guys, see you in the next video.", 0.87),
        ("This is the first one.", 0.79),
        ("I'm going to take a look at what I'm going to do, and " * 20, 12.95),
    ],
)
def test_words_behind_the_last_voice_are_dropped(text: str, compression_ratio: float) -> None:
    """The voice ended at 1.95 s, and another pass began in the silence after it."""
    made_up = Segment(words(text, 1.76, 2.0), 1.76, compression_ratio)
    assert text_of(words_said([SAID, made_up], VOICES)) == "It was the season of light."
    # Where the voice goes on, another pass is needed.
    assert len(words_said([SAID, made_up], [(0.48, 3.0)])) > 6


def test_no_more_segments_are_asked_for_than_are_needed() -> None:
    def segments():
        yield SAID
        yield Segment(words("Thank you.", 1.8, 2.0), 1.76, 0.8)
        raise AssertionError("another pass was decoded for nothing")

    assert len(words_said(segments(), VOICES)) == 6


def test_a_word_far_from_any_voice_is_dropped() -> None:
    segment = Segment([*SAID.words, Word(" Thanks.", 2.6, 2.9)], 0.0, 0.8)
    assert text_of(words_said([segment], VOICES)) == "It was the season of light."
    assert len(words_said([segment], [*VOICES, (2.5, 3.0)])) == 7


def test_a_word_begins_and_ends_with_the_voice() -> None:
    said = words_said([Segment([Word(" Well.", 0.0, 5.0)], 0.0, 0.8)], [(1.0, 1.2), (1.4, 2.0)])
    assert said == [Word(" Well.", 1.0, 2.0)]


def test_a_loop_is_kept_once_where_the_text_is_repetitive() -> None:
    loop = words("so we go. " + "I see it, " * 30 + "I see", 0.0, 9.0)
    voices = [(0.0, 9.0)]
    assert text_of(words_said([Segment(loop, 0.0, 9.1)], voices)) == "so we go. I see it,"
    # Words that are said again, as in the beginning of A Tale of Two Cities, are no loop.
    assert len(words_said([Segment(loop, 0.0, 2.2)], voices)) == len(loop)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True), st.integers(3, 12))
def test_what_is_said_three_times_or_more_stays_once(texts: list[str], n_times: int) -> None:
    said = [Word(text, float(i), i + 1.0) for i, text in enumerate(texts * n_times)]
    assert without_repeats(said) == said[: len(texts)]


@given(st.lists(st.sampled_from("abcdef"), max_size=12, unique=True))
def test_words_that_are_not_repeated_all_stay(texts: list[str]) -> None:
    said = [Word(text, 0.0, 1.0) for text in [*texts, *texts]]
    assert without_repeats(said) == said


def test_languages_are_codes_or_names_that_the_model_knows() -> None:
    assert known_language(None, ["en"], "tiny.en") is None
    assert known_language("French", ["en", "fr"], "tiny") == "fr"
    assert known_language("pt-BR", ["pt"], "tiny") == "pt"
    for name in ("English", "en-GB", "British English"):
        assert known_language(name, ["en"], "tiny.en") == "en"
    with pytest.raises(InvalidOptionError, match=r"'Welsh' is not known by this name; .* cy, en"):
        known_language("Welsh", ["en", "cy"], "tiny")
    with pytest.raises(InvalidOptionError, match=r"tiny\.en does not recognise 'French'; .* en"):
        known_language("French", ["en"], "tiny.en")
