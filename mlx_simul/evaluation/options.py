"""What an evaluation is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.units import UNITS, Unit, bleu_tokenizer_of, unit_of
from mlx_simul.policies import WHOLE, parse_policy

Clock: TypeAlias = Literal["wall", "cpu"]

CLOCK_NAMES: tuple[Clock, ...] = ("wall", "cpu")
AUTO: Final = "auto"
DEFAULT_POLICIES = (*(f"wait-k:{k}" for k in (1, 3, 5, 7, 9)), WHOLE)


def _cli(default: Any = MISSING, flag: str = "", metavar: str = "") -> Any:
    """A field, and how the command line spells it."""
    return field(default=default, metadata={"flag": flag, "metavar": metavar})


@dataclass(frozen=True)
class EvaluationOptions:
    """A whole evaluation.

    Attributes:
        corpus: the test set: .tsv or .jsonl of pairs, those of one source being its references;
            with references, a text file with a source a line; or the id of a Hugging Face dataset.
        folder: for records, logs, figures and plots; an evaluation in it is resumed.
        model: folder or repository id; the packaged model by default.
        references: text files with a translation a line.
        policies: to evaluate, by name.
        baseline: the policy that others are compared with; the whole source if it is among them,
            else the first.
        adapter: LoRA or DoRA adapters.
        allow_unverified: try the laws on a model of a type that is not registered.
        source_key: where a JSON record holds the source.
        target_key: where it holds the translation, or a list of them.
        split: which part of a Hugging Face dataset.
        talks: the test set is talks, each heard as one stream; a blank line ends a talk.
        sentences_per_talk: cut the test set into talks of this many sentences instead.
        n_sources: take only this many sources, or talks, from the first.
        unit: what target text is counted in for latency; "auto" is characters where most of what
            the references say is in scripts without spaces, else words.
        word_ms: milliseconds from one source word of speech to the next, for computation-aware
            scores, and for all scores of talks without times.
        clock: how time is measured: by the wall clock, or by the work of the process, which others
            on the machine do not slow down.
        bleu_tokenizer: sacrebleu's; "auto" is "13a" where words are counted, "zh" for Chinese, else
            "char".
        quality: measure BLEU and chrF; needs sacrebleu.
        n_bootstrap: how often the test set is resampled for confidence; 0 for never.
        plot: draw quality over latency; needs matplotlib.
        processes: how many processes share the work, each with a model of its own.
        session: options of :class:`mlx_simul.SimulSession`, as JSON has them.

    Raises:
        InvalidOptionError: for an option outside its range.
    """

    corpus: str = _cli(metavar="FILE")
    folder: str = _cli(metavar="DIR")
    model: str | None = None
    references: tuple[str, ...] = _cli((), "--reference", "FILE")
    policies: tuple[str, ...] = DEFAULT_POLICIES
    baseline: str | None = _cli(None, metavar="SPEC")
    adapter: str | None = None
    allow_unverified: bool = False
    source_key: str = "source"
    target_key: str = "target"
    split: str = "test"
    talks: bool = False
    sentences_per_talk: int | None = _cli(None, metavar="N")
    n_sources: int | None = _cli(None, "--sources", "N")
    unit: Unit | Literal["auto"] = "auto"
    word_ms: float = _cli(400.0, metavar="MS")
    clock: Clock = "wall"
    bleu_tokenizer: str = "auto"
    quality: bool = True
    n_bootstrap: int = _cli(1000, "--bootstrap", "N")
    plot: bool = True
    processes: int = _cli(1, metavar="N")
    session: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("policies", "references"):
            if isinstance(getattr(self, name), str):
                raise InvalidOptionError(
                    f"{name} must be a sequence of texts, got the text {getattr(self, name)!r}; "
                    "put it into a list."
                )
        if not self.policies:
            raise InvalidOptionError("no policies to evaluate; wait-k:3 is one.")
        if len(set(self.policies)) < len(self.policies):
            raise InvalidOptionError(f"a policy is named twice: {', '.join(self.policies)}.")
        for spec in self.policies:
            parse_policy(spec)
        if self.baseline is not None and self.baseline not in self.policies:
            raise InvalidOptionError(
                f"the baseline {self.baseline!r} is not evaluated; these are: "
                f"{', '.join(self.policies)}."
            )
        for name, known in (("unit", (AUTO, *UNITS)), ("clock", CLOCK_NAMES)):
            if getattr(self, name) not in known:
                raise InvalidOptionError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                )
        for name, least in (("processes", 1), ("n_bootstrap", 0)):
            if getattr(self, name) < least:
                raise InvalidOptionError(
                    f"{name} must be at least {least}, got {getattr(self, name)}."
                )
        for name in ("n_sources", "sentences_per_talk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name} must be at least 1, got {value}.")
        if not 0 < self.word_ms < math.inf:
            raise InvalidOptionError(
                f"word_ms must be a number above 0, got {self.word_ms}; 400 is a calm speaker."
            )

    def suited_to(self, references: Sequence[str]) -> EvaluationOptions:
        """These options, with what is "auto" chosen for the script of some references."""
        unit = unit_of(references) if self.unit == AUTO else self.unit
        tokenizer = self.bleu_tokenizer
        if tokenizer == AUTO:
            tokenizer = bleu_tokenizer_of(references)
        return replace(self, unit=unit, bleu_tokenizer=tokenizer)

    @property
    def has_talks(self) -> bool:
        """Whether sources are talks."""
        return self.talks or self.sentences_per_talk is not None

    @property
    def known_unit(self) -> Unit:
        """The unit, once it is chosen.

        Raises:
            InvalidOptionError: if it is still "auto".
        """
        if self.unit == AUTO:
            raise InvalidOptionError('unit is "auto"; suited_to(references) chooses one.')
        return self.unit

    @property
    def baseline_policy(self) -> str:
        """The policy that others are compared with."""
        if self.baseline is not None:
            return self.baseline
        return WHOLE if WHOLE in self.policies else self.policies[0]
