"""What a vocabulary piece says, white space included."""

from __future__ import annotations

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tiny_tokenizers import sentencepiece_bpe, sentencepiece_unigram

from mlx_simul.text.vocabulary import piece_texts

SENTENCEPIECE = [
    pytest.param(sentencepiece_bpe("normalizer"), id="bpe-normalizer"),
    pytest.param(sentencepiece_bpe("first"), id="bpe-first"),
    pytest.param(sentencepiece_bpe("never"), id="bpe-never"),
    pytest.param(sentencepiece_unigram(), id="unigram"),
]


@pytest.mark.parametrize("tokenizer", SENTENCEPIECE)
def test_sentencepiece_pieces_show_their_space(tokenizer) -> None:
    pieces = piece_texts(tokenizer)
    expected = {
        "▁the": " the",
        "▁": " ",
        "g": "g",
        "你": "你",
        "<0x0A>": "\n",
        "<0x20>": " ",
        "<0xE4>": "\ufffd",
        "</s>": "</s>",
    }
    for piece, text in expected.items():
        assert pieces[tokenizer.convert_tokens_to_ids(piece)] == text


@pytest.mark.parametrize("marks_start", ["normalizer", "first"])
def test_decoding_a_piece_alone_would_lose_its_space(marks_start: str) -> None:
    tokenizer = sentencepiece_bpe(marks_start)
    assert tokenizer.decode([tokenizer.convert_tokens_to_ids("▁the")]) == "the"


def test_byte_level_pieces(tokenizer) -> None:
    pieces = piece_texts(tokenizer)
    assert len(pieces) == len(tokenizer.get_vocab())
    text = " The house,\n\n\tand 12 dogs."
    assert "".join(pieces[i] for i in tokenizer.encode(text)) == text
    assert [pieces[i] for i in tokenizer.encode("你")] == ["\ufffd"] * 3
    assert pieces[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def test_a_wrapper_has_the_pieces_of_its_tokenizer() -> None:
    tokenizer = sentencepiece_bpe()
    assert piece_texts(TokenizerWrapper(tokenizer)) == piece_texts(tokenizer)


def test_pieces_are_spelled_once_until_the_vocabulary_grows() -> None:
    tokenizer = sentencepiece_bpe()
    pieces = piece_texts(tokenizer)
    assert piece_texts(tokenizer) is pieces
    tokenizer.add_tokens(["<new>"])
    assert piece_texts(tokenizer) == (*pieces, "<new>")


def test_ids_between_the_entries_stand_for_nothing(tokenizer) -> None:
    class Gappy:
        """A vocabulary whose last entry is numbered five too high."""

        encode = staticmethod(tokenizer.encode)
        batch_decode = staticmethod(tokenizer.batch_decode)
        vocab_size = tokenizer.vocab_size
        added_tokens_decoder = tokenizer.added_tokens_decoder

        def get_vocab(self) -> dict[str, int]:
            return {**tokenizer.get_vocab(), "far": len(tokenizer.get_vocab()) + 4}

    assert piece_texts(Gappy())[len(tokenizer.get_vocab()) :] == ("",) * 5
