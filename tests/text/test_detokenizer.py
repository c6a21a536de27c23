"""Laws of the detokenizer: append-only, whole characters, exactly what decode() says in the end."""

from __future__ import annotations

import copy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer
from tiny_tokenizers import sentencepiece_bpe, sentencepiece_unigram

from mlx_simul.text.detokenizer import StableDetokenizer

SENTENCEPIECE = {
    "bpe-normalizer": sentencepiece_bpe("normalizer"),
    "bpe-first": sentencepiece_bpe("first"),
    "bpe-never": sentencepiece_bpe("never"),
    "unigram": sentencepiece_unigram(),
    "unigram-clean-up": sentencepiece_unigram(clean_up_tokenization_spaces=True),
}
TEXT = "The good thé, 你好 — мир 🌍 👩\u200d👩\u200d👧 مرحبا\n\n  it 's   done ."


def streamed(detokenizer: StableDetokenizer, ids: list[int]) -> str:
    return "".join(map(detokenizer.add, ids)) + detokenizer.flush()


@settings(max_examples=200)
@given(ids=st.lists(st.integers(0, 1100) | st.integers(3, 260), max_size=40))
@example(ids=[])
def test_byte_level_stream_is_exactly_decode(tokenizer, ids: list[int]) -> None:
    assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


@given(data=st.data())
def test_broken_characters_in_byte_level_streams_are_exactly_decode(tokenizer, data) -> None:
    parts = tokenizer.encode("你🌍é")
    ids = data.draw(st.lists(st.sampled_from(parts), min_size=5, max_size=60))
    assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


def test_a_character_behind_invalid_bytes_is_whole(tokenizer) -> None:
    nothing = len(tokenizer.get_vocab())
    first, *rest = tokenizer.encode("🌍")
    assert len(rest) == 3
    for before in ([rest[-1]], [first], [nothing]):
        for n in range(30):
            for ids in ([*before * n, first, *rest], [*before * n, first, nothing, *rest]):
                assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


@settings(max_examples=300)
@given(marks=st.text("▁n'ts.", min_size=3, max_size=20))
@example("s▁n▁'▁t▁'s▁s")
def test_cleaned_up_streams_are_exactly_decode(marks: str) -> None:
    tokenizer = SENTENCEPIECE["unigram-clean-up"]
    ids = tokenizer.convert_tokens_to_ids(list(marks))
    assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", SENTENCEPIECE)
@given(data=st.data())
def test_sentencepiece_stream_is_exactly_decode(name: str, data: st.DataObject) -> None:
    tokenizer = SENTENCEPIECE[name]
    spaces_and_marks = tokenizer.convert_tokens_to_ids(
        [*"▁▁n'tsm.,?", "<0xE4>", "<0xBD>", "<0xA0>"]
    )
    tokens = st.integers(0, len(tokenizer.get_vocab()) - 1) | st.sampled_from(spaces_and_marks)
    ids = data.draw(st.lists(tokens, max_size=30))
    assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_text_in_many_scripts_comes_back(name: str) -> None:
    tokenizer = SENTENCEPIECE[name]
    ids = tokenizer.encode(TEXT)
    assert streamed(StableDetokenizer(tokenizer), ids) == tokenizer.decode(ids)


def test_deltas_hold_whole_characters(tokenizer) -> None:
    detokenizer = StableDetokenizer(tokenizer)
    deltas = []
    for token in tokenizer.encode(TEXT):
        deltas.append(detokenizer.add(token))
        assert detokenizer.is_holding == (not deltas[-1])
    assert "".join(deltas) == TEXT
    assert not any("\ufffd" in delta for delta in deltas)
    assert "你" in deltas and "🌍" in "".join(deltas)


def test_flush_gives_what_never_became_a_character(tokenizer) -> None:
    detokenizer = StableDetokenizer(tokenizer)
    first_byte = tokenizer.encode("你")[0]
    assert (detokenizer.add(first_byte), detokenizer.is_holding) == ("", True)
    assert (detokenizer.flush(), detokenizer.is_holding) == ("\ufffd", False)
    assert detokenizer.flush() == ""


def test_the_law_rejects_tokens_decoded_one_by_one(tokenizer) -> None:
    ids = tokenizer.encode("你好")
    assert "".join(tokenizer.decode([i]) for i in ids) != tokenizer.decode(ids)
    spaced = SENTENCEPIECE["bpe-first"]
    ids = spaced.encode("the good")
    assert "".join(spaced.decode([i]) for i in ids) != spaced.decode(ids)


def test_mlx_lms_detokenizers_do_not_satisfy_the_law(tokenizer) -> None:
    # Why there is a detokenizer here. If this fails, theirs may do now.
    def theirs(detokenizer, ids: list[int]) -> str:
        for token in ids:
            detokenizer.add_token(token)
        detokenizer.finalize()
        return detokenizer.text

    ids = tokenizer.encode(" the")
    assert theirs(BPEStreamingDetokenizer(tokenizer), ids) != tokenizer.decode(ids)
    spaced = SENTENCEPIECE["bpe-first"]
    ids = spaced.convert_tokens_to_ids(["<0xE4>", "a"])
    assert theirs(SPMStreamingDetokenizer(spaced), [*ids, *ids[:1], 3]) != spaced.decode(
        [*ids, *ids[:1], 3]
    )


class Counting:
    """A tokenizer that notes how much it is asked to decode."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self.encode = tokenizer.encode
        self.convert_ids_to_tokens = tokenizer.convert_ids_to_tokens
        self.longest = 0

    def decode(self, ids: list[int], **options: bool) -> str:
        self.longest = max(self.longest, len(ids))
        return self._tokenizer.decode(ids, **options)


@pytest.mark.parametrize(
    "text", ["the good house " * 300, "你好" * 300, "\n\n" * 300], ids=["words", "bytes", "lines"]
)
def test_the_work_per_token_does_not_grow(tokenizer, text: str) -> None:
    counting = Counting(tokenizer)
    detokenizer = StableDetokenizer(counting)
    counting.longest = 0
    assert streamed(detokenizer, tokenizer.encode(text)) == text
    assert counting.longest < 20


def test_endless_invalid_bytes_are_not_held_back_for_ever(tokenizer) -> None:
    counting = Counting(tokenizer)
    detokenizer = StableDetokenizer(counting)
    counting.longest = 0
    lead, middle, last = tokenizer.encode("你")
    for unit in ([last], [lead], [lead, middle], [lead, last, last, last]):
        out = "".join(detokenizer.add(i) for i in unit * 100)
        out += detokenizer.flush()
        assert out == tokenizer.decode(unit * 100)
    assert counting.longest < 40


def test_a_copy_is_a_snapshot(tokenizer) -> None:
    detokenizer = StableDetokenizer(tokenizer)
    first, *rest = tokenizer.encode("你好")
    detokenizer.add(first)
    snapshot = copy.copy(detokenizer)
    assert streamed(detokenizer, tokenizer.encode("x")) == "\ufffdx"
    assert streamed(snapshot, rest) == "你好"
