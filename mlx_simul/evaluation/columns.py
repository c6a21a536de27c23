"""The columns of the tables that show results, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Figures: TypeAlias = Mapping[str, Any]
"""The figures of one policy, as ``evaluation.json`` has them."""
Columns: TypeAlias = Mapping[str, Callable[[Figures], str]]
"""Each title, and what stands below it."""


def main_columns(results: Figures) -> Columns:
    """How late and, where it was measured, how good."""
    latency: Columns = {
        "LAAL": _latency("laal"),
        "with computing": lambda row: number((row["latency_ca"] or {}).get("laal")),
    }
    return {**latency, **quality_columns(results)}


def talk_columns(results: Figures) -> Columns:
    """For talks: how late, in seconds, how good, and how many sentences were lost."""
    return {
        "LongYAAL": _seconds("latency", "yaal"),
        "LongYAAL with computing": _seconds("latency_ca", "yaal"),
        "StreamLAAL": _seconds("latency", "laal"),
        "StreamLAAL with computing": _seconds("latency_ca", "laal"),
        **quality_columns(results),
        "lost": lambda row: str(row["n_lost"]),
    }


def quality_columns(results: Figures) -> dict[str, Callable[[Figures], str]]:
    """How good; none where quality was not measured."""
    if not all("bleu" in row for row in results["policies"].values()):
        return {}
    return {
        "BLEU": lambda row: _with_ci(row["bleu"]),
        "p": lambda row: number(row["bleu"].get("p"), 3),
        "chrF": lambda row: _with_ci(row["chrf"]),
        "length": lambda row: number(row["length_ratio"]),
    }


def number(value: float | None, n_digits: int = 2) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else f"{value:.{n_digits}f}"


def _seconds(kind: str, name: str) -> Callable[[Figures], str]:
    def cell(row: Figures) -> str:
        ms = (row[kind] or {}).get(name)
        return number(None if ms is None else ms / 1000)

    return cell


def _count(name: str) -> Callable[[Figures], str]:
    return lambda row: str(row[f"n_{name}"])


def _drift(name: str, scale: float = 1) -> Callable[[Figures], str]:
    def cell(row: Figures) -> str:
        return f"{row['drift']['drift'][name] / scale:+.2f}" if row["drift"] else ""

    return cell


def _latency(name: str) -> Callable[[Figures], str]:
    return lambda row: number((row["latency"] or {}).get(name))


def _with_ci(held: Figures) -> str:
    ci = held.get("ci")
    return number(held["score"], 1) + (f" ± {ci:.1f}" if ci is not None else "")


OTHER_COLUMNS: Columns = {
    **{name.upper(): _latency(name) for name in ("al", "ap", "dal", "atd")},
    "ms a word": lambda row: number(row["ms_per_word"]["p50"], 1),
    "p95": lambda row: number(row["ms_per_word"]["p95"], 1),
    "passes a token": lambda row: number(row["passes_per_token"]),
    "ended": lambda row: f"{row['ended']:.1%}",
}
"""The other latencies, what a word and a token cost, and how many translations ended."""

OTHER_TALK_COLUMNS: Columns = {
    "drift in words": _drift("words"),
    "in seconds": _drift("ms", 1000),
    "with computing": _drift("ca_ms", 1000),
    "erasure": lambda row: f"{row['erasure']['share']:.1%}",
    "turns": lambda row: str(row["n_turns"]),
    "ended": lambda row: f"{row['ends'].get('end_of_turn', 0) / max(1, row['n_turns']):.1%}",
    "empty": lambda row: str(row["n_empty"]),
    "unplaced": lambda row: str(row["n_unplaced"]),
}
"""Of talks: from the first ten minutes to the last; taken back; turns that the model ended;
sentences to which nothing was aligned, and units that were aligned to nothing."""

HISTORY_COLUMNS: Columns = {
    "BLEU": lambda row: _with_ci(row["bleu"]),
    "chrF": lambda row: _with_ci(row["chrf"]),
    "p of chrF": lambda row: number(row["chrf"]["p"], 3),
    "length": lambda row: number(row["length_ratio"]),
    "prefix tokens": lambda row: number(row["prefix_tokens"], 0),
    "turns": _count("turns"),
    "not ended": _count("not_ended"),
    "copies": _count("copies"),
    "repeats": _count("repeats"),
    "loops": _count("loops"),
}
"""Of ``benchmarks/history.py``: how good; what stands before a turn; and turns that went wrong. A
limit or a drought ended them, they equal their source or the turn before, or they repeat words."""
