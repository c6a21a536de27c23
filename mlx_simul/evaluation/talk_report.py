"""Recorded results of talks as Markdown, beside those of the same sentences alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_simul.evaluation.columns import (
    HISTORY_COLUMNS,
    OTHER_TALK_COLUMNS,
    number,
    quality_columns,
    talk_columns,
)
from mlx_simul.evaluation.report import (
    clock,
    command,
    fenced,
    session_words,
    table,
    versions,
)
from mlx_simul.policies import WHOLE


def talks_section(
    name: str, runs: Sequence[Mapping[str, Any]], alone: Mapping[str, Any] | None
) -> str:
    """Talks translated in one or more ways: what was measured, and tables.

    Args:
        name: of the section.
        runs: results as ``talks.json`` has them, of one model on one test set, which differ in
            options of the session.
        alone: results as ``evaluation.json`` has them, to be shown beside the talks if they are
            of the same model and the same sentences.
    """
    first, rows = runs[0], _rows(runs)
    corpus = first["corpus"]
    ms = 1000 / corpus["source_words"]
    quality, columns = quality_columns(first), talk_columns(first)
    others = {title: cell for title, cell in columns.items() if title not in quality}
    quality.pop("p", None)  # a run with one policy has none, and others have other baselines
    work = {"work a source word (ms)": lambda row: number(row["seconds"] * ms, 1)}
    parts = [
        f"## Talks: {name}\n",
        f"`{first['model']}` on `{corpus['name']}`: {corpus['n_sentences']} "
        f"sentences in {corpus['n_talks']} talks, with {corpus['source_words']} words in total "
        f"({corpus['minutes']:.0f} minutes) and {corpus['n_references']} references. Latency is in "
        f"seconds. *With computing* adds the time to compute ({clock(first)}). {versions(first)} "
        f"[talks.md](talks.md) explains the scores.\n",
        fenced("\n".join(map(command, runs))),
    ]
    if quality:
        parts.append(table(rows | _rows_alone(first, alone), quality))
        told = "; ".join(f"{metric} `{text}`" for metric, text in first["signatures"].items())
        parts.append(f"± is half of a 95 % interval. sacrebleu: {told}.\n")
    return "\n".join([*parts, table(rows, others), table(rows, {**work, **OTHER_TALK_COLUMNS})])


def history_section(name: str, results: Mapping[str, Any]) -> str:
    """What earlier pairs are worth: a table of what ``benchmarks/history.py`` found.

    Args:
        name: of the section.
        results: as the benchmark writes them.
    """
    options, corpus = results["options"], results["corpus"]
    words = ["python", "benchmarks/history.py", "--corpus", options["corpus"]]
    flags = {"source_language": "--from", "target_language": "--to"}
    for option, value in options.items():
        if option != "corpus" and value is not None:
            flag = flags.get(option, "--" + option.replace("_", "-"))
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return "\n".join(
        [
            f"## History: {name}\n",
            f"{corpus['n_sentences']} sentences with {corpus['source_words']} words, in talks of "
            f"{options['sentences_per_talk']}, under `{options['policy']}`. p is for the "
            f"difference from the first row (paired bootstrap); ± is half of a 95 % interval. "
            f"[streams.md](streams.md#history) explains the columns.\n",
            fenced(shlex.join(words)),
            table(results["figures"], HISTORY_COLUMNS, "before each turn"),
        ]
    )


def _rows(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of each run's policies, called by the policy and by what sets the run apart."""
    sessions = [run["options"]["session"] for run in runs]
    rows: dict[str, Any] = {}
    for run, session in zip(runs, sessions, strict=True):
        apart = [
            word
            for name, value in session.items()
            if any(other.get(name) != value for other in sessions)
            for word in session_words(name, value)
        ]
        rows |= {" ".join([spec, *apart]): row for spec, row in run["policies"].items()}
    return rows


def _rows_alone(talks: Mapping[str, Any], alone: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same policies, and the whole source, with a session for each sentence."""
    if alone is None or _what(talks) != _what(alone):
        return {}
    shown = {*talks["policies"], WHOLE}
    return {
        f"{spec}, each sentence alone": row
        for spec, row in alone["policies"].items()
        if spec in shown
    }


def _what(results: Mapping[str, Any]) -> tuple[Any, ...]:
    """The model and the sentences that results are of."""
    corpus = results["corpus"]
    n_sentences = corpus.get("n_sentences", corpus.get("n_sources"))
    counts = n_sentences, corpus["source_words"], corpus["n_references"]
    return results["model"], corpus["name"], *counts
