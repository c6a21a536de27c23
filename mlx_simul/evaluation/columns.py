"""The columns of the tables that show results, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Figures: TypeAlias = Mapping[str, Any]
"""Those of one policy, as ``evaluation.json`` has them."""
Columns: TypeAlias = Mapping[str, Callable[[Figures], str]]
"""A title, and what stands below it."""


def main_columns(results: Figures) -> Columns:
    """How late and, where it was measured, how good."""
    latency: Columns = {
        "LAAL": _latency("laal"),
        "with computing": lambda row: number((row["latency_ca"] or {}).get("laal")),
    }
    if not all("bleu" in row for row in results["policies"].values()):
        return latency
    return {
        **latency,
        "BLEU": lambda row: _with_ci(row["bleu"]),
        "p": lambda row: number(row["bleu"].get("p"), 3),
        "chrF": lambda row: _with_ci(row["chrf"]),
        "length": lambda row: number(row["length_ratio"]),
    }


def number(value: float | None, n_digits: int = 2) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else f"{value:.{n_digits}f}"


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
