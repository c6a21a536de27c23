"""The tokenizer from GGUF: the ids that the original gives."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import GOLDEN, tiny_metadata, write_gguf, write_tiny
from tokenizers import Tokenizer

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_tokenizer import merges_from_scores, read_tokenizer
from mlx_simul.errors import ConversionError

TEXT = st.text(max_size=30) | st.sampled_from(["I bought 12 apples", " a  b", "l'été, 1999 !\n"])


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory):
    """Return the golden tokenizer rebuilt under the name of a pre-tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def rebuild(pre: str):
        metadata = tiny_metadata("llama") | {"tokenizer.ggml.pre": pre}
        return read_tokenizer(GGUFFile(write_gguf(folder / f"{pre}.gguf", metadata)))

    return rebuild


@given(text=TEXT)
def test_the_byte_level_tokenizer_is_rebuilt(byte_level, text: str) -> None:
    rebuilt = byte_level("gpt-2")
    original = Tokenizer.from_file(str(GOLDEN / "tokenizer.json"))
    ids = rebuilt.encode(text)
    assert ids == original.encode(text).ids
    assert rebuilt.decode(ids) == text


def test_the_pre_tokenizer_decides_how_digits_are_cut(byte_level) -> None:
    text = " ab 1234567"

    def pieces(pre: str) -> list[str]:
        cut = byte_level(pre).backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [piece.replace("Ġ", " ") for piece, _ in cut]

    assert pieces("gpt-2") == [" ab", " 1234567"]
    assert pieces("smollm") == [" ab", " ", *"1234567"]
    assert pieces("qwen2") == [" ab", " ", *"1234567"]
    assert pieces("tekken") == [" ab", " ", *"1234567"]
    assert pieces("llama-bpe") == [" ab", " ", "123", "456", "7"]


def test_llama_3_knows_words_that_no_merge_makes(tmp_path: Path) -> None:
    plain = tiny_metadata("llama")
    word = {
        "tokenizer.ggml.tokens": [*plain["tokenizer.ggml.tokens"], "Ġzqxj"],
        "tokenizer.ggml.token_type": [*plain["tokenizer.ggml.token_type"], 1],
    }
    for pre, known in (("llama-bpe", True), ("qwen2", False)):
        metadata = plain | word | {"tokenizer.ggml.pre": pre}
        tokenizer = read_tokenizer(GGUFFile(write_gguf(tmp_path / "m.gguf", metadata)))
        assert (tokenizer.encode(" zqxj")[-1] == 1024) is known


def test_qwen_composes_characters_and_llama_does_not(byte_level) -> None:
    assert byte_level("qwen2").encode("e\u0301") == byte_level("qwen2").encode("é")
    assert byte_level("llama-bpe").encode("e\u0301") != byte_level("llama-bpe").encode("é")


def test_a_text_begins_with_the_begin_token_where_it_should(tmp_path: Path, byte_level) -> None:
    assert byte_level("gpt-2").encode("a")[0] != 0
    assert byte_level("llama-bpe").encode("a")[0] == 0
    metadata = tiny_metadata("llama") | {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.add_bos_token": False,
    }
    tokenizer = read_tokenizer(GGUFFile(write_gguf(tmp_path / "m.gguf", metadata)))
    assert tokenizer.encode("a")[0] != 0


def test_special_tokens_and_template_come_along(byte_level) -> None:
    tokenizer = byte_level("gpt-2")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.encode("<|im_start|>") == [1]
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>hi"


def test_padding_of_the_vocabulary_is_left_out(tmp_path: Path) -> None:
    plain = tiny_metadata("llama")
    padded = plain | {
        "tokenizer.ggml.tokens": [*plain["tokenizer.ggml.tokens"], "[PAD1024]", "[PAD1024]"],
        "tokenizer.ggml.token_type": [*plain["tokenizer.ggml.token_type"], 5, 5],
    }
    assert len(read_tokenizer(GGUFFile(write_gguf(tmp_path / "m.gguf", padded)))) == 1024


LETTERS = "▁abc"
PIECES = [*LETTERS, "ab", "▁a", "bc", "▁ab", "abc", "▁abc", "cc", "▁▁"]


def sentencepiece_metadata(**changes) -> dict:
    """A small SentencePiece model with a byte for everything that it has no piece for."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    first = len(tokens) - len(PIECES)
    merged = PIECES[len(LETTERS) :]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.scores": [0.0] * first
        + [-1e9] * len(LETTERS)
        + [-float(rank) for rank in range(len(merged))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def join_best_pairs(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, as its definition has it: join the best pair until there is none."""
    pieces = list(text)
    while True:
        pairs = [a + b for a, b in pairwise(pieces)]
        best = max((scores[pair] for pair in pairs if pair in scores), default=None)
        if best is None:
            return pieces
        at = next(i for i, pair in enumerate(pairs) if scores.get(pair) == best)
        pieces[at : at + 2] = [pairs[at]]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sentencepiece")

    def build(**changes):
        path = write_gguf(folder / "m.gguf", sentencepiece_metadata(**changes))
        return read_tokenizer(GGUFFile(path))

    return build


@given(text=st.text("abc ", min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.differing_executors])
def test_sentencepiece_joins_the_best_pairs(sentencepiece, text: str) -> None:
    scores = {piece: -float(rank) for rank, piece in enumerate(PIECES[len(LETTERS) :])}
    expected = join_best_pairs("▁" + text.replace(" ", "▁"), scores)
    tokenizer = sentencepiece()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert tokenizer.decode(ids) == text


def test_unused_pieces_are_not_made(sentencepiece) -> None:
    types = [2, 3, 3] + [6] * 256 + [5 if piece in ("▁ab", "abc") else 1 for piece in PIECES]
    for tokenizer, expected in (
        (sentencepiece(), ["▁abc"]),
        (sentencepiece(token_type=types), ["▁", "ab", "c"]),
    ):
        ids = tokenizer.encode("abc", add_special_tokens=False)
        assert tokenizer.convert_ids_to_tokens(ids) == expected


def test_the_scores_decide_the_merges() -> None:
    first = merges_from_scores({"a": 0, "b": 0, "c": 0, "ab": -1, "bc": -2})
    assert first == [("a", "b"), ("b", "c")]
    assert merges_from_scores({"a": 0, "b": 0, "c": 0, "ab": -2, "bc": -1}) == first[::-1]


def test_sentencepiece_spells_what_it_does_not_know_in_bytes(sentencepiece) -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("é", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "é"


def test_sentencepiece_begins_with_begin_and_space_unless_told(sentencepiece) -> None:
    assert sentencepiece().convert_ids_to_tokens(sentencepiece().encode("a")) == ["<s>", "▁a"]
    plain = sentencepiece(add_bos_token=False, add_space_prefix=False)
    assert plain.convert_ids_to_tokens(plain.encode("a")) == ["a"]
    assert plain.decode(plain.encode(" a")) == " a"


def test_a_text_ends_with_the_end_token_where_it_should(sentencepiece) -> None:
    tokenizer = sentencepiece(add_eos_token=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a")) == ["<s>", "▁a", "</s>"]
    tokenizer = sentencepiece(add_eos_token=True, add_bos_token=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a")) == ["▁a", "</s>"]


def test_merges_that_are_listed_go_before_scores(sentencepiece) -> None:
    merges = ["b c", "▁ a", "a bc", "▁a bc"]
    for tokenizer, expected in (
        (sentencepiece(), ["▁abc"]),
        (sentencepiece(merges=merges), ["▁abc"]),
        (sentencepiece(merges=merges[:2]), ["▁a", "bc"]),
    ):
        ids = tokenizer.encode("abc", add_special_tokens=False)
        assert tokenizer.convert_ids_to_tokens(ids) == expected


def test_scores_that_are_all_one_are_refused(sentencepiece) -> None:
    with pytest.raises(ConversionError, match="every piece of its vocabulary the score -1000"):
        sentencepiece(scores=[-1000.0] * (3 + 256 + len(PIECES)))


def test_phi_3_swallows_the_space_after_its_control_tokens(tmp_path: Path) -> None:
    tokens = {}
    for architecture in ("phi3", "llama"):
        path = write_gguf(tmp_path / "m.gguf", sentencepiece_metadata(), architecture=architecture)
        tokenizer = read_tokenizer(GGUFFile(path))
        ids = tokenizer.encode("</s> a<s> a", add_special_tokens=False)
        tokens[architecture] = tokenizer.convert_ids_to_tokens(ids)
    assert tokens["phi3"] == ["</s>", "▁a", "<s>", "▁", "▁a"]
    assert tokens["llama"] == ["</s>", "▁", "▁a", "<s>", "▁", "▁a"]


BAD_TOKENIZERS = {
    "none": ({"tokenizer.ggml.model": None}, "carries no tokenizer"),
    "another": ({"tokenizer.ggml.model": "bert"}, "of kind 'bert'. Supported: 'gpt2'"),
    "pre": ({"tokenizer.ggml.pre": "klingon"}, "'klingon' is not known. Supported: .*smollm"),
    "no pre": ({"tokenizer.ggml.pre": None}, "'missing' is not known"),
    "no merges": ({"tokenizer.ggml.merges": None}, "does not state 'tokenizer.ggml.merges'"),
    "merges": ({"tokenizer.ggml.merges": ["zz zz"]}, "the merge 'zz zz' does not fit"),
    "half a merge": ({"tokenizer.ggml.merges": ["a"]}, "the merge 'a ' does not fit"),
    "twice": ({"tokenizer.ggml.tokens": ["a"] * 1024}, "'a' appears twice"),
    "types": ({"tokenizer.ggml.token_type": [1, 1]}, "1024 tokens but 2 token types"),
    "role": ({"tokenizer.ggml.eos_token_id": 1024}, "eos_token_id is 1024"),
}


@pytest.mark.parametrize("fault", BAD_TOKENIZERS)
def test_a_bad_tokenizer_is_refused(tmp_path: Path, fault: str) -> None:
    changes, complaint = BAD_TOKENIZERS[fault]
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    with pytest.raises(ConversionError, match=complaint):
        read_tokenizer(GGUFFile(path))


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    plain = tiny_metadata("llama")
    changes = {
        "tokenizer.ggml.tokens": [*plain["tokenizer.ggml.tokens"], "more"],
        "tokenizer.ggml.token_type": [*plain["tokenizer.ggml.token_type"], 1],
    }
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    with pytest.raises(ConversionError, match="1025 tokens but embeds only 1024"):
        read_tokenizer(GGUFFile(path))


def test_missing_scores_are_refused(sentencepiece) -> None:
    with pytest.raises(ConversionError, match="but 2 scores"):
        sentencepiece(scores=[0.0, 1.0])
