"""Logs of talks that OmniSTEval (in its long form) and simulstream read.

Both take the sentences' times from one file and their references from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx_simul.evaluation.logs import json_lines
from mlx_simul.evaluation.talk_record import TalkRecord
from mlx_simul.evaluation.units import Unit, joined
from mlx_simul.machine.files import write_whole

# Of simulstream's ways to join tokens this one adds nothing and drops nothing. The unit in which
# latency is counted is told to its commands (--latency-unit).
_SIMULSTREAM_CONFIG = "detokenizer_type: simuleval\nlatency_unit: char\n"
_SLACK_S = 1e-10


def omnisteval_long_line(record: TalkRecord, unit: Unit) -> dict[str, Any]:
    """A talk in OmniSTEval's long-form JSONL; times are milliseconds."""
    units = record.units(unit)
    return {
        "source": _name(record),
        "prediction": joined(units.texts, unit),
        "delays": record.delays_ms(units.delays),
        "elapsed": record.elapsed_ms(units.times_ms),
        "source_length": record.talk.said_ms[-1],
    }


def simulstream_lines(record: TalkRecord, unit: Unit) -> Iterator[dict[str, Any]]:
    """A talk in the log of simulstream 1.0: its name, then each change of the target.

    Tokens are characters, without white space where the unit is a character. Times are seconds:
    how much speech had been read, and how much later than that the change was there.
    ``computation_time`` includes the wait for work on earlier words, as computation-aware delays of
    a talk heard live must; simulstream's real-time factor adds it up and means nothing here.
    """
    yield {"id": record.index, "metadata": {"wav_name": _name(record)}}
    read_s = [ms / 1000 for ms in record.delays_ms(each.source_words for each in record.changes)]
    there_s = [ms / 1000 for ms in record.elapsed_ms(each.time_ms for each in record.changes)]
    display: list[str] = []
    steps = [("", 0, 0.0, 0.0)]  # the talk is in the log even if nothing is ever shown
    steps += [
        (change.text, change.n_erased, read, there)
        for change, read, there in zip(record.changes, read_s, there_s, strict=True)
    ]
    for text, n_erased, read, there in steps:
        erased = display[len(display) - n_erased :]
        yield {
            "id": record.index,
            "total_audio_processed": read,
            "computation_time": there - read,
            "generated_tokens": _tokens(text, unit),
            "deleted_tokens": _tokens(erased, unit),
        }
        del display[len(display) - n_erased :]
        display += text


def write_talk_logs(folder: Path, records: Sequence[TalkRecord], unit: Unit) -> None:
    """Write the logs of one policy into a folder.

    ``omnisteval.jsonl`` and ``simulstream.jsonl`` with its ``simulstream.yaml``; for both
    ``segments.yaml``, when each sentence was said, with ``reference.txt``; and ``source.txt`` for
    metrics that look at it. The last two have a line for each sentence, with its first reference.

    Args:
        folder: made if it is not there; files in it are replaced.
        records: of the talks, in their order.
        unit: what latency is counted in.
    """
    sentences = [sentence for record in records for sentence in record.talk.sentences]
    steps = (line for record in records for line in simulstream_lines(record, unit))
    files = {
        "omnisteval.jsonl": json_lines(omnisteval_long_line(each, unit) for each in records),
        "simulstream.jsonl": json_lines(steps),
        "simulstream.yaml": _SIMULSTREAM_CONFIG,
        "segments.yaml": "".join(map(_segments, records)),
        "reference.txt": _lines(joined(each.references[0].split(), unit) for each in sentences),
        "source.txt": _lines(" ".join(each.source.split()) for each in sentences),
    }
    for name, text in files.items():
        write_whole(folder / name, text)


def _name(record: TalkRecord) -> str:
    return f"talk-{record.index:04d}.wav"


def _segments(record: TalkRecord) -> str:
    # YAML reads 1e-05 as a text, so numbers are written with a point. A unit that was written when
    # the sentence had just ended must count as written then: seconds times 1000 may be less than
    # milliseconds by a bit, so durations are shorter by more than that.
    return "".join(
        f"- {{wav: {_name(record)}, offset: {sentence.start_ms / 1000:.13f}, "
        f"duration: {sentence.duration_ms / 1000 - _SLACK_S:.13f}}}\n"
        for sentence in record.talk.sentences
    )


def _tokens(text: Iterable[str], unit: Unit) -> list[str]:
    """Characters; white space as the plain space, the only one at which simulstream parts words."""
    plain = (" " if char.isspace() else char for char in text)
    return [char for char in plain if unit == "word" or char != " "]


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
