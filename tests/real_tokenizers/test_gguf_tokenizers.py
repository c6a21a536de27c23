"""Tokenizers of real models, through a GGUF file and back (tox -e real-tokenizers)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from fetch import FOLDER, FOR_GGUF, SOURCES
from test_real_tokenizers import ENGLISH, EVIL, MULTILINGUAL
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_split import open_gguf
from mlx_simul.checkpoints.gguf_tokenizer import read_tokenizer
from mlx_simul.errors import ConversionError

pytestmark = pytest.mark.real_tokenizers

# What llama.cpp's converter calls their way of cutting text; None for SentencePiece.
PRE = {
    "qwen3": "qwen2",
    "llama3_1": "llama-bpe",
    "llama3": "llama-bpe",
    "gptoss": "gpt-4o",
    "gpt35turbo": "dbrx",
    "deepseek_v3": "deepseek-v3",
    "llama2": None,
    "mistral_v1": None,
    "mistral_v3": None,
}
GEMMA = FOLDER.parent / "gemma-3-270m-q4_k_m.gguf"
TEXTS = [
    ENGLISH,
    MULTILINGUAL,
    EVIL,
    "",
    " ",
    " a",
    "a  b   c    d",
    "line\n\nline\n\n\n  indented\t\ttabs\r\n",
    "12 345 6789 3.14159 2026-11-29 ½ ² ٣ ४",
    "I'VE you're WE'LL l'été d'où O'Brien's",
    "Ich möchte Fußball spielen. Ça va? ¿Qué tal? Zażółć gęślą jaźń. Příliš žluťoučký kůň.",
    "Съешь ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを。漢字とカタカナ。我能吞下玻璃而不伤身体。",
    "나는 유리를 먹을 수 있어요. ဖန်စားနိုင်တယ်။ ខ្ញុំអាចញុំកញ្ចក់បាន។",
    "أنا قادر على أكل الزجاج. אני יכול לאכול זכוכית. मैं काँच खा सकता हूँ। ฉันกินกระจกได้",
    "e\u0301 A\u030a ﬁ Ⅷ ㍿ \u1e9b\u0323 \ufeff \u200b \u00ad zero\u200dwidth",
    "👩\u200d👩\u200d👧 🇫🇷🇩🇪 👍🏽 🏴\U000e0067\U000e0062\U000e007f ∑∫√ →←",
    "def f(x):\n    return x**2  # comment\n\nclass A:\n\tpass\n",
    "<html><body>&amp;</body></html> <unused7> [multimodal] <mask> <table> </h1>",
]


@functools.cache
def original(name: str) -> PreTrainedTokenizerBase:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{FOLDER / name} does not exist; it is made by tests/real_tokenizers/fetch.py")
    return AutoTokenizer.from_pretrained(FOLDER / name, trust_remote_code=False)


@functools.cache
def metadata_of(name: str) -> dict[str, Any]:
    """What llama.cpp's converter writes of a tokenizer."""
    tokenizer = original(name)
    config = json.loads((FOLDER / name / "tokenizer_config.json").read_text("utf-8"))
    if PRE[name] is not None:
        found = byte_level(tokenizer, FOLDER / name) | {"pre": PRE[name]}
    elif (FOLDER / name / "tokenizer.model").is_file():
        found = sentencepiece(FOLDER / name / "tokenizer.model")
    else:
        found = llama_2(FOLDER / name)
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = getattr(tokenizer, f"{role}_token_id")
        if token_id is not None:
            found[f"{key}_token_id"] = token_id
    for flag in ("add_bos_token", "add_eos_token"):
        if flag in config:
            found[flag] = bool(config[flag])
    entries = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    if tokenizer.chat_template:
        entries["tokenizer.chat_template"] = tokenizer.chat_template
    return entries


def byte_level(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """``get_vocab_base`` of the converter, and the merges as ``SpecialVocab`` writes them."""
    added = tokenizer.added_tokens_decoder
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for index in range(max(by_id) + 3):
        if index not in by_id:
            tokens.append(f"[PAD{index}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        token, kind = by_id[index], gguf.TokenType.NORMAL
        if index in added:
            looks_special = token.startswith(("<|", "<｜")) and token.endswith(("|>", "｜>"))
            special = added[index].special or looks_special
            kind = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
        tokens.append(token)
        types.append(kind)
    merges = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [int(kind) for kind in types],
        "merges": merges,
    }


def sentencepiece(path: Path) -> dict[str, Any]:
    """``_create_vocab_sentencepiece`` of the converter."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(str(path))
    ids = range(model.vocab_size())
    kinds = (
        (model.IsUnknown, gguf.TokenType.UNKNOWN),
        (model.IsControl, gguf.TokenType.CONTROL),
        (model.IsUnused, gguf.TokenType.UNUSED),
        (model.IsByte, gguf.TokenType.BYTE),
    )
    normal = gguf.TokenType.NORMAL
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [model.IdToPiece(i) for i in ids],
        "scores": [model.GetScore(i) for i in ids],
        "token_type": [int(next((k for is_, k in kinds if is_(i)), normal)) for i in ids],
    }


def llama_2(folder: Path) -> dict[str, Any]:
    """The same for Llama 2, without its tokenizer.model: the merges go by the pieces' scores."""
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merged = [merge.replace(" ", "") for merge in model["merges"]]
    scores = {piece: -float(rank) for rank, piece in reversed(list(enumerate(merged)))}
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [scores.get(token, -1e9) for token in tokens],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
    }


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("gguf")

    @functools.cache
    def build(name: str) -> PreTrainedTokenizerBase:
        path = llama_cpp.write(folder / f"{name}.gguf", "llama", metadata_of(name), {})
        read_tokenizer(GGUFFile(path)).save_pretrained(folder / name)
        return AutoTokenizer.from_pretrained(folder / name, trust_remote_code=False)

    return build


@functools.cache
def original_ids(name: str) -> list[list[int]]:
    """The ids of all texts, by the tokenizer's own file."""
    original(name)
    if (FOLDER / name / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(FOLDER / name / "tokenizer.json"))
        return [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(str(FOLDER / name / "tokenizer.model")).encode(TEXTS)


def differences(name: str, rebuilt: PreTrainedTokenizerBase) -> list[str]:
    """The texts that a tokenizer does not spell as the original does."""
    ids = [rebuilt.encode(text, add_special_tokens=False) for text in TEXTS]
    by_model = not (FOLDER / name / "tokenizer.json").is_file()
    return [
        text
        for text, ours, theirs in zip(TEXTS, ids, original_ids(name), strict=True)
        # A SentencePiece model alone takes control tokens in a text for text.
        if ours != theirs and not (by_model and text == EVIL)
    ]


@pytest.mark.parametrize("name", PRE)
def test_texts_have_the_original_ids(rebuilt, name: str) -> None:
    assert differences(name, rebuilt(name)) == []


@pytest.mark.parametrize("name", PRE)
def test_texts_begin_and_end_as_the_file_says(rebuilt, name: str) -> None:
    metadata = metadata_of(name)
    begins = metadata.get("tokenizer.ggml.add_bos_token", PRE[name] in (None, "llama-bpe"))
    begin = [rebuilt(name).bos_token_id] if begins else []
    for text, ids in zip(TEXTS, original_ids(name), strict=True):
        if text != EVIL:
            assert rebuilt(name).encode(text) == begin + ids


@pytest.mark.parametrize("name", PRE)
def test_ids_have_the_original_texts(rebuilt, name: str) -> None:
    for text in TEXTS:
        ids = original(name).encode(text, add_special_tokens=False)
        assert rebuilt(name).decode(ids) == original(name).decode(ids)


@pytest.mark.parametrize("name", PRE)
def test_roles_and_template_are_the_original_ones(rebuilt, name: str) -> None:
    ours, theirs = rebuilt(name), original(name)
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, role) == getattr(theirs, role)
    assert ours.chat_template == theirs.chat_template
    assert {i for i, token in theirs.added_tokens_decoder.items() if token.special} <= {
        i for i, token in ours.added_tokens_decoder.items() if token.special
    }


@pytest.mark.parametrize(
    ("name", "pre"), [("qwen3", "llama-bpe"), ("llama3_1", "qwen2"), ("gptoss", "gpt-2")]
)
def test_another_way_of_cutting_shows(tmp_path: Path, name: str, pre: str) -> None:
    metadata = metadata_of(name) | {"tokenizer.ggml.pre": pre}
    path = llama_cpp.write(tmp_path / "m.gguf", "llama", metadata, {})
    assert differences(name, read_tokenizer(GGUFFile(path)))


def test_scores_that_say_nothing_are_refused(tmp_path: Path) -> None:
    metadata = metadata_of("llama2")
    same = [-1000.0] * len(metadata["tokenizer.ggml.tokens"])
    metadata = metadata | {"tokenizer.ggml.scores": same}
    path = llama_cpp.write(tmp_path / "m.gguf", "llama", metadata, {})
    with pytest.raises(ConversionError, match=r"every piece of its vocabulary the score -1000.0"):
        read_tokenizer(GGUFFile(path))


def test_gemmas_own_file_has_gemmas_tokenizer() -> None:
    if not GEMMA.is_file():
        pytest.skip(f"{GEMMA} does not exist; it is fetched by tox -e real-weights")
    assert differences("gemma3", read_tokenizer(open_gguf(GEMMA))) == []


def test_every_source_is_compared() -> None:
    assert {*PRE, "gemma3"} == {*SOURCES, *FOR_GGUF}
