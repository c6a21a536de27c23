"""Recorded results as Markdown: tables, and the comparisons that follow from them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any

from mlx_simul.evaluation.columns import OTHER_COLUMNS, Columns, main_columns
from mlx_simul.machine.fields import NONE, flag_of, plain_fields, type_of
from mlx_simul.options import SessionOptions
from mlx_simul.policies import WHOLE, name_in

SIGNIFICANT = 0.05
"""Differences with a smaller p count as significant."""

# Older results name the packaged model, although the command did not.
_PACKAGED = "en-fr"


def evaluation_section(name: str, results: Mapping[str, Any], picture: str | None) -> str:
    """An evaluation: what was measured, tables, and comparisons.

    Args:
        name: of the section.
        results: as ``evaluation.json`` has them.
        picture: where the plot is, seen from the page.
    """
    corpus, rows = results["corpus"], results["policies"]
    parts = [
        f"## {name}\n",
        f"`{results['model']}` on `{corpus['name']}`: {corpus['n_sources']} sources with "
        f"{corpus['source_words']} words in total, {corpus['n_references']} references. Latency is "
        f"in source words, counted for each target {_unit(results)}. *With computing* adds the "
        f"time to compute ({clock(results)}), at {results['options']['word_ms']:g} ms per source "
        f"word. {versions(results)}\n",
        fenced(command(results)),
    ]
    if picture is not None:
        parts.append(f"![BLEU over LAAL]({picture})\n")
    parts += [
        table(rows, main_columns(results)),
        table(rows, OTHER_COLUMNS),
    ]
    if results["signatures"]:
        told = "; ".join(f"{metric} `{text}`" for metric, text in results["signatures"].items())
        parts.append(
            f"± is half of a 95 % interval; p is for the difference from "
            f"`{results['options']['baseline']}` (paired bootstrap). sacrebleu: {told}.\n"
        )
    findings = [*_beside_offline(results), *_beside_wait_k(rows)]
    if findings:
        parts.append("\n".join(f"* {each}" for each in findings) + "\n")
    return "\n".join(parts)


def losses_section(
    title: str, first: str, figures: Mapping[str, Mapping[str, float]], made_by: str
) -> str:
    """Teacher-forced losses of a benchmark; the smallest of each column is bold.

    Args:
        title: of the section.
        first: heads the column of names.
        figures: for each name, nats per target token by column.
        made_by: the command.
    """
    names = list(dict.fromkeys(column for row in figures.values() for column in row))
    best = {name: min(row[name] for row in figures.values() if name in row) for name in names}

    def cell(row: Mapping[str, float], column: str) -> str:
        if column not in row:
            return ""
        text = f"{row[column]:.3f}"
        return f"**{text}**" if row[column] == best[column] else text

    lines = [[name, *(cell(row, column) for column in names)] for name, row in figures.items()]
    return "\n".join(
        [
            f"## {title}\n",
            "Teacher-forced nats per target token; lower is better.\n",
            fenced(made_by),
            _markdown([first, *names], lines),
        ]
    )


def command(results: Mapping[str, Any]) -> str:
    """The shell command that produces these results.

    If the results do not say how model and test set were named, it uses the names of their files.
    """
    options, rows = results["options"], results["policies"]
    grid = list(rows)
    model = None if results["model"] == _PACKAGED else results["model"]
    parts = {"model": options.get("model", model), "adapter": options.get("adapter")}
    words = ["mlx-simul", "evaluate"]
    for name, value in parts.items():
        words += [] if value is None else [f"--{name}", value]
    words += ["--allow-unverified"] if options.get("allow_unverified") else []
    words += ["--corpus", options.get("corpus", results["corpus"]["name"])]
    if references := options.get("references"):
        words += ["--reference", *references]
    words += ["--talks"] if options.get("talks") else []
    words += ["--folder", "results", "--policy", *grid]
    told = {
        "source-key": (options.get("source_key", "source"), "source"),
        "target-key": (options.get("target_key", "target"), "target"),
        "split": (options.get("split", "test"), "test"),
        "baseline": (options["baseline"], WHOLE if WHOLE in grid else grid[0]),
        "sentences-per-talk": (options.get("sentences_per_talk"), None),
        "sources": (options["n_sources"], None),
        "unit": (options["unit"], "word"),
        "word-ms": (options["word_ms"], 400.0),
        "clock": (options["clock"], "wall"),
        "bleu-tokenizer": (options["bleu_tokenizer"], "13a"),
        "bootstrap": (options.get("n_bootstrap", 1000), 1000),
        "processes": (results["made_with"]["processes"], 1),
    }
    for name, (value, usual) in told.items():
        words += [] if value == usual else [f"--{name}", str(value)]
    for name, value in options["session"].items():
        words += session_words(name, value)
    words += [] if all("bleu" in row for row in rows.values()) else ["--no-quality"]
    return shlex.join(words)


def is_packaged(results: Mapping[str, Any]) -> bool:
    """Whether results are of the packaged model, which their command does not name."""
    return results["model"] == _PACKAGED and results["options"].get("model") is None


def at_equal_latency(rows: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Policies beside wait-k at their own LAAL.

    Args:
        rows: figures of policies, with BLEU.

    Returns:
        For each policy that is neither wait-k nor the whole source: its LAAL, its BLEU, and that
        of wait-k there, between its two nearest points; none where wait-k has no point on one side.
    """
    curve = sorted(_point(row) for spec, row in rows.items() if name_in(spec) == "wait-k")
    found: dict[str, tuple[float, float, float]] = {}
    for spec, row in rows.items():
        if name_in(spec) in ("wait-k", WHOLE):
            continue
        laal, bleu = _point(row)
        for (low, before), (high, after) in pairwise(curve):
            if low <= laal <= high:
                share = (laal - low) / (high - low) if high > low else 0.0
                found[spec] = laal, bleu, before + share * (after - before)
                break
    return found


def session_words(name: str, value: Any) -> list[str]:
    """An option of the session as the command line takes it."""
    flag = _flags(SessionOptions)[name]
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, Mapping):
        return [flag, f"{name}.json"]  # the command line takes a file
    return [flag, NONE if value is None else str(value)]


def versions(results: Mapping[str, Any]) -> str:
    """A sentence on the versions and machinery that results were made with."""
    made = dict(results["made_with"])
    where = f"{made.pop('device')}, BLAS: {made.pop('blas')}, processes: {made.pop('processes')}"
    return f"Made with {', '.join(f'{name} {number}' for name, number in made.items())} ({where})."


def clock(results: Mapping[str, Any]) -> str:
    """By which clock times were measured."""
    return {"wall": "wall-clock time", "cpu": "CPU time"}[results["options"]["clock"]]


def table(rows: Mapping[str, Any], columns: Columns, first: str = "policy") -> str:
    """A row for each policy, or whatever the figures are called by."""
    lines = [[f"`{spec}`", *(cell(row) for cell in columns.values())] for spec, row in rows.items()]
    return _markdown([first, *columns], lines)


def fenced(text: str) -> str:
    """A block of code."""
    return f"```\n{text}\n```\n"


def _beside_offline(results: Mapping[str, Any]) -> Iterator[str]:
    rows = results["policies"]
    if WHOLE not in rows or "bleu" not in rows[WHOLE] or results["options"]["baseline"] != WHOLE:
        return
    offline = rows[WHOLE]["bleu"]["score"]
    others = {spec: row for spec, row in rows.items() if spec != WHOLE and row["latency"]}
    if not others or any(row["bleu"].get("p") is None for row in others.values()):
        return  # the bootstrap was left out
    as_good = [
        (_point(row)[0], spec)
        for spec, row in others.items()
        if row["bleu"]["score"] >= offline or row["bleu"]["p"] >= SIGNIFICANT
    ]
    if not as_good:
        yield (
            f"The BLEU of every policy is significantly worse than that of the whole source "
            f"({offline:.1f}; p < {SIGNIFICANT})."
        )
        return
    laal, spec = min(as_good)
    yield (
        f"The fastest policy whose BLEU is not significantly worse than that of the whole source "
        f"({offline:.1f}; p ≥ {SIGNIFICANT}) is `{spec}`: {rows[spec]['bleu']['score']:.1f} at "
        f"{laal:.2f} words behind."
    )


def _beside_wait_k(rows: Mapping[str, Any]) -> Iterator[str]:
    if not all("bleu" in row and row["latency"] for row in rows.values()):
        return
    beside = at_equal_latency(rows)
    for spec, (laal, bleu, wait_k) in beside.items():
        yield (
            f"`{spec}`, {laal:.2f} words behind: {bleu:.1f} BLEU; wait-k has {wait_k:.1f} at this "
            f"lag ({bleu - wait_k:+.1f})."
        )
    if beside:
        gains = {spec: bleu - wait_k for spec, (_, bleu, wait_k) in beside.items()}
        best = max(gains, key=lambda spec: gains[spec])
        gain = gains[best]
        if gain > 0:
            yield f"At equal LAAL, `{best}` has the largest gain over wait-k: {gain:.1f} BLEU."
        else:
            yield f"At equal LAAL, `{best}` comes closest to wait-k: {-gain:.1f} BLEU below it."


def _flags(kind: type) -> dict[str, str]:
    """The flag of each option of a dataclass, and of the groups in it."""
    found: dict[str, str] = {}
    for item in plain_fields(kind):
        hint = type_of(kind, item)
        if is_dataclass(hint) and isinstance(hint, type):
            found |= _flags(hint)
        else:
            found[item.name] = flag_of(item)
    return found


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["latency"]["laal"], row["bleu"]["score"]


def _unit(results: Mapping[str, Any]) -> str:
    return {"word": "word", "char": "character"}[results["options"]["unit"]]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))
