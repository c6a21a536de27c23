"""Where a target word ends (SPEC section 2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.boundary import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)

GO_ON, ENDED, LOOK_AHEAD = (False, False), (True, False), (True, True)


@pytest.fixture(scope="module")
def ends(tokenizer):
    """Judges a word given as text and look-ahead, each encoded by itself."""
    criteria = WordBoundaryStoppingCriteria(tokenizer)

    def judge(*texts):
        return criteria([i for t in texts for i in tokenizer.encode(t, add_special_tokens=False)])

    return judge


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        pytest.param([" the"], GO_ON, id="its own leading space"),
        pytest.param([" the", " of"], LOOK_AHEAD, id="a new word"),
        pytest.param(["a", "\n"], LOOK_AHEAD, id="a new line"),
        pytest.param(["a", ","], ENDED, id="punctuation"),
        pytest.param(["."], ENDED, id="punctuation alone"),
        pytest.param(["\n"], GO_ON, id="white space is no word"),
        pytest.param(["\n", " the"], GO_ON, id="a word after white space only"),
        pytest.param(["a", "<|im_end|>"], LOOK_AHEAD, id="end of turn"),
        pytest.param(["<|im_end|>"], LOOK_AHEAD, id="end of turn at once"),
        pytest.param(["好"], ENDED, id="a Chinese character"),
        pytest.param(["a", "。"], ENDED, id="a full-width stop"),
        pytest.param(["é"], GO_ON, id="a Latin character of two bytes"),
    ],
)
def test_verdicts(ends, texts, verdict):
    assert ends(*texts) == verdict


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff", "\u200d", "\ufe0f", "\u0301", "\0"])
def test_what_shows_nothing_is_no_word(tokenizer, ends, invisible):
    """Neither whole nor as the bytes of a byte-level vocabulary."""
    criteria = WordBoundaryStoppingCriteria(tokenizer)
    ids = tokenizer.encode(invisible, add_special_tokens=False)
    assert not criteria.has_content(ids)
    assert ends(invisible, " the") == GO_ON
    assert ends("a", invisible, " the") == LOOK_AHEAD


def test_a_vowel_sign_that_is_a_token_of_its_own_is_no_word(ends):
    assert ends("ก") == ENDED
    assert ends("\u0e34") == GO_ON
    assert ends("\u0e34", "น") == ENDED


def test_half_a_character_ends_nothing(tokenizer):
    criteria = WordBoundaryStoppingCriteria(tokenizer)
    ids = tokenizer.encode("好", add_special_tokens=False)
    assert len(ids) > 1
    assert criteria(ids[:-1]) == GO_ON


@given(st.integers(1, 20))
def test_a_word_is_cut_at_its_limit(tokenizer, limit):
    criteria = WordBoundaryStoppingCriteria(tokenizer, max_tokens_per_word=limit)
    (letter,) = tokenizer.encode("x", add_special_tokens=False)
    verdicts = [criteria([letter] * n) for n in range(1, limit + 1)]
    assert verdicts == [GO_ON] * (limit - 1) + [ENDED]


def test_sentencepiece_words_are_judged_by_the_piece(tokenizer):
    """A SentencePiece decoder strips the space that tells a new word from a continuation."""
    vocab = {"<unk>": 0, "</s>": 1, "▁cat": 2, "s": 3, "▁": 4, "<0x0A>": 5}
    fast = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    wrapped = TokenizerWrapper(
        PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>"), eos_token_ids=[1]
    )
    criteria = WordBoundaryStoppingCriteria(wrapped)
    assert wrapped.decode([2]) == "cat"
    assert criteria([2, 3]) == GO_ON
    assert criteria([2, 3, 2]) == LOOK_AHEAD
    assert criteria([2, 5]) == LOOK_AHEAD
    assert criteria([4, 2]) == GO_ON


def test_ids_beyond_the_vocabulary_spell_nothing(tokenizer):
    """Models have more rows than their tokenizers have tokens, and may predict one."""
    criteria = WordBoundaryStoppingCriteria(tokenizer)
    padding = len(tokenizer.get_vocab()) + 5
    assert criteria([padding]) == GO_ON
    assert criteria([padding, *tokenizer.encode(" the")]) == GO_ON
    assert not criteria.has_content([padding])


def test_other_criteria():
    assert [MaxLengthStoppingCriteria(2)(range(n)) for n in range(4)] == [False, False, True, True]
    assert EOSStoppingCriteria(7)([1, 7])
    assert not EOSStoppingCriteria([7, 8])([7, 1])
    assert not EOSStoppingCriteria([7, 8])([])


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one_are_refused(tokenizer, limit):
    with pytest.raises(InvalidOptionError, match="at least 1"):
        WordBoundaryStoppingCriteria(tokenizer, max_tokens_per_word=limit)
    with pytest.raises(InvalidOptionError, match="at least 1"):
        MaxLengthStoppingCriteria(limit)
