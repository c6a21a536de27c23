"""The tokenizer and chat template that a GGUF file carries in its metadata.

Two kinds are found in the families that can be converted: byte-level BPE (``gpt2``), whose
pre-tokenizer GGUF only names, and SentencePiece BPE (``llama``), stored as scores. Both become a
``tokenizers.Tokenizer`` of the same make as the model's own ``tokenizer.json``. transformers can
do this for some files as well, but asks for PyTorch to read them and does not know every
pre-tokenizer name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from gguf.constants import TokenType
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_pieces import PRE_TOKENIZERS, PreTokenizer
from mlx_simul.errors import ConversionError

PREFIX = "tokenizer.ggml."
SPACE = "\u2581"  # SentencePiece's stand-in for a space


def read_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """Return the file's tokenizer, its chat template included, ready for ``save_pretrained``.

    Raises:
        ConversionError: if the file carries no tokenizer, one of another kind, or half of one.
    """
    kind = file.get(f"{PREFIX}model", str, "")
    if kind == "gpt2":
        tokenizer, begins = _byte_level(file)
    elif kind == "llama":
        tokenizer, begins = _sentencepiece(file)
    else:
        raise ConversionError(
            f"{file.path} carries a tokenizer of kind {kind!r}. Supported: 'gpt2' (byte-level "
            "BPE) and 'llama' (SentencePiece). Convert the safetensors checkpoint instead."
            if kind
            else f"{file.path} carries no tokenizer. Convert the safetensors checkpoint instead."
        )
    special = _special_tokens(file)
    begins = file.get(f"{PREFIX}add_bos_token", bool, begins) and "bos_token" in special
    ends = file.get(f"{PREFIX}add_eos_token", bool, False) and "eos_token" in special
    if begins or ends:
        bos = [special["bos_token"]] if begins else []
        eos = [special["eos_token"]] if ends else []
        second = [f"{part}:1" for part in (*bos, "$B", *eos)]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single=[*bos, "$A", *eos],
            pair=[*bos, "$A", *eos, *second],
            special_tokens=[(one, tokenizer.token_to_id(one)) for one in (*bos, *eos)],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    )
    template = file.get("tokenizer.chat_template", str, "")
    if template:
        fast.chat_template = template
    return fast


def _byte_level(file: GGUFFile) -> tuple[Tokenizer, bool]:
    """Return the byte-level BPE tokenizer, and whether its texts begin with the begin token."""
    pre = _pre_tokenizer(file)
    tokens, types = _vocabulary(file)
    file.get(f"{PREFIX}merges", list)
    tokenizer = _bpe(file, tokens, _stated_merges(file), ignore_merges=pre.whole_words)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if pre.split_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps += [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre.patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre.patterns))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)  # pyright: ignore
    if pre.compose:
        tokenizer.normalizer = normalizers.NFC()  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    _add_tokens(tokenizer, tokens, types)
    return tokenizer, pre.add_bos


def _pre_tokenizer(file: GGUFFile) -> PreTokenizer:
    # Files older than this key cut text in a way that no model was trained with.
    default = "qwen2" if file.get("general.architecture", str) == "qwen2" else "missing"
    name = file.get(f"{PREFIX}pre", str, default)
    if name not in PRE_TOKENIZERS:
        raise ConversionError(
            f"{file.path}: the pre-tokenizer {name!r} is not known. Supported: "
            f"{', '.join(sorted(PRE_TOKENIZERS))}. If the model uses one of these, name it with "
            "gguf-new-metadata --pre-tokenizer; otherwise convert the safetensors checkpoint."
        )
    return PRE_TOKENIZERS[name]


def _sentencepiece(file: GGUFFile) -> tuple[Tokenizer, bool]:
    """Return the SentencePiece BPE tokenizer; its texts begin with the begin token."""
    tokens, types = _vocabulary(file)
    unknown = file.get(f"{PREFIX}unknown_token_id", int, 0)
    tokenizer = _bpe(
        file,
        tokens,
        _stated_merges(file) or _scored_merges(file, tokens, types),
        unk_token=tokens[unknown] if unknown < len(tokens) else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    begins_with_space = file.get(f"{PREFIX}add_space_prefix", bool, True)
    to_stand_in = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (  # pyright: ignore
        normalizers.Sequence([normalizers.Prepend(SPACE), to_stand_in])
        if begins_with_space
        else to_stand_in
    )
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if begins_with_space:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)  # pyright: ignore
    _add_tokens(tokenizer, tokens, types, _strips(file))
    return tokenizer, True


def _strips(file: GGUFFile) -> frozenset[str]:
    """Return the added tokens that swallow the white space after them.

    The metadata do not say it, so llama.cpp knows Phi 3 by its name: all of them but three.
    """
    if file.get("general.architecture", str) != "phi3":
        return frozenset()
    return frozenset(file.get(f"{PREFIX}tokens", list)) - {"<unk>", "<s>", "<|endoftext|>"}


def _stated_merges(file: GGUFFile) -> list[tuple[str, str]]:
    """Return the merges that the file lists, if it does."""
    if f"{PREFIX}merges" not in file.metadata:
        return []
    halves = (merge.partition(" ") for merge in file.get(f"{PREFIX}merges", list))
    return [(left, right) for left, _, right in halves]


def _scored_merges(file: GGUFFile, tokens: list[str], types: list[int]) -> list[tuple[str, str]]:
    """Return the merges that the scores of the pieces stand for."""
    scores = file.get(f"{PREFIX}scores", np.ndarray)[: len(tokens)].tolist()
    if len(scores) != len(tokens):
        raise ConversionError(
            f"{file.path} has {len(tokens)} tokens but {len(scores)} scores. It is damaged."
        )
    normal = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind == TokenType.NORMAL
    }
    joined = {score for token, score in normal.items() if len(token) > 1}
    if len(joined) == 1 and sum(len(token) > 1 for token in normal) > 1:
        # What the converter wrote where it had a tokenizer.json and not a tokenizer.model.
        raise ConversionError(
            f"{file.path} gives every piece of its vocabulary the score {joined.pop()}, so it does "
            "not say which are joined first. Convert the safetensors checkpoint, or use a file "
            "that was made from a folder with tokenizer.model."
        )
    return merges_from_scores(normal)


def merges_from_scores(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the BPE merges, best first, that SentencePiece's scores stand for.

    SentencePiece joins whichever two neighbours make the piece of the highest score, so every way
    to split a piece into two pieces is a merge of that piece's rank.

    Args:
        scores: The score of each piece, in the order of their ids.
    """
    order = {piece: index for index, piece in enumerate(scores)}
    merges = [
        (-score, order[piece[:cut]], order[piece[cut:]], (piece[:cut], piece[cut:]))
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in order and piece[cut:] in order
    ]
    return [merge for *_, merge in sorted(merges)]


def _vocabulary(file: GGUFFile) -> tuple[list[str], list[int]]:
    """Return the tokens and their types, without the unused ones that pad the vocabulary."""
    tokens = file.get(f"{PREFIX}tokens", list)
    types = file.get(
        f"{PREFIX}token_type", np.ndarray, np.full(len(tokens), TokenType.NORMAL)
    ).tolist()
    if not tokens or len(types) != len(tokens):
        raise ConversionError(
            f"{file.path} has {len(tokens)} tokens but {len(types)} token types. It is damaged."
        )
    if "token_embd.weight" in file.tensors and len(tokens) > file.shape("token_embd.weight")[0]:
        raise ConversionError(
            f"{file.path} has {len(tokens)} tokens but embeds only "
            f"{file.shape('token_embd.weight')[0]}. It is damaged."
        )
    used = len(tokens)
    while used > 1 and types[used - 1] == TokenType.UNUSED:
        used -= 1
    twice, count = Counter(tokens[:used]).most_common(1)[0]
    if count > 1:
        raise ConversionError(
            f"{file.path}: the token {twice!r} appears twice in the vocabulary, so text has no "
            "single spelling in ids. Convert the safetensors checkpoint instead."
        )
    return tokens[:used], types[:used]


def _bpe(file: GGUFFile, tokens: list[str], merges: list[tuple[str, str]], **options) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    for merge in merges:
        if not {*merge, "".join(merge)} <= vocab.keys():
            raise ConversionError(
                f"{file.path}: the merge {' '.join(merge)!r} does not fit the vocabulary. The "
                "tokenizer is damaged: download the file again."
            )
    return Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))


def _add_tokens(
    tokenizer: Tokenizer,
    tokens: list[str],
    types: list[int],
    strips: Collection[str] = (),
) -> None:
    """Keep control tokens and the author's own tokens whole, wherever they stand in a text."""
    for kinds, special in (
        ((TokenType.CONTROL, TokenType.UNKNOWN), True),
        ((TokenType.USER_DEFINED,), False),
    ):
        tokenizer.add_tokens(
            [
                AddedToken(token, normalized=False, special=special, rstrip=token in strips)
                for token, kind in zip(tokens, types, strict=True)
                if kind in kinds
            ]
        )


def _special_tokens(file: GGUFFile) -> dict[str, str]:
    """Return the tokens with a role (begin, end, unknown, padding), as transformers names them."""
    tokens = file.get(f"{PREFIX}tokens", list)
    special = {}
    for name, key in (
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ):
        if f"{PREFIX}{key}_token_id" not in file.metadata:
            continue
        token_id = file.get(f"{PREFIX}{key}_token_id", int)
        if not 0 <= token_id < len(tokens):
            raise ConversionError(
                f"{file.path}: {PREFIX}{key}_token_id is {token_id}, but there are only "
                f"{len(tokens)} tokens. It is damaged."
            )
        special[name] = tokens[token_id]
    return special
