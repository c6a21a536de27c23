"""validate: proof that a folder holds a model that streams.

The checks are in :mod:`mlx_simul.checkpoints.folder` and :mod:`mlx_simul.testing`; here is their
order. MLX is only imported once there is something to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlx_simul.checkpoints.convert import silent
from mlx_simul.errors import ModelLoadError, PromptError, ValidationError

if TYPE_CHECKING:
    import mlx.nn as nn

    from mlx_simul.checkpoints.folder import Progress
    from mlx_simul.testing import Stream
    from mlx_simul.text.prompts import StreamingDataPreparator

Verdict: TypeAlias = Literal["ok", "note", "skipped", "FAILED"]

# Short, because the laws take 300 passes over the weights.
SOURCE_TEXT = "The 3 children aren't here yet."
TARGET_TEXT = "Les trois enfants"
WORD_TEXTS = {
    "English": "On 24 June 1999, Dr. O'Neill's co-workers (all 12!) paid $3.50 — “too much”?",
    "French": "L'été, où l'on s'ennuie, n'est-il pas déjà fini ? « Non », dit-elle.",
    "German": "Die Donaudampfschifffahrtsgesellschaft fährt übermorgen für 20 € nach Süden.",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Arabic": "ذهب الأولاد إلى الحديقة خلف البيت القديم.",
    "Hindi": "बच्चे पुराने घर के पीछे बगीचे में खेल रहे हैं।",
    "Vietnamese": "Bọn trẻ đang chơi trong khu vườn phía sau ngôi nhà cũ.",
    "code": "if (x_1 >= 0.5) { return f(x)**2; }  // see https://example.org/a?b=c#d",
    "emoji": "Well done 👏🏽 👩‍👩‍👧‍👦 !",
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: what was checked.
        verdict: ``note`` is worth knowing, and no failure.
        figure: what was found.
        tolerance: what would still have passed, where the figure is an error.
        explanation: of a verdict that is not ``ok``: what, why, what to do.
    """

    check: str
    verdict: Verdict
    figure: str = ""
    tolerance: str = ""
    explanation: str = ""


class _CheckFailed(ValidationError):
    def __init__(self, check: str, explanation: str) -> None:
        super().__init__(explanation)
        self.check = check


def validate(folder: Path, *, progress: Progress = silent) -> Iterator[Row]:
    """Prove a folder, piece by piece; what cannot be checked after a failure is left out.

    Args:
        folder: config.json, model*.safetensors and a tokenizer.
        progress: shows how far the long checks have got.

    Yields:
        A row per check.
    """
    try:
        yield from _rows(folder, progress)
    except _CheckFailed as failure:
        yield Row(failure.check, "FAILED", explanation=str(failure))


def _rows(folder: Path, progress: Progress) -> Iterator[Row]:
    from mlx_simul import archs
    from mlx_simul.checkpoints import folder as contents
    from mlx_simul.checkpoints.loading import load
    from mlx_simul.checkpoints.parameters import check_parameters
    from mlx_simul.text.prompts import StreamingDataPreparator

    with _check("config.json"):
        if not folder.is_dir():
            raise ValidationError(f"{folder} is not a folder. Name the one with config.json.")
        config = contents.read_json(folder / "config.json")
        model_type = config.get("model_type")
        archs.find(str(model_type))
    yield Row("config.json", "ok", str(model_type))

    with _check("weight files"):
        files = contents.weight_files(folder)
        stored = contents.read_headers(folder, files)
        contents.check_layers(config, len(stored))
    yield Row("weight files", "ok", f"{len(files)} safetensors, {len(stored)} tensors")

    with _check("tensor shapes"):
        parameters = check_parameters(folder, config, stored)
    yield Row("tensor shapes", "ok", f"{len(parameters.expected)} as the config has them")

    with _check("tensor values"):
        n_values = contents.check_values(stored, progress)
    yield Row("tensor values", "ok", f"{n_values:,} numbers, all finite")

    with _check("tokenizer"):
        contents.check_tokenizer_files(folder)
        model, tokenizer = load(folder)
        _check_vocabulary(tokenizer, model)
    ends = ", ".join(repr(tokenizer.decode([i])) for i in sorted(tokenizer.eos_token_ids))
    yield Row("tokenizer", "ok", f"{len(tokenizer.get_vocab()):,} entries, ends at {ends}")

    with _check("chat template"):
        prompt = StreamingDataPreparator(
            tokenizer, source_language="English", target_language="French"
        )
        stream = _stream(prompt)
    yield _template_row(tokenizer)
    yield _words_row(prompt)
    yield from _law_rows(model, stream, progress)
    yield _parity_row(folder, config, model, stream)


@contextmanager
def _check(name: str) -> Iterator[None]:
    try:
        yield
    except (ValidationError, ModelLoadError, PromptError) as error:
        raise _CheckFailed(name, str(error)) from error


def _check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    from mlx_simul.archs.base import vocab_size_of

    largest, n_embeddings = max(tokenizer.get_vocab().values()), vocab_size_of(model)
    if n_embeddings is not None and largest >= n_embeddings:
        raise ValidationError(
            f"the tokenizer has token ids up to {largest}, and the model has {n_embeddings} "
            "embeddings (vocab_size), so some text would read beyond them. The tokenizer is "
            "another model's: copy the files of the model that the weights were made from."
        )
    ends = sorted(tokenizer.eos_token_ids)
    if not any(0 <= token <= largest for token in ends):
        raise ValidationError(
            f"none of the end-of-turn tokens {ends} is in the vocabulary, which ends at {largest}, "
            "so no translation could end. Set eos_token_id in config.json, or eos_token in "
            "tokenizer_config.json."
        )


def _stream(prompt: StreamingDataPreparator) -> Stream:
    from mlx_simul.testing import Stream

    source = prompt.tokenize(SOURCE_TEXT)
    target = [*source.header, *prompt.encode_word(TARGET_TEXT, is_first=True)]
    return Stream(tuple(segment for segment in source.segments if segment), tuple(target[:6]))


def _template_row(tokenizer: Any) -> Row:
    if tokenizer.has_chat_template:
        return Row("chat template", "ok", "renders")
    return Row(
        "chat template",
        "note",
        "none",
        explanation="without a chat template, prompts use the few-shot frame for base models. If "
        "this is an instruction-tuned model, add its chat_template.jinja to the folder.",
    )


def _words_row(prompt: StreamingDataPreparator) -> Row:
    differing = {name: prompt.check_segments(text) for name, text in WORD_TEXTS.items()}
    first = next((name for name, words in differing.items() if words), None)
    n_words = sum(len(prompt.tokenize(text).segments) for text in WORD_TEXTS.values())
    figure = f"{sum(map(len, differing.values()))} of {n_words} segments differ"
    if first is None:
        return Row("tokens per word", "ok", figure)
    return Row(
        "tokens per word",
        "note",
        figure,
        explanation="this tokenizer's tokens for a text are not those of its words one by one, for "
        f"example at {differing[first][0]!r} ({first}). Streams use the tokens of the words, so "
        "they differ from an offline prompt there.",
    )


def _law_rows(model: nn.Module, stream: Stream, progress: Progress) -> Iterator[Row]:
    from mlx_simul import archs
    from mlx_simul.testing import ENGINE_OF_MODE, LAWS_OF_MODE, in_float32

    mode = archs.of(model).modes[0]
    laws = LAWS_OF_MODE[mode]
    for law in progress(laws, "Trying the laws", len(laws)):
        with in_float32(model):
            result = law(model, stream=stream, make_engine=ENGINE_OF_MODE[mode])
        yield Row(
            law.name.replace("_", " "),
            "ok" if result.holds else "FAILED",
            f"{result.error:.1e}",
            f"{result.tolerance:.0e}",
            ""
            if result.holds
            else f"{result} This architecture does not stream exactly: report "
            "it with the model's name.",
        )


def _parity_row(folder: Path, config: dict[str, Any], model: nn.Module, stream: Stream) -> Row:
    name = "logits as transformers'"
    if {"quantization", "quantization_config"} & config.keys():
        return Row(name, "skipped", explanation="transformers cannot run MLX's quantised weights.")
    if find_spec("torch") is None:
        return Row(
            name,
            "skipped",
            explanation="it needs PyTorch, which is not installed: pip install torch",
        )

    import mlx.core as mx

    from mlx_simul.testing import relative_error, tolerance_of

    ids = [*stream.source, *stream.target]
    try:
        wanted = mx.array(_transformers_logits(folder, ids))
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        return Row(name, "skipped", explanation=f"transformers cannot load this folder: {error}")
    error, tolerance = relative_error(model(mx.array([ids]))[0], wanted), tolerance_of(model)
    holds = error <= tolerance
    return Row(
        name,
        "ok" if holds else "FAILED",
        f"{error:.1e}",
        f"{tolerance:.0e}",
        ""
        if holds
        else "MLX and transformers read this checkpoint differently; a setting in "
        "config.json that mlx-lm's model does not know is the usual cause. Report it with the "
        "model's name.",
    )


def _transformers_logits(folder: Path, ids: list[int]) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        reference = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, trust_remote_code=False
        )
    finally:
        if had_bars:
            logging.enable_progress_bar()
    reference.eval()
    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0].float().numpy()
