"""What is recorded of one translation: enough to compute every figure again."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlx_simul.errors import DataError


@dataclass(frozen=True)
class Record:
    """One source, translated under one policy.

    Times are milliseconds on the session's clock. Words were fed without waiting, so all of it is
    work: :func:`mlx_simul.evaluation.live_times.live_times_ms` says what it means at a pace.

    Attributes:
        index: of the source in the test set, from 0.
        prediction: the translation, white space normalised.
        source_words: words of the source.
        delays: for each target unit, the source words read when it was written.
        times_ms: for each, when it was there.
        fed_ms: for each source word, when it was fed; with the last one came the end.
        total_ms: when the stream ended.
        n_tokens: target tokens written.
        n_passes: passes over the model.
        reason: why the stream ended.
    """

    index: int
    prediction: str
    source_words: int
    delays: tuple[int, ...]
    times_ms: tuple[float, ...]
    fed_ms: tuple[float, ...]
    total_ms: float
    n_tokens: int
    n_passes: int
    reason: str

    @property
    def response_ms(self) -> list[float]:
        """For each unit, the work since the one before it, or since the source it waited for."""
        waits: list[float] = []
        before = 0.0
        for time in self.times_ms:
            fed = self.fed_ms[bisect_right(self.fed_ms, time) - 1]
            waits.append(time - max(fed, before))
            before = time
        return waits

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """A record from its line.

        Raises:
            DataError: if it is none.
        """
        try:
            held: dict[str, Any] = json.loads(line)
            values: dict[str, Any] = {each.name: held[each.name] for each in fields(cls)}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not the record of a translation: {line[:80]!r} ({error}).") from error
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)
