"""A run's losses as a picture."""

from __future__ import annotations

from pathlib import Path

from mlx_simul.evaluation.pictures import picture, save
from mlx_simul.training.log import read_log


def draw_losses(log: Path, path: Path) -> None:
    """Draw training and validation losses over steps.

    Args:
        log: a run's ``log.jsonl``.
        path: a PNG file, replaced.
    """
    records = read_log(log)
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if "loss" in record:
            curves.setdefault("training", []).append((record["step"], record["loss"]))
        for wait_k, loss in record.get("valid_loss", {}).items():
            curves.setdefault(f"validation, k = {wait_k}", []).append((record["step"], loss))
    with picture(8, 4.5) as figure:
        axes = figure.add_subplot(xlabel="step", ylabel="nats per token")
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=label)
        if curves:
            axes.legend()
        save(figure, path)
