"""BLEU and chrF by sacrebleu, with signatures and paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_simul.errors import DataError, InvalidOptionError
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.machine.extras import require

METRICS = ("bleu", "chrf")


@dataclass(frozen=True)
class TextQuality:
    """How good some translations are.

    Attributes:
        bleu: of the corpus, against all references of a source.
        chrf: likewise.
        length_ratio: tokens written per token of the closest reference, as BLEU counts them;
            ``None`` if the closest references have none.
    """

    bleu: float
    chrf: float
    length_ratio: float | None


@dataclass(frozen=True)
class Confidence:
    """What resampling the test set says of a score.

    Attributes:
        score: on the whole test set.
        mean: over the resampled sets.
        ci: half the width of the interval that holds 95 % of them.
        p: how often chance makes such a difference to the baseline; ``None`` for itself.
    """

    score: float
    mean: float
    ci: float
    p: float | None


def require_tokenizer(name: str) -> None:
    """Check that sacrebleu is installed, with all that its tokenizer of this name needs.

    Raises:
        InvalidOptionError: if not.
    """
    _metrics(name)


def require_scorable(references: Sequence[Sequence[str]], tokenizer: str = "13a") -> None:
    """Check that BLEU finds anything in some reference; call it before translations are made.

    Args:
        references: as for :func:`text_quality`.
        tokenizer: likewise.

    Raises:
        DataError: if its tokenizer leaves nothing of any reference.
        InvalidOptionError: as :func:`text_quality`.
    """
    bleu = _metrics(tokenizer)["bleu"]
    # A translation that equals its reference has as many tokens as BLEU sees in that.
    if not any(bleu.corpus_score([text], [[text]]).sys_len for each in references for text in each):
        raise DataError(
            f"sacrebleu's tokenizer {tokenizer!r} leaves nothing of any reference, such as "
            f"{references[0][0]!r}; choose another one (--bleu-tokenizer), or measure no BLEU "
            "(--no-quality)."
        )


def text_quality(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "13a"
) -> TextQuality:
    """Score translations.

    Args:
        hypotheses: a translation of each source.
        references: all references of each source; their number may differ.
        tokenizer: sacrebleu's for BLEU: ``13a``, ``zh``, ``ja-mecab``, ``char`` ...

    Raises:
        InvalidOptionError: if sacrebleu is not installed, or has no such tokenizer.
    """
    metrics = _metrics(tokenizer)
    streams = _streams(references)
    bleu = metrics["bleu"].corpus_score(hypotheses, streams)
    chrf = metrics["chrf"].corpus_score(hypotheses, streams)
    length_ratio = bleu.sys_len / bleu.ref_len if bleu.ref_len else None
    return TextQuality(bleu.score, chrf.score, length_ratio)


def paired_bootstrap(
    systems: Mapping[str, Sequence[str]],
    baseline: str,
    references: Sequence[Sequence[str]],
    tokenizer: str = "13a",
    n_samples: int = 1000,
) -> tuple[dict[str, dict[str, Confidence]], dict[str, str]]:
    """Compare systems with a baseline on resampled test sets (Koehn 2004), by sacrebleu.

    Args:
        systems: for each name a translation of each source.
        baseline: one of the names.
        references: as for :func:`text_quality`.
        tokenizer: likewise.
        n_samples: how often the test set is resampled.

    Returns:
        For each system the confidence of each metric; and the signature of each metric.

    Raises:
        InvalidOptionError: as :func:`text_quality`.
    """
    metrics = _metrics(tokenizer)
    from sacrebleu.significance import PairedTest

    names = [baseline, *(name for name in systems if name != baseline)]
    signatures, scores = PairedTest(
        [(name, systems[name]) for name in names],
        metrics,
        _streams(references),  # pyright: ignore[reportArgumentType]
        test_type="bs",
        n_samples=n_samples,
    )()
    found: dict[str, dict[str, Confidence]] = {name: {} for name in names}
    by_metric = {title.lower().removesuffix("2"): title for title in signatures}
    for metric in METRICS:
        for name, result in zip(names, scores[by_metric[metric]], strict=True):
            values: Any = result
            p = None if values.p_value is None else float(values.p_value)
            if p is not None and list(systems[name]) == list(systems[baseline]):
                p = 1.0  # sacrebleu would say 1 / (n_samples + 1)
            found[name][metric] = Confidence(
                float(values.score), float(values.mean), float(values.ci), p
            )
    return found, {m: str(signatures[by_metric[m]]) for m in METRICS}


def quality_figures(
    options: EvaluationOptions,
    texts: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What an evaluation says of the quality of each policy.

    Args:
        options: of the evaluation.
        texts: for each policy a translation of each source or sentence.
        references: of each of these.

    Returns:
        For each policy ``bleu``, ``chrf`` and ``length_ratio``; and the signature of each metric,
        if confidence was asked for. Empty if quality was not.
    """
    figures: dict[str, dict[str, Any]] = {spec: {} for spec in texts}
    if not options.quality:
        return figures, {}
    for spec, hypotheses in texts.items():
        scores = text_quality(hypotheses, references, options.bleu_tokenizer)
        figures[spec] |= {
            "bleu": {"score": scores.bleu},
            "chrf": {"score": scores.chrf},
            "length_ratio": scores.length_ratio,
        }
    if not options.n_bootstrap:
        return figures, {}
    found, signatures = paired_bootstrap(
        texts, options.baseline_policy, references, options.bleu_tokenizer, options.n_bootstrap
    )
    for spec, by_metric in found.items():
        figures[spec] |= {metric: asdict(each) for metric, each in by_metric.items()}
    return figures, signatures


def _metrics(tokenizer: str) -> dict[str, Any]:
    sacrebleu: Any = require(
        "sacrebleu",
        "eval",
        "do without BLEU and chrF (--no-quality; while training, run.bleu_sources = 0)",
    )
    known = sacrebleu.metrics.METRICS["BLEU"].TOKENIZERS
    if tokenizer not in known:
        raise InvalidOptionError(
            f"sacrebleu has no tokenizer {tokenizer!r} for BLEU; it has {', '.join(sorted(known))}."
        )
    try:
        bleu = sacrebleu.BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError, OSError) as error:  # a package, or a download
        raise InvalidOptionError(
            f"sacrebleu's tokenizer {tokenizer!r} is not available: {' '.join(str(error).split())}"
        ) from error
    return {"bleu": bleu, "chrf": sacrebleu.CHRF()}


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As many streams as the most references of one source, as sacrebleu wants them."""
    n_most = max(map(len, references))
    return [[given[i] if i < len(given) else None for given in references] for i in range(n_most)]
