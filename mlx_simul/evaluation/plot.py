"""Pictures of quality over latency, and of lagging over the time of a talk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlx_simul.evaluation.pictures import name_lines, picture, save
from mlx_simul.evaluation.talk_figures import drift
from mlx_simul.evaluation.talk_sentences import Lag, RealignedTalk, lags
from mlx_simul.machine.terminal import harmless
from mlx_simul.policies import WHOLE, name_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_SLOTS = 60
"""A curve of lagging has at most this many points, each a mean."""

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


def draw_lagging(talks: Mapping[str, RealignedTalk], path: Path) -> list[Path]:
    """Draw how a talk's lag develops: a curve for each policy, with and without computing.

    A level line stands for the mean of the first ten minutes, another for that of the last; their
    difference, the drift, is in the legend.

    Args:
        talks: the same talk under some policies, by their names.
        path: of the pictures, without ending; replaced.

    Returns:
        The pictures: a PNG and an SVG file; none if nothing was written before the talk ended.
    """
    drifts = {spec: drift([talk]) for spec, talk in talks.items()}
    known = {spec: each for spec, each in drifts.items() if each is not None}
    if not known:
        return []
    made = [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]
    with picture(8, 5) as figure:
        axes = figure.add_subplot(xlabel="minutes of source", ylabel="seconds behind")
        lines: dict[str, Any] = {}
        for number, (spec, held) in enumerate(known.items()):
            gain = {name: held["drift"][name] / 1000 for name in ("ms", "ca_ms")}
            name = f"{harmless(spec)}, drift {gain['ms']:+.2f} s ({gain['ca_ms']:+.2f} s)"
            lines[name] = _lagging(axes, talks[spec], held, f"C{number}")
        lines["with the time to compute (in brackets)"] = axes.plot(
            [], [], color="grey", linestyle="--", alpha=0.5
        )[0]
        name_lines(axes, lines)
        for each in made:
            save(figure, each)
    return made


def _lagging(axes: Axes, talk: RealignedTalk, held: Mapping[str, Any], colour: str) -> Any:
    """One policy's lag over time; returns what stands for it in the legend."""
    end_ms = talk.sentences[-1].talk_end_ms
    windows = {"first": (0, held["window_ms"]), "last": (end_ms - held["window_ms"], end_ms)}
    for name, window in windows.items():
        minutes = [ms / 60_000 for ms in window]
        axes.plot(minutes, [held[name]["ms"] / 1000] * 2, color=colour, linewidth=3, alpha=0.5)
    slots: dict[int, list[Lag]] = {}
    for lag in lags(talk):
        slots.setdefault(int(N_SLOTS * lag.at_ms / end_ms), []).append(lag)
    means = [
        [sum(values) / len(values) for values in zip(*map(astuple, slots[slot]), strict=True)]
        for slot in sorted(slots)
    ]
    at_ms, _, ms, ca_ms = zip(*means, strict=True)
    minutes = [each / 60_000 for each in at_ms]
    axes.plot(minutes, [y / 1000 for y in ca_ms], color=colour, linestyle="--", alpha=0.5)
    return axes.plot(minutes, [y / 1000 for y in ms], color=colour)[0]


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
