"""The options of a training run: checked at once, and written into what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date as Date
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.prompts import Frame

WaitChoice: TypeAlias = int | None
"""Words to wait; ``None`` for the whole source."""


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise InvalidOptionError(f"{name} must be {rule}, got {value!r}.")


def _is_day(value: str | None) -> bool:
    try:
        return value is None or bool(Date.fromisoformat(value))
    except ValueError:
        return False


def _require_seed(value: int, name: str) -> None:
    _require(0 <= value < 2**31, name, value, "from 0 to 2**31 - 1")


@dataclass(frozen=True)
class LayoutOptions:
    """How a pair is laid out and who sees whom; a checkpoint remembers it.

    Attributes:
        mode: ``"group"`` (SPEC section 5), or ``"batch"``: the target follows the whole source, as
            in an ordinary language model, to which latencies and φ do not matter; for comparison.
        target_start: φ; two numbers mean that each sample draws one from that range, ends included.
        wait_k: the latencies to train; each sample draws one. ``None`` is the whole source.
        instruction: stands in the prefix.
        source_language: for the default instruction.
        target_language: the same for the target.
        frame: ``"chat"``, ``"few-shot"`` or ``"auto"``.
        date: what a chat template that prints the date takes for today, as in ``"2026-07-30"``; by
            default the day on which the run began, in all of its legs.
        max_tokens_per_word: tokens after which a target word is cut.
        gpe_compat: mask the rows inside the header as the reference does (SPEC section 5).
    """

    mode: Literal["group", "batch"] = "group"
    target_start: int | tuple[int, int] = 64
    wait_k: tuple[WaitChoice, ...] = (1, 2, 3, 4, 5, 7, 9, None)
    instruction: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    frame: Frame = "auto"
    date: str | None = None
    max_tokens_per_word: int = 50
    gpe_compat: bool = False

    def __post_init__(self) -> None:
        _require(self.mode in ("group", "batch"), "mode", self.mode, "'group' or 'batch'")
        _require(_is_day(self.date), "date", self.date, "a day as in '2026-07-30'")
        low, high = self.target_starts
        _require(
            0 <= low <= high,
            "target_start",
            self.target_start,
            "a position from 0 on, or two of them, the smaller first",
        )
        _require(
            bool(self.wait_k) and all(k is None or k >= 1 for k in self.wait_k),
            "wait_k",
            self.wait_k,
            "one or more numbers from 1 on, or None for the whole source",
        )

    @property
    def target_starts(self) -> tuple[int, int]:
        """The smallest and the largest φ."""
        start = self.target_start
        return (start, start) if isinstance(start, int) else start


@dataclass(frozen=True)
class BatchOptions:
    """How examples become batches.

    Attributes:
        max_tokens: tokens of a batch, padding included.
        passage_rate: the share of passages among the samples, the rest being single pairs.
        passage_pairs: the most pairs in a passage; each has two or more.
        pool_pairs: pairs among which those of like length are put together.
        seed: of the order, of the passages and of what each sample draws.
    """

    max_tokens: int = 2200
    passage_rate: float = 0.1
    passage_pairs: int = 4
    pool_pairs: int = 16384
    seed: int = 0

    def __post_init__(self) -> None:
        _require_seed(self.seed, "batches.seed")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(0 <= self.passage_rate <= 1, "passage_rate", self.passage_rate, "from 0 to 1")
        _require(self.passage_pairs >= 2, "passage_pairs", self.passage_pairs, "at least 2")
        _require(self.pool_pairs >= 1, "pool_pairs", self.pool_pairs, "at least 1")


@dataclass(frozen=True)
class AugmentOptions:
    """How clean pairs are changed to look like live sources; all of it is off by default.

    A rate is a share of the samples, drawn from ``batches.seed``. A source has one of the three
    spellings at most; the other changes combine freely. They expect spaces between words.

    Attributes:
        lower_case_rate: sources in lower case.
        unpunctuated_rate: sources without punctuation; marks inside words stay.
        caption_rate: sources with neither, as many recognisers write.
        disfluent_rate: sources with fillers and repeated words, as people speak.
        fillers: those that may be put in.
        cut_rate: turns that end or begin in mid-sentence, with the half of the target that
            translates them. Word links learned from the pairs say where a cut is possible; a pair
            without such a place stays whole.
        values_rate: pairs whose numbers and times of day, where both texts hold the same digits,
            become others.
        names_rate: pairs whose names, where both texts hold them, become others of their group.
        names: groups of names that may stand for each other in both languages: of one gender, say,
            and all with a consonant first where an article depends on it.
        history_rate: samples with finished pairs before them, as earlier turns (SPEC section 8).
        history_pairs: the most of them; each such sample has one or more.
    """

    lower_case_rate: float = 0.0
    unpunctuated_rate: float = 0.0
    caption_rate: float = 0.0
    disfluent_rate: float = 0.0
    fillers: tuple[str, ...] = ("uh", "um", "er")
    cut_rate: float = 0.0
    values_rate: float = 0.0
    names_rate: float = 0.0
    names: tuple[tuple[str, ...], ...] = ()
    history_rate: float = 0.0
    history_pairs: int = 3

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name.endswith("_rate"):
                rate = getattr(self, item.name)
                _require(0 <= rate <= 1, f"augment.{item.name}", rate, "from 0 to 1")
        spelled = self.lower_case_rate + self.unpunctuated_rate + self.caption_rate
        _require(
            spelled <= 1,
            "lower_case_rate + unpunctuated_rate + caption_rate",
            spelled,
            "at most 1, since a source has one spelling",
        )
        _require(self.history_pairs >= 1, "augment.history_pairs", self.history_pairs, "at least 1")
        _require(
            bool(self.names) or not self.names_rate,
            "augment.names",
            self.names,
            "groups of names, since augment.names_rate is not 0",
        )
        names = [name for group in self.names for name in group]
        twice = sorted({name for name in names if names.count(name) > 1})
        _require(not twice, "augment.names", twice, "in one group each, once")
        for name in (*self.fillers, *names):
            _require(
                bool(name) and not any(c.isspace() for c in name),
                "a name or a filler under augment",
                name,
                "one word",
            )


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW and its schedule.

    Attributes:
        learning_rate: the highest learning rate.
        schedule: what follows the warm-up: ``"cosine"`` falls to a tenth over all steps,
            ``"constant"`` stays, and falls to zero in a straight line over the last
            ``decay_steps``.
        steps: optimiser steps in all.
        warmup_steps: steps in which the learning rate rises from zero.
        decay_steps: steps of the fall of ``"constant"``.
        weight_decay: decay of matrices; vectors have none.
        beta2: AdamW's second momentum.
        max_grad_norm: gradients are scaled down to this norm.
        accumulate: batches per step.
        label_smoothing: share of the target probability that is spread over the vocabulary.
        dropout: share of each block's contributions that is left out in training.
        average: decay per step of the weights' moving average; 0 for none.
    """

    learning_rate: float = 1.5e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: int = 10_000
    warmup_steps: int = 400
    decay_steps: int = 0
    weight_decay: float = 0.01
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    accumulate: int = 1
    label_smoothing: float = 0.1
    dropout: float = 0.0
    average: float = 0.0

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        _require(
            self.schedule in ("cosine", "constant"),
            "schedule",
            self.schedule,
            "'cosine' or 'constant'",
        )
        for name, lowest in (("steps", 1), ("accumulate", 1), ("warmup_steps", 0)):
            value = getattr(self, name)
            _require(value >= lowest, name, value, f"at least {lowest}")
        _require(
            0 <= self.decay_steps <= self.steps, "decay_steps", self.decay_steps, "from 0 to steps"
        )
        for name in ("weight_decay", "beta2", "label_smoothing", "dropout", "average"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, value, "from 0 to below 1")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "positive")


@dataclass(frozen=True)
class DataOptions:
    """Where the pairs are.

    Attributes:
        train: a file, or the id of a Hugging Face dataset; see :mod:`mlx_simul.evaluation.pairs`.
        valid: the same for validation; ``None`` for none.
        source_key: where a record holds the source.
        target_key: where it holds the target.
        train_split: which part of a Hugging Face dataset.
        valid_split: the same for ``valid``.
    """

    train: str
    valid: str | None = None
    source_key: str = "source"
    target_key: str = "target"
    train_split: str = "train"
    valid_split: str = "validation"


@dataclass(frozen=True)
class ModelOptions:
    """What is trained: a checkpoint, or a new model.

    Attributes:
        path: a folder or a Hugging Face repository to fine-tune.
        config: the config.json of a new model; its vocabulary is trained on the corpus.
        fine_tune: ``"full"``, or adapters on a checkpoint: ``"lora"`` or ``"dora"``.
        layers: how many layers, from the last, get adapters; -1 for all.
        rank: the rank of the adapters.
        scale: the scale of the adapters.
        seed: of new weights.

    Raises:
        InvalidOptionError: unless exactly one of ``path`` and ``config`` is given.
    """

    path: str | None = None
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    fine_tune: Literal["full", "lora", "dora"] = "full"
    layers: int = -1
    rank: int = 8
    scale: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.config):
            raise InvalidOptionError(
                "say what to train: either model.path, a checkpoint, or model.config, the config "
                "of a new model."
            )
        _require(
            self.fine_tune == "full" or self.path is not None,
            "model.fine_tune",
            self.fine_tune,
            "'full' for a new model, since adapters need a checkpoint below them",
        )
        _require_seed(self.seed, "model.seed")
        _require(self.rank >= 1, "model.rank", self.rank, "at least 1")


@dataclass(frozen=True)
class RunOptions:
    """How a run reports, and when it stops.

    Attributes:
        folder: where the run writes; a run that finds a snapshot there goes on from it.
        log_steps: how many steps each line of the log stands for.
        snapshot_minutes: minutes between snapshots.
        validate_steps: steps between validations; there is one before the first, too.
        validate_wait_k: the latencies at which the validation loss is measured.
        validate_pairs: the most pairs it is measured on.
        bleu_sources: sources that are translated for BLEU after each validation; 0 for none.
        bleu_wait_k: the latencies at which they are.
        patience: validations without a better loss after which the run ends; 0 for never.
        minutes: minutes after which this leg ends; 0 for no limit.
        plot: draw the losses at each snapshot; needs matplotlib.
    """

    folder: str
    log_steps: int = 20
    snapshot_minutes: float = 10.0
    validate_steps: int = 500
    validate_wait_k: tuple[WaitChoice, ...] = (3, None)
    validate_pairs: int = 1000
    bleu_sources: int = 0
    bleu_wait_k: tuple[WaitChoice, ...] = (3, None)
    patience: int = 0
    minutes: float = 0.0
    plot: bool = False

    def __post_init__(self) -> None:
        for name in ("log_steps", "validate_steps", "validate_pairs"):
            _require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "at least 1")
        for name in ("snapshot_minutes", "bleu_sources", "patience", "minutes"):
            _require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True)
class TrainOptions:
    """A whole run."""

    data: DataOptions
    model: ModelOptions
    run: RunOptions
    layout: LayoutOptions = LayoutOptions()
    batches: BatchOptions = BatchOptions()
    augment: AugmentOptions = AugmentOptions()
    optimiser: OptimiserOptions = OptimiserOptions()
