"""A tokenizer that loses no character, and a model that its config describes."""

from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from tiny_run import MODEL, PAIRS
from tokenizers import normalizers

from mlx_simul.errors import InvalidOptionError, UnknownArchitectureError
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.training.scratch import as_loaded, new_model, train_tokenizer

TEXTS = [text for pair in PAIRS for text in (pair.source, pair.target)]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, 290)


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_comes_back(trained, text):
    ids = StreamingDataPreparator(trained)._encoder.literal(text)
    assert trained.decode(ids, clean_up_tokenization_spaces=False) == normalize("NFC", text)


def test_the_prompt_is_three_tokens_around_the_source(trained):
    source = StreamingDataPreparator(trained).tokenize("red house .")
    assert list(map(len, (source.segments[0], source.segments[-1], source.header))) == [1, 1, 1]
    assert source.segments[-1] == (trained.eos_token_id,)
    assert StreamingDataPreparator(trained).check_segments("big red house .") == []


def test_frequent_words_become_tokens():
    large = train_tokenizer(TEXTS, 330)
    assert len(large.encode(" house", add_special_tokens=False)) == 1
    assert len(large.encode(" horse", add_special_tokens=False)) > 1


def test_the_same_corpus_gives_the_same_tokenizer(trained):
    assert train_tokenizer(TEXTS, 290).get_vocab() == trained.get_vocab()
    assert train_tokenizer(TEXTS, 280).get_vocab() != trained.get_vocab()


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(InvalidOptionError, match="at least 260"):
        train_tokenizer(TEXTS, 259)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama", "gemma3_text"])
def test_a_tokenizer_is_loaded_as_it_was_trained_or_refused(trained, model_type):
    config = {**MODEL, "model_type": model_type}
    texts = [*TEXTS, "J'ai 10 ans, n'est-ce pas ?", "  two  spaces", "e\u0301"]
    try:
        loaded = as_loaded(trained, config, texts)
    except InvalidOptionError as error:
        assert model_type != "qwen2"
        assert model_type in str(error)
        return
    assert loaded.get_vocab() == trained.get_vocab()
    assert [loaded.encode(text) for text in texts] == [trained.encode(text) for text in texts]


def test_a_tokenizer_that_comes_back_as_another_is_refused():
    """The negative control: it knows no capitals, and a Qwen2 tokenizer does."""
    other = train_tokenizer(TEXTS, 290)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InvalidOptionError, match="loads this tokenizer as another"):
        as_loaded(other, MODEL, ["Big Tree"])


def test_the_seed_decides_the_weights():
    first, again, other = (dict(tree_flatten(new_model(MODEL, s).parameters())) for s in (0, 0, 1))
    name = "model.embed_tokens.weight"
    assert (first[name] == again[name]).all()
    assert not (first[name] == other[name]).all()
    assert first[name].shape == (MODEL["vocab_size"], MODEL["hidden_size"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model_type": None}, InvalidOptionError, "no model_type"),
        ({"model_type": "abacus"}, UnknownArchitectureError, "abacus"),
        ({"hidden_size": None}, InvalidOptionError, "hidden_size"),
        ({"num_attention_heads": 0}, InvalidOptionError, "no model can be made"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(change, error, says):
    config = {key: value for key, value in {**MODEL, **change}.items() if value is not None}
    with pytest.raises(error, match=says):
        new_model(config)
