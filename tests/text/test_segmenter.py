"""Laws of the segmenter: what it gives depends on the text, not on how the text arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
import regex
from article_one import ARTICLE
from hypothesis import example, given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.text.characters import is_spaceless, is_visible
from mlx_simul.text.segmenter import (
    MAX_GRAPHEME_CHARS,
    MAX_WORD_CHARS,
    PARAGRAPH,
    SourceSegmenter,
)

FAMILY = "👩\u200d👩\u200d👧"
PIECES = st.sampled_from(
    [
        *[
            " ",
            "\n",
            "\u00a0",
            "\u3000",
            "\0",
            "a",
            "word",
            ".",
            "é",
            "e\u0301",
            "\u0301",
            "\u200d",
        ],
        *[
            "你",
            "好",
            "。",
            "「",
            "カ",
            "ー",
            "か\u3099",
            "ที่",
            "น",
            "ខ្ញុំ",
            "မြ",
            "ສະ",
            "15",
            "ａ",
            "한",
        ],
        *["שלום", "مرحبا", "\u200f", "🇫🇷", FAMILY, "👍🏽", "\ud83d", "\ude00"],
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


def segments(
    chunks: Sequence[str], split: Callable[[str], Sequence[str]] | None = None
) -> list[str]:
    segmenter = SourceSegmenter(split)
    words = [word for chunk in chunks for word in segmenter.feed(chunk)]
    return words + segmenter.finish()


def in_chunks(text: str, cuts: list[int]) -> list[str]:
    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(0, len(run), 2)]


CUTS = st.lists(st.integers(0, 60), max_size=8)


@given(TEXTS, CUTS)
@example(FAMILY + " 手\u0301机", [1, 2, 3, 6, 7])
@example("😀".encode("utf-16-le").decode("utf-16-le", "surrogatepass"), [1])
def test_any_chunking_gives_the_same_segments(text: str, cuts: list[int]) -> None:
    whole = segments([text])
    assert segments(in_chunks(text, cuts)) == whole
    assert segments(list(text)) == whole
    assert segments(in_chunks(text, cuts), pairs) == segments([text], pairs)


def test_the_law_rejects_a_segmenter_that_does_not_hold_back() -> None:
    def forgetful(chunks: list[str]) -> list[str]:
        return [word for chunk in chunks for word in segments([chunk])]

    assert forgetful(["Good mor", "ning"]) != forgetful(["Good morning"])
    assert forgetful(["か", "\u3099"]) != forgetful(["か\u3099"])


def visible(text: str) -> str:
    """The characters of a text that show, and its spaces."""
    return "".join(char for char in text if char == " " or is_visible(char))


@given(TEXTS)
def test_segments_concatenate_to_what_the_text_shows(text: str) -> None:
    words = segments([text])
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    parts = [part for part in regex.split(r"\s+", joined) if is_visible(part)]
    assert visible("".join(words)) == visible(" ".join(parts))
    assert all(map(is_visible, words))
    assert bool(words) == is_visible(joined)


NOISE = "\u200b\ufeff\u00ad\u200e\u200f\u202e\u2060\u2066\u061c\0\x1b\x7f\u2800\ufff9"


@given(st.lists(st.sampled_from(["word", "e\u0301", "手机", "ที่", "می\u200cخ", FAMILY])), st.data())
def test_what_shows_nothing_between_words_changes_nothing(words: list[str], data: object) -> None:
    noise = st.text(st.sampled_from(NOISE + " "), max_size=3)
    drawn = [data.draw(noise) for _ in words]
    text = "".join(f"{before}{word}{before} " for before, word in zip(drawn, words, strict=True))
    assert segments([text + data.draw(noise)]) == segments([" ".join(words)])


@given(st.lists(st.sampled_from(["手机", "ที่", "iPhone"]), max_size=5))
def test_a_zero_width_space_ends_a_run_of_the_callers_segmenter(words: list[str]) -> None:
    def whole(run: str) -> list[str]:
        return [run]

    assert segments(["\u200b".join(words)], whole) == segments(["\u200b".join(words)], whole)
    spaceless = [word for word in words if word != "iPhone"]
    assert segments(["\u200b".join(spaceless)], whole) == spaceless


@given(TEXTS)
def test_a_segmenter_by_code_points_loses_no_mark(text: str) -> None:
    """Marks and joiners that were cut off stay with the letter before them."""
    assert "".join(segments([text], list)) == "".join(segments([text]))
    assert all(map(is_visible, segments([text], list)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("one", ["one"]),
        ("  Good morning,\n how\u00a0are ", ["Good", " morning,", " how", " are"]),
        ("iPhone15手机 ok", ["iPhone15", "手", "机", " ok"]),
        ("你好，世界。 再见", ["你", "好", "，", "世", "界", "。", " 再", "见"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン"]),
        ("か\u3099き", ["か\u3099", "き"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("col·lecció a\u0303o", ["col·lecció", " a\u0303o"]),
        ("안녕하세요 여러분", ["안녕하세요", " 여러분"]),
        ("שלום עולם", ["שלום", " עולם"]),
        (f"{FAMILY}{FAMILY} 🇫🇷🇩🇪", [f"{FAMILY}{FAMILY}", " 🇫🇷🇩🇪"]),
        ("a\0b \0", ["a\0b"]),
        ("\ufeffGood \u200b \u00ad morning\u200e, \ufe0f", ["Good", " morning\u200e,"]),
        ("می\u200cخواهم क्\u200d", ["می\u200cخواهم", " क्\u200d"]),
        ("❤\ufe0f 🏴\U000e0067\U000e007f", ["❤\ufe0f", " 🏴\U000e0067\U000e007f"]),
        ("ไทย\u200bดี\u200b ครับ", ["ไ", "ท", "ย", "ดี", " ค", "รั", "บ"]),
        ("ខ្ញុំ\u200bស្រឡាញ់", [*regex.findall(r"\X", "ខ្ញុំ"), *regex.findall(r"\X", "ស្រឡាញ់")]),
        ("a \u0301 \u0e34 \u093e b", ["a", " b"]),
        ("\u25cc\u0e34", ["\u25cc\u0e34"]),
        ("葛\U000e0100手", ["葛\U000e0100", "手"]),
        ("သွားပြီး", ["သွား", "ပြီး"]),
        ("x\ud83d y\ude00", ["x\ufffd", " y\ufffd"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert segments([text]) == expected


@pytest.mark.parametrize("language", ARTICLE)
def test_nothing_of_a_text_is_lost(language: str) -> None:
    text = ARTICLE[language]
    assert visible("".join(segments([text]))) == visible(" ".join(text.split()))


def test_half_a_word_is_held_back() -> None:
    segmenter = SourceSegmenter()
    assert segmenter.feed("Good mor") == ["Good"]
    assert segmenter.feed("") == []
    assert segmenter.feed("ning, ") == [" morning,"]
    assert segmenter.feed("手") == []
    assert segmenter.feed("机") == [" 手"]
    assert segmenter.finish() == ["机"]


def test_a_surrogate_pair_split_across_chunks_is_joined() -> None:
    assert segments(["\ud83d", "", "\ude00 ok"]) == ["😀", " ok"]
    assert segments(["\ud83d"]) == ["\ufffd"]


def test_what_has_no_end_is_cut_at_the_documented_lengths() -> None:
    assert [len(word) for word in segments(["a" * (MAX_WORD_CHARS + 1) + " b"])] == [
        MAX_WORD_CHARS,
        1,
        2,
    ]
    accents = "手" + "\u0301" * MAX_GRAPHEME_CHARS
    # Accents alone are not a word.
    assert [len(word) for word in segments([accents])] == [MAX_GRAPHEME_CHARS]
    for text in ("a" * 9000 + "手" * 9000, accents * 3):
        assert segments(list(text)) == segments([text])
        assert segments(list(text), pairs) == segments([text], pairs)
        assert max(map(len, segments([text], lambda run: [run]))) <= MAX_WORD_CHARS


@pytest.mark.parametrize("character", ["a", "手", "\u0301"])
def test_a_character_at_a_time_takes_linear_time(character: str) -> None:
    def seconds(chunks: Sequence[str]) -> float:
        start = time.process_time()
        said = segments(chunks)
        if is_visible(character):
            assert "".join(said) == "".join(chunks)
        else:  # accents alone are no words
            assert all(len(word) == MAX_GRAPHEME_CHARS for word in said)
        return time.process_time() - start

    # Quadratic work would take 256 times as long.
    few, many = "手" + character * 4_000, "手" + character * 64_000
    assert seconds(list(many)) < 80 * max(seconds(list(few)), 0.005)
    assert seconds([many * 3]) < 240 * max(seconds([few]), 0.005)


def test_a_finished_segmenter_is_closed() -> None:
    segmenter = SourceSegmenter()
    segmenter.finish()
    with pytest.raises(SessionClosedError, match=r"feed\(\) after finish"):
        segmenter.feed("more")
    with pytest.raises(SessionClosedError, match=r"finish\(\) after finish"):
        segmenter.finish()


@pytest.mark.parametrize("chunk", [b"bytes", None, 3])
def test_a_chunk_that_is_no_text_is_refused(chunk: object) -> None:
    with pytest.raises(InvalidOptionError, match=type(chunk).__name__):
        SourceSegmenter().feed(chunk)


def test_the_callers_segmenter_gets_whole_clauses() -> None:
    seen: list[str] = []

    def split(run: str) -> list[str]:
        seen.append(run)
        return pairs(run)

    assert segments(list("我们在北京，很好ok 天气"), split) == [
        *["我们", "在北", "京，", "很好", "ok", " 天气"],
    ]
    assert seen == ["我们在北京，", "很好", "天气"]


@pytest.mark.parametrize("split", [lambda run: [run[:1]], lambda run: [], lambda run: [run, run]])
def test_a_segmenter_that_changes_text_is_refused(split: Callable[[str], list[str]]) -> None:
    with pytest.raises(InvalidOptionError, match="does not concatenate"):
        segments(["你好 "], split)


def test_a_split_that_is_no_function_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="split must be a function"):
        SourceSegmenter("characters")


def test_spaceless_scripts() -> None:
    assert all(map(is_spaceless, "手カかー。，ทខລမ"))
    assert not any(map(is_spaceless, ["a", "é", ".", " ", "한", "א", "·", "\u0303", "1", ""]))


# Paragraphs


def with_paragraphs(chunks: Sequence[str]) -> list[str]:
    segmenter = SourceSegmenter(paragraphs=True)
    words = [word for chunk in chunks for word in segmenter.feed(chunk)]
    return words + segmenter.finish()


LINES = ["\n", "\r", "\r\n", "\u2028", " ", "\u200b", "a", "手", "\u0301", "\ud83d", "word"]
PARAGRAPHS = st.lists(st.sampled_from(LINES), max_size=20).map("".join)


@given(PARAGRAPHS, CUTS)
@example("a\r\n\u200b\r\nb", [2, 3, 4, 5])
def test_any_chunking_gives_the_same_paragraphs(text: str, cuts: list[int]) -> None:
    whole = with_paragraphs([text])
    assert with_paragraphs(in_chunks(text, cuts)) == whole
    assert with_paragraphs(list(text)) == whole


def lines_of(text: str) -> list[str]:
    return (
        text.encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
        .splitlines(keepends=True)
    )


@given(PARAGRAPHS)
def test_paragraphs_are_what_lines_without_words_part(text: str) -> None:
    """By another road: the words of each line, with all lines at hand."""
    expected: list[str] = []
    for line in lines_of(text):
        words = [word.strip() for word in segments([line])]
        if words:
            expected += words
        elif line.splitlines() != [line] and expected and expected[-1] != PARAGRAPH:
            expected.append(PARAGRAPH)
    found = [word if word == PARAGRAPH else word.strip() for word in with_paragraphs([text])]
    assert found == expected
    assert [word for word in with_paragraphs([text]) if word != PARAGRAPH] == segments([text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\nb", ["a", PARAGRAPH, " b"]),
        ("a\nb\r\nc\rd", ["a", " b", " c", " d"]),
        ("\n\n\na \n \n\n \u200b\n b\n\n", ["a", PARAGRAPH, " b", PARAGRAPH]),
        ("你\n\n好", ["你", PARAGRAPH, " 好"]),
    ],
)
def test_blank_lines(text: str, expected: list[str]) -> None:
    assert with_paragraphs([text]) == expected
    assert PARAGRAPH not in segments([text])  # by default they are white space


def test_a_blank_line_is_reported_with_its_second_line_break() -> None:
    segmenter = SourceSegmenter(paragraphs=True)
    given = [segmenter.feed(char) for char in "a\r\n\n\nb"]
    assert given == [[], ["a"], [], [PARAGRAPH], [], []]
    assert segmenter.finish() == [" b"]


# Pauses


@given(TEXTS, TEXTS)
def test_a_flush_gives_what_an_end_of_the_source_would(before: str, after: str) -> None:
    segmenter = SourceSegmenter(pairs)
    words = segmenter.feed(before) + segmenter.flush()
    assert words == segments([before], pairs)
    rest = segmenter.feed(after) + segmenter.finish()
    assert [word.strip() for word in rest] == [word.strip() for word in segments([after], pairs)]
    assert segmenter._run == []


def test_a_flush_ends_half_a_word() -> None:
    segmenter = SourceSegmenter()
    assert segmenter.feed("Good mor") == ["Good"]
    assert segmenter.flush() == [" mor"]
    assert segmenter.flush() == []
    assert segmenter.feed("ning. ") == ["ning."]
    assert segmenter.feed("手") + segmenter.flush() == [" 手"]
    segmenter.finish()
    with pytest.raises(SessionClosedError, match=r"flush\(\) after finish"):
        segmenter.flush()
