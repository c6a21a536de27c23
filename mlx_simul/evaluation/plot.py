"""Quality over latency as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlx_simul.evaluation.pictures import name_lines, picture, save
from mlx_simul.machine.terminal import harmless
from mlx_simul.policies import WHOLE, name_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point: TypeAlias = tuple[str, Mapping[str, Any]]
"""A policy and its figures."""


def draw_curve(results: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw BLEU over LAAL: a curve for each family of policies, with and without computing.

    Args:
        results: as :func:`mlx_simul.evaluation.run.evaluate` gives them, with BLEU.
        path: of the pictures, without ending; replaced.

    Returns:
        The pictures: a PNG and an SVG file; none if nothing can be drawn.
    """
    families: dict[str, list[Point]] = {}
    for spec, figures in results["policies"].items():
        if "bleu" in figures and figures["latency"]:
            families.setdefault(name_in(spec), []).append((spec, figures))
    if not families:
        return []
    unit = {"word": "words", "char": "characters"}[results["options"]["unit"]]
    made = [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]
    with picture(8, 5) as figure:
        axes = figure.add_subplot(xlabel="LAAL, source words behind", ylabel="BLEU")
        lines = {
            "whole source" if family == WHOLE else harmless(family): _curve(
                axes, family, f"C{number}", points
            )
            for number, (family, points) in enumerate(families.items())
        }
        lines["with the time to compute"] = axes.plot(
            [], [], color="grey", linestyle="--", alpha=0.5
        )[0]
        name_lines(axes, lines)
        axes.margins(x=0.1)
        n_sources = results["corpus"]["n_sources"]
        title = f"{harmless(results['model'])}, {n_sources} sources, latency in target {unit}"
        axes.set_title(title, fontsize=9)
        for each in made:
            save(figure, each)
    return made


def _curve(axes: Axes, family: str, colour: str, points: list[Point]) -> Any:
    """One family of policies; returns what stands for it in the legend."""
    points.sort(key=lambda point: point[1]["latency"]["laal"])
    quality = [figures["bleu"]["score"] for _, figures in points]
    if family == WHOLE:
        return axes.axhline(quality[0], color=colour, linestyle=":")
    plain = [figures["latency"]["laal"] for _, figures in points]
    aware = [figures["latency_ca"]["laal"] for _, figures in points]
    errors = [figures["bleu"].get("ci", 0.0) for _, figures in points]
    axes.plot(aware, quality, color=colour, marker=".", linestyle="--", alpha=0.5)
    for (spec, _), x, y in zip(points, plain, quality, strict=True):
        axes.annotate(harmless(spec), (x, y), (4, -10), textcoords="offset points", fontsize=8)
    return axes.errorbar(plain, quality, errors, color=colour, marker="o", capsize=2)
