"""Stops in a text: found where they are, however the text comes, and never shown."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_simul.text.stops import StopWatch

SENTENCES = [
    "Mr. Smith came at 3.5 p.m. yesterday.",
    "It costs 5.99 euros!",
    'He said "Go. Now." and left.',
    "Wait... what?",
]
BEHIND_SENTENCES = [" Then ", " He left ", '\n\n"Yes ', "\n\nand "]


def cut(text, sizes=(1,), **stops):
    """What stays of a text that comes in pieces, and what was certain to stay all the while."""
    watch, at, shown, certain = StopWatch(**stops), 0, 0, []
    while at < len(text) and watch.cut is None:
        size = sizes[len(certain) % len(sizes)]
        watch.add(None, text[at : at + size])
        at += size
        shown = max(shown, watch.settled_chars)
        certain.append(shown)
    return watch.cut, certain


alphabet = st.text('aab .\n`{}[]"', max_size=40)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)
ways = st.one_of(
    st.lists(st.text("ab .", min_size=1, max_size=4), min_size=1, max_size=3).map(
        lambda stops: {"stops": tuple(stops)}
    ),
    st.sampled_from(["sentence", "code_block", "json"]).map(lambda unit: {"unit": unit}),
)


@given(alphabet, sizes, ways)
def test_pieces_change_nothing_and_what_is_certain_stays(text, sizes, way):
    found, certain = cut(text, sizes, **way)
    assert found == cut(text, [1], **way)[0]
    if found is not None:
        # The last one is counted in the very piece in which the stop was found.
        assert max([0, *certain[:-1]]) <= found.n_chars


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1))
def test_the_first_that_is_complete_counts(text, stops):
    found, certain = cut(text, stops=tuple(stops))
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    if not ends:
        assert found is None
        # What is held back is the beginning of a stop, and no more than that.
        pending = text[certain[-1] :] if certain else ""
        assert any(stop.startswith(pending) for stop in stops)
        return
    longest = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
    assert (found.stop, found.n_chars) == (longest, ends[0] - len(longest))


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("behind", BEHIND_SENTENCES)
def test_a_sentence_ends_where_a_turn_would(sentence, behind):
    found, _ = cut(sentence + behind, unit="sentence")
    assert found is not None
    assert (sentence + behind)[: found.n_chars] == sentence


@pytest.mark.parametrize(
    "text", ["No end yet", "Dr. Smith", "3.", "It is 5.", "e.g. ", "Is it 3.5 or", "“Go. Now"]
)
def test_what_may_go_on_is_not_a_sentence(text):
    assert cut(text, unit="sentence")[0] is None


def test_a_sentence_of_the_target_language():
    text, options = "Ceci est-il bon ? Oui, ", {"unit": "sentence", "language": "French"}
    found, certain = cut(text, **options)
    assert text[: found.n_chars] == "Ceci est-il bon ?"
    # A word shows while it is written, if no sentence can have ended before it.
    assert certain[6] == 7


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("See:\n```py\nx = '```'\n```\nThen", "See:\n```py\nx = '```'\n```"),
        ("~~~~\n~~~\n```\n~~~~~ \t\nThen", "~~~~\n~~~\n```\n~~~~~"),
        ("```\n```\r\n", "```\n```"),
        ("```\n   ```\n", "```\n   ```"),
        ("```\n    ```\n", None),  # indented code
        ("```\n``` x\n", None),
        ("```a`b\n```\nx\n", None),  # inline code, and then an opening fence
        ("```\nx", None),
        ("``\nx\n``\n", None),
    ],
)
def test_a_code_block_ends_with_its_fence(text, stays):
    found, _ = cut(text, unit="code_block")
    assert (found and text[: found.n_chars]) == stays


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\{}[] é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab}"', max_size=3), inner),
    max_leaves=8,
)


@given(
    values, st.sampled_from(["", "Here: ", "[sic] ", "(a) ", "} "]), st.text('ab}]"', max_size=5)
)
def test_a_value_ends_with_its_bracket(value, before, behind):
    assume(isinstance(value, list | dict))
    text = before + json.dumps(value, ensure_ascii=False)
    found, certain = cut(text + behind, unit="json")
    assert found == ("json", None, len(text))
    # It is complete with its last character, and nothing of it is held back.
    assert len(certain) == len(text)
    assert certain == [*range(1, len(text) + 1)]
    assert cut(text[:-1], unit="json")[0] is None


@pytest.mark.parametrize(
    "before",
    [
        "Use { to open: ",
        '[5" pipe] ',
        ":-[ sorry ",
        "{",
        'Set {x, "y} then ',
        "[1, 2,] ",
        "[01] ",
        "{'a': 2} ",
    ],
)
def test_what_only_begins_like_a_value_is_text(before):
    text = before + '{"a": [1, -2.5e3, true, "]"]} more}'
    found, _ = cut(text, unit="json")
    assert found is not None
    assert text[: found.n_chars] == text[: text.rindex("]}") + 2]


@given(st.text('[]{}",: 10.eE+-tfru\\n\n', max_size=24))
def test_what_ends_like_a_value_is_one_to_its_parser(text):
    found, _ = cut(text, unit="json")
    starts = [i for i, char in enumerate(text) if char in "[{"]
    if found is not None:
        stays = text[: found.n_chars]
        assert any(parses(stays[start:]) for start in starts)
    elif starts:
        assert not parses(text[starts[0] :])


def parses(text):
    try:
        return isinstance(json.loads(text), list | dict)
    except ValueError:
        return False


def test_tokens_in_a_row():
    watch = StopWatch([(1, 2, 1, 3), (9,)])
    settled = []
    for token in (1, 2, 1, 2, 1):
        watch.add(token, "x")
        settled.append(watch.settled_tokens)
    assert settled == [0, 0, 0, 2, 2]
    watch.add(3, "x")
    assert watch.cut == ((1, 2, 1, 3), 2, None)
    watch.add(9, "x")
    assert watch.cut == ((1, 2, 1, 3), 2, None)
