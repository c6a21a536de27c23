"""Per-sentence logs that SimulEval and OmniSTEval read.

SimulEval counts text in words: delays, elapsed times and the source's length are source words, and
words of speech here, so that they mean the same in any script.
OmniSTEval counts milliseconds: there a source word is as long as the evaluation's pace says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.figures import elapsed_ms, said_before
from mlx_simul.evaluation.record import Record
from mlx_simul.machine.files import write_whole

# What SimulEval's --score-only wants to find beside the log.
_SIMULEVAL_CONFIG = "source_type: text\ntarget_type: text\n"


def simuleval_line(item: Item, record: Record, word_ms: float) -> dict[str, Any]:
    """A line of ``instances.log``; of several references it holds the first."""
    said = said_before(item, record)
    return {
        "index": record.index,
        "prediction": record.prediction,
        "delays": [said[delay] for delay in record.delays],
        "elapsed": [round(time / word_ms, 6) for time in elapsed_ms(record, word_ms, said)],
        "prediction_length": len(record.delays),
        "reference": item.references[0],
        "source": item.source,
        "source_length": said[-1],
    }


def omnisteval_line(item: Item, record: Record, word_ms: float) -> dict[str, Any]:
    """A line of OmniSTEval's JSONL; of several references it holds the first."""
    said = said_before(item, record)
    return {
        "source": item.source,
        "prediction": record.prediction,
        "reference": item.references[0],
        "delays": [said[delay] * word_ms for delay in record.delays],
        "elapsed": [round(time, 3) for time in elapsed_ms(record, word_ms, said)],
        "source_length": said[-1] * word_ms,
    }


def write_logs(
    folder: Path, items: Sequence[Item], records: Sequence[Record], word_ms: float
) -> None:
    """Write the logs of one policy into a folder.

    ``instances.log`` with the ``config.yaml`` that SimulEval wants beside it, ``omnisteval.jsonl``
    with ``reference.txt``, and ``source.txt`` for metrics that look at it: a line for each source,
    in which a space stands for a line break.

    Args:
        folder: made if it is not there; files in it are replaced.
        items: the test set.
        records: in the order of the log.
        word_ms: milliseconds from one source word to the next.
    """
    rows = [(items[record.index], record) for record in records]
    simuleval = [simuleval_line(item, record, word_ms) for item, record in rows]
    omnisteval = [omnisteval_line(item, record, word_ms) for item, record in rows]
    write_whole(folder / "instances.log", json_lines(simuleval))
    write_whole(folder / "config.yaml", _SIMULEVAL_CONFIG)
    write_whole(folder / "omnisteval.jsonl", json_lines(omnisteval))
    write_whole(folder / "source.txt", _lines(item.source for item, _ in rows))
    write_whole(folder / "reference.txt", _lines(item.references[0] for item, _ in rows))


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """A line of JSON for each row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lines(texts: Iterable[str]) -> str:
    """A line for each text, whatever line breaks are in it."""
    return "".join(" ".join(text.splitlines()) + "\n" for text in texts)
