"""Tokenizers and chat templates as they occur in the wild, small enough to read."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_CHARACTERS = ["▁", *string.ascii_letters, *string.digits, *".,?!:;'-<>[]/|_", *"éàç你好世"]
_MERGES = [
    *[("t", "h"), ("th", "e"), ("▁", "the"), ("e", "r"), ("o", "n"), ("▁", "g"), ("o", "d")],
    *[("▁g", "o"), ("▁go", "od"), ("▁", "a"), ("▁", "▁"), ("▁", "m"), ("▁m", "or"), ("o", "r")],
]


def sentencepiece_bpe(marks_start: str = "first", **options: Any) -> PreTrainedTokenizerFast:
    """A BPE model with byte fallback, as Llama 2, Mistral and Gemma have.

    Args:
        marks_start: where a "▁" is put unasked: "normalizer" and "first", before a text (Llama 2,
            old and new conversion); "never" (Gemma 3).
        options: for PreTrainedTokenizerFast.
    """
    merged = [left + right for left, right in _MERGES]
    entries = dict.fromkeys([*_SPECIAL, *_BYTES, *_CHARACTERS, *merged])
    vocabulary = {piece: i for i, piece in enumerate(entries)}
    backend = Tokenizer(
        models.BPE(vocabulary, _MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    spell = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if marks_start == "normalizer":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    elif marks_start == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Replace(" ", "▁")
    if marks_start != "never":
        spell.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(spell)
    return _finished(backend, **options)


def sentencepiece_unigram(**options: Any) -> PreTrainedTokenizerFast:
    """A Unigram model with byte fallback that marks the start of every word."""
    pieces = dict.fromkeys([*_SPECIAL, *_BYTES, *_CHARACTERS, "▁the", "▁good", "ing", "▁a"])
    scores = [(piece, -10.0 if len(piece) == 1 else -5.0) for piece in pieces]
    backend = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="always")]
    )
    return _finished(backend, **options)


def _finished(backend: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **options)


CHATML = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML
)

DROPS_SYSTEM = CHATML.replace("in messages %}", "in messages if message['role'] != 'system' %}")

INST = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}\
{{ raise_exception('no system role') }}{% endif %}[INST] {{ message['content'] }} [/INST]\
{% endfor %}"""

OPENS_THOUGHT = CHATML.replace("assistant\n", "assistant\n<think>\n")

SWITCHES_THOUGHT = CHATML.replace(
    "assistant\n",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}",
)
