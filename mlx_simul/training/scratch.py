"""A tokenizer and a model from nothing but a corpus and a config."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from mlx_simul import archs
from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.arithmetic import check_arithmetic

SOURCE, END, TARGET = "<|source|>", "<|end|>", "<|target|>"
"""Prefix, suffix and end of turn, and header: a token each."""

PADDING = "<|endoftext|>"
"""Never used; transformers would add it to any Qwen2 tokenizer that lacks it."""

# How Qwen2 cuts a text before it joins bytes. transformers puts this, and NFC, into every tokenizer
# it loads beside a Qwen2 model, whatever its file says, so ours is trained with it.
_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|target|>' if message['role'] == 'assistant' else '<|source|>' }}"
    "{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|target|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE like Qwen2's, whose chat template is three tokens.

    Args:
        texts: source and target texts.
        vocab_size: entries, four control tokens and 256 bytes included.

    Raises:
        InvalidOptionError: if there is no room for the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    control = [END, SOURCE, TARGET, PADDING]
    if vocab_size < len(alphabet) + len(control):
        raise InvalidOptionError(
            f"vocab_size must be at least {len(alphabet) + len(control)} (every byte and the "
            f"control tokens), got {vocab_size}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore
        [
            pre_tokenizers.Split(Regex(_QWEN2_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=control,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def as_loaded(
    tokenizer: PreTrainedTokenizerFast, config: Mapping[str, Any], texts: Iterable[str]
) -> TokenizerWrapper:
    """A new tokenizer as :func:`mlx_simul.load` will give it back.

    Args:
        tokenizer: new.
        config: of the model beside it; what transformers makes of a tokenizer depends on it.
        texts: to compare the two on.

    Raises:
        InvalidOptionError: if it comes back as another one.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(dict(config)), "utf-8")
        loaded = load_tokenizer(folder)
    same_ids = all(loaded.encode(text) == tokenizer.encode(text) for text in texts)
    if not same_ids or loaded.get_vocab() != tokenizer.get_vocab():
        raise InvalidOptionError(
            f"beside a model of type {config['model_type']!r} transformers loads this tokenizer as "
            "another one; choose a model_type that leaves it alone, such as 'qwen2'."
        )
    return loaded


def new_model(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Make a model with random weights.

    Args:
        config: as in config.json; ``model_type`` must be registered.
        seed: of the weights.

    Raises:
        InvalidOptionError: if the config lacks something or contradicts itself.
        UnknownArchitectureError: if its ``model_type`` does not stream.
    """
    if "model_type" not in config:
        raise InvalidOptionError(
            "the config of a new model has no model_type; `mlx-simul models` lists what streams."
        )
    check_arithmetic()
    model_class, args_class = archs.find(config["model_type"]).classes
    mx.random.seed(seed)
    try:
        model = model_class(args_class.from_dict(dict(config)))  # pyright: ignore
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidOptionError(f"no model can be made from this config: {error}.") from error
    mx.eval(model.parameters())
    return model
