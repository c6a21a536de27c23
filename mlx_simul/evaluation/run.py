"""An evaluation from its options to its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_simul.evaluation.conditions import (
    checked,
    described,
    made_with,
    model_name,
    opened,
    shown,
)
from mlx_simul.evaluation.corpus import Item, corpus_digest, read_corpus
from mlx_simul.evaluation.figures import policy_figures
from mlx_simul.evaluation.logs import write_logs
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.pairs import PairKeys
from mlx_simul.evaluation.plot import draw_curve
from mlx_simul.evaluation.quality import quality_figures
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.talk_run import TALK_RESULTS, evaluate_talks
from mlx_simul.evaluation.work import Progress, translate_missing
from mlx_simul.machine.files import write_whole
from mlx_simul.machine.peers import Peers

if TYPE_CHECKING:
    import mlx.core as mx

RESULTS = "evaluation.json"
"""The figures, in the folder of an evaluation."""


def results_name(options: EvaluationOptions) -> str:
    """The file that the figures are in."""
    return TALK_RESULTS if options.has_talks else RESULTS


def evaluate(
    options: EvaluationOptions | Mapping[str, Any],
    report: Progress | None = None,
    group: mx.distributed.Group | None = None,
) -> dict[str, Any]:
    """Translate a test set under some policies, and score what comes out.

    The options' folder gets a line for each translation as soon as it is there, so that an
    evaluation that was stopped goes on; then figures, plots, and logs for other tools.

    Args:
        options: of the evaluation, or a mapping of them.
        report: called after each translation of rank 0.
        group: processes that share the sources, each with a model of its own; by default this one
            alone. Rank 0 writes the figures, which are those of one process.

    Returns:
        What ``evaluation.json`` holds (``docs/evaluation.md`` says what that is) or, of talks,
        ``talks.json`` (``docs/talks.md``).

    Raises:
        InvalidOptionError: for an option outside its range, a folder with another evaluation, or a
            package that is not installed.
        DataError: if the test set or a record cannot be used.
        ModelLoadError: if the model cannot be loaded.
        SimulError: if a process that shares the work ends before it is done.
    """
    options = checked(options)
    report, peers = report or (lambda *_: None), Peers(group)
    how = evaluate_talks if options.has_talks else _evaluate_sources
    results = how(options, report, peers)
    return peers.gather(results)[0]


def _evaluate_sources(
    options: EvaluationOptions, report: Progress, peers: Peers
) -> dict[str, Any] | None:
    """The figures of single sources; None on other ranks than 0."""
    keys = PairKeys(options.source_key, options.target_key)
    items = read_corpus(options.corpus, options.references, keys, options.split, options.n_sources)
    references = [item.references for item in items]
    options, folder = opened(options, references, corpus_digest(items), Record, peers)
    translate_missing(options, [item.source for item in items], folder, report, peers)
    if not peers.is_first:
        return None
    records = {spec: folder.in_order(spec, len(items)) for spec in options.policies}
    results = summary(options, folder.setting["model"], items, records)
    for spec in options.policies:
        write_logs(folder.of_policy(spec), items, records[spec], options.word_ms)
    write_whole(folder.path / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if options.plot:
        draw_curve(results, folder.path / "quality-latency")
    return results


def summary(
    options: EvaluationOptions,
    model_sha256: str,
    items: Sequence[Item],
    records: Mapping[str, Sequence[Record]],
) -> dict[str, Any]:
    """The figures of all policies, from their records.

    Args:
        options: of the evaluation.
        model_sha256: of the model's files; another model of the same name has another.
        items: the test set.
        records: for each policy, of all sources in their order.
    """
    texts = {spec: [each.prediction for each in held] for spec, held in records.items()}
    quality, signatures = quality_figures(options, texts, [item.references for item in items])
    return {
        "model": model_name(options),
        "model_sha256": model_sha256,
        "corpus": {
            "name": shown(options.corpus),
            "n_sources": len(items),
            "n_references": sum(len(item.references) for item in items),
            "source_words": sum(held.source_words for held in next(iter(records.values()))),
        },
        "options": described(options),
        "signatures": signatures,
        "made_with": made_with(options),
        "policies": {
            spec: policy_figures(items, held, options.known_unit, options.word_ms) | quality[spec]
            for spec, held in records.items()
        },
    }
