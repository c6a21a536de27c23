"""Cues hold all of a turn's text, can be read, and never overlap; another library reads them."""

from itertools import pairwise

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_turns import turn
from rich.cells import cell_len

from mlx_simul.stream.subtitles import (
    MAX_CUE_MS,
    MAX_LINE_COLUMNS,
    MIN_CUE_MS,
    VTT_HEADER,
    Cue,
    CueMaker,
    source_times_ms,
    srt,
    vtt,
)

words = st.lists(
    st.one_of(
        st.text("abcdé日本。", min_size=1, max_size=9),
        st.sampled_from(["?", "«", "»", "(", "non,", "<i>", "a&b", "{x}", "3.5"]),
        st.just("Übermäßigkeitsverordnungsdurchführungsvorschrift"),
    ),
    max_size=40,
)


talks = st.lists(st.tuples(words, words, st.floats(0, 5000)), max_size=5)
sides = st.sampled_from(["source", "target", "both"])


def cues_of(talk, side):
    maker, cues, now_ms = CueMaker(side), [], 0.0
    for target, source, pause_ms in talk:
        end = turn(target, source, began_ms=now_ms + pause_ms)
        now_ms = end.time_ms
        cues.append(maker.cues(end))
    return cues


@given(talks, sides)
def test_cues_hold_all_of_the_text(talk, side):
    for (target, source, _), cues in zip(talk, cues_of(talk, side), strict=True):
        shown = "".join("".join(cue.lines) for cue in cues)
        texts = {"source": source, "target": target, "both": [*source, *target]}
        assert sorted(shown.replace(" ", "")) == sorted("".join(texts[side]))
        if side != "both":
            assert shown.replace(" ", "") == "".join(texts[side])


@given(talks, sides)
def test_cues_are_readable_and_never_overlap(talk, side):
    cues = [cue for made in cues_of(talk, side) for cue in made]
    assert [cue.number for cue in cues] == [*range(1, len(cues) + 1)]
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert MIN_CUE_MS - 1 <= cue.end_ms - cue.start_ms <= MAX_CUE_MS + 1
        for line in cue.lines:
            assert line == line.strip() != ""
            # Longer only where a word is, with the marks beside it.
            assert cell_len(line) <= MAX_LINE_COLUMNS or "Überm" in line
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(cues))


def test_a_cue_appears_with_its_first_word_and_stays_for_its_last():
    # 14 words of 5 letters: two lines and one, so one line to a side and 7 words to a line.
    end = turn(["mot:x"] * 14, times_ms=tuple(10_000.0 + 1000 * i for i in range(14)))
    first, second = CueMaker().cues(turn(["mot"] * 3)), CueMaker().cues(end)
    assert (first[0].start_ms, first[0].end_ms) == (300, 300 + MIN_CUE_MS)
    assert [len(cue.lines) for cue in second] == [2]
    assert (second[0].start_ms, second[0].end_ms) == (10_000, 10_000 + MAX_CUE_MS)


def test_a_long_turn_becomes_several_cues_at_the_times_of_their_words():
    times_ms = tuple(1000.0 * i for i in range(40))
    cues = CueMaker().cues(turn(["mot:x"] * 40, times_ms=times_ms))
    n_words = [sum(len(line.split()) for line in cue.lines) for cue in cues]
    assert len(cues) == 3 and sum(n_words) == 40
    assert [cue.start_ms for cue in cues] == [0, 1000 * n_words[0], 1000 * sum(n_words[:2])]
    # Lines are about as long as each other, and no cue is left with a word or two.
    assert max(n_words) - min(n_words) <= 4


def test_cues_of_a_translation_that_is_too_fast_to_be_read_come_later():
    at_once = tuple([5.0] * 40)
    cues = CueMaker().cues(turn(["mot:x"] * 40, times_ms=at_once))
    assert [after.start_ms - before.end_ms for before, after in pairwise(cues)] == [0, 0]
    n_columns = sum(map(cell_len, cues[0].lines))
    assert cues[0].end_ms - cues[0].start_ms == pytest.approx(1000 * n_columns / 20, abs=1)


def test_a_source_word_was_read_before_the_first_target_word_that_waited_for_it():
    end = turn(["un", "deux"], ["one", "two", "three"], first=(7, 5), delays=(8, 9))
    assert source_times_ms(end) == (300.0, 600.0, end.time_ms)
    shown = CueMaker("source").cues(end)[0]
    assert (shown.start_ms, shown.lines) == (300, ("one two three",))


def test_marks_stay_with_their_words():
    target = "Il a dit : « Non » ! 日本語日本語日本語日本語日本語日本語日本語。日本語日本語"
    lines = [line for cue in CueMaker().cues(turn([target])) for line in cue.lines]
    assert len(lines) > 1
    assert not any(line[0] in ":»!。" or line[-1] == "«" for line in lines)


def test_both_has_the_source_above_the_target():
    cue = CueMaker("both").cues(turn(["un", "deux"], ["one", "two"]))[0]
    assert cue.lines == ("one two", "un deux")
    assert [c.lines for c in CueMaker("both").cues(turn([], ["one"]))] == [("one",)]


def test_both_languages_are_not_later_than_the_longer_of_them():
    """At 20 columns a second a line of 34 takes 1.7 s: one sentence every 2 s can be followed."""

    def starts_ms(side):
        maker = CueMaker(side)
        ends = [turn(["mot:x"] * 6, ["wordy"] * 6, began_ms=2000.0 * i) for i in range(9)]
        return [cue.start_ms for end in ends for cue in maker.cues(end)]

    assert starts_ms("both") == starts_ms("target") == [300 + 2000 * i for i in range(9)]


@given(talks, sides)
def test_another_library_reads_the_same_cues(talk, side):
    cues = [cue for made in cues_of(talk, side) for cue in made]
    plain = {"keep_html_tags": True}
    read = pysubs2.SSAFile.from_string("".join(map(srt, cues)) or "\n", format_="srt", **plain)
    wanted = [(cue.start_ms, cue.end_ms, r"\N".join(cue.lines)) for cue in cues]
    assert [(event.start, event.end, event.text) for event in read] == wanted
    read = pysubs2.SSAFile.from_string(VTT_HEADER + "".join(map(vtt, cues)), format_="vtt", **plain)
    unescaped = [
        event.text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for event in read
    ]
    assert unescaped == [text for *_, text in wanted]


def test_times_are_written_in_hours_minutes_and_seconds():
    cue = Cue(12, 3_723_004, 86_400_000, ("a --> b & c",))
    assert srt(cue) == "12\n01:02:03,004 --> 24:00:00,000\na -- b & c\n\n"
    assert vtt(cue) == "12\n01:02:03.004 --> 24:00:00.000\na --&gt; b &amp; c\n\n"
