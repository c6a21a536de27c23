"""A run's losses as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_simul.training.log import read_log


def draw_losses(log: Path, picture: Path) -> None:
    """Draw training and validation losses over steps.

    Args:
        log: a run's ``log.jsonl``.
        picture: a PNG file, replaced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    # A figure of its own, so that nobody's pyplot is touched.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token")
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if "loss" in record:
            curves.setdefault("training", []).append((record["step"], record["loss"]))
        for wait_k, loss in record.get("valid_loss", {}).items():
            curves.setdefault(f"validation, k = {wait_k}", []).append((record["step"], loss))
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=label)
    if curves:
        axes.legend()
    partial = picture.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, picture)
