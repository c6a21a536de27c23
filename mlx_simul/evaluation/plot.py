"""Quality over latency as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_simul.policies import WHOLE, name_in


def draw_curve(results: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw BLEU over LAAL: a curve for each family of policies, with and without computing.

    Args:
        results: as :func:`mlx_simul.evaluation.run.evaluate` gives them, with BLEU.
        path: of the pictures, without ending; replaced.

    Returns:
        The pictures: a PNG and an SVG file; none if nothing can be drawn.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for spec, figures in results["policies"].items():
        if "bleu" in figures and figures["latency"]:
            families.setdefault(name_in(spec), []).append((spec, figures))
    if not families:
        return []
    unit = {"word": "words", "char": "characters"}[results["options"]["unit"]]
    # A figure of its own, so that nobody's pyplot is touched.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="LAAL, source words behind", ylabel="BLEU")
    for number, (family, points) in enumerate(families.items()):
        colour = f"C{number}"
        points.sort(key=lambda point: point[1]["latency"]["laal"])
        quality = [figures["bleu"]["score"] for _, figures in points]
        plain = [figures["latency"]["laal"] for _, figures in points]
        aware = [figures["latency_ca"]["laal"] for _, figures in points]
        errors = [figures["bleu"].get("ci", 0.0) for _, figures in points]
        if family == WHOLE:
            axes.axhline(quality[0], color=colour, linestyle=":", label="whole source")
            continue
        axes.errorbar(plain, quality, errors, color=colour, marker="o", capsize=2, label=family)
        axes.plot(aware, quality, color=colour, marker=".", linestyle="--", alpha=0.5)
        for (spec, _), x, y in zip(points, plain, quality, strict=True):
            axes.annotate(spec, (x, y), (4, -10), textcoords="offset points", fontsize=8)
    axes.plot([], [], color="grey", linestyle="--", alpha=0.5, label="with the time to compute")
    axes.legend()
    axes.margins(x=0.1)
    axes.set_title(
        f"{results['model']}, {results['corpus']['n_sources']} sources, latency in target {unit}",
        fontsize=9,
    )
    made = []
    for suffix in (".png", ".svg"):
        partial = path.with_name(f".{path.name}.partial{suffix}")
        # The same figures make the same file.
        with rc_context({"svg.hashsalt": "mlx_simul"}):
            figure.savefig(partial, dpi=120, metadata={"Date": None} if suffix == ".svg" else None)
        os.replace(partial, path.with_suffix(suffix))
        made.append(path.with_suffix(suffix))
    return made
