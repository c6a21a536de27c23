"""A run's log: one JSON record a line, without gaps or repeats after a run was resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_simul.machine.files import write_whole
from mlx_simul.training.snapshot import Progress
from mlx_simul.training.trainer import StepReport


class RunLog:
    """Appends records to a file.

    Args:
        path: the file; records of steps that a resumed run will repeat are taken out.
        step: where the run stands.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        records = [record for record in read_log(path) if record["step"] <= step]
        write_whole(path, "".join(json.dumps(r) + "\n" for r in records))
        self._reports: list[StepReport] = []

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def note(self, report: StepReport, progress: Progress, log_steps: int) -> None:
        """Take a step in; every ``log_steps`` of them make a record with their means."""
        self._reports.append(report)
        if report.step % log_steps:
            return
        reports, self._reports = self._reports, []
        seconds = sum(each.seconds for each in reports)
        self.write(
            {
                "step": report.step,
                "epoch": progress.position.epoch,
                "loss": round(sum(each.loss for each in reports) / len(reports), 5),
                "grad_norm": round(sum(each.grad_norm for each in reports) / len(reports), 4),
                "learning_rate": report.learning_rate,
                "tokens": progress.n_tokens,
                "tokens_per_second": round(sum(each.n_tokens for each in reports) / seconds, 1),
                "seconds": round(progress.seconds, 1),
            }
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole records of a log; none if there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").split("\n")
    # What follows the last line break was cut off in writing.
    return [json.loads(line) for line in lines[:-1]]
