"""How byte-level BPE tokenizers cut text into pieces, by the names that GGUF files have for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    """How byte-level BPE cuts text before merging, and what llama.cpp ties to that name.

    Args:
        patterns: Each cuts out the pieces that it matches; none for GPT-2's own pattern.
        split_digits: Cut digits apart first.
        whole_words: A piece that is in the vocabulary is one token, whatever the merges say.
        add_bos: Begin a text with the begin token unless the file says otherwise.
        compose: Bring text into Unicode's composed form (NFC) first.
    """

    patterns: tuple[str, ...] = ()
    split_digits: bool = False
    whole_words: bool = False
    add_bos: bool = False
    compose: bool = False


# The patterns are those of the models' own tokenizer.json.
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%s}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_GPT2 = PreTokenizer()
_NEOX = PreTokenizer(compose=True)
_DIGITS = PreTokenizer(split_digits=True)
_LLAMA3 = PreTokenizer((_CL100K % 3,), whole_words=True, add_bos=True)
_QWEN2 = PreTokenizer((_CL100K % 1,), compose=True)
PRE_TOKENIZERS = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _NEOX,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "smaug-bpe": PreTokenizer((_CL100K % 3,), whole_words=True),
    "dbrx": PreTokenizer((_CL100K % 3,)),
    "gpt-4o": PreTokenizer((_O200K,), whole_words=True),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    "qwen2": _QWEN2,
    "stablelm2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "deepseek-v3": PreTokenizer(_DEEPSEEK),
}
"""By ``tokenizer.ggml.pre``. Other names are refused: cut differently, a text gets other ids."""
