"""What a server counts of all its streams, and what its log says of refusals."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from mlx_simul.events import Read, Write
from mlx_simul.serving.commands import Answer
from mlx_simul.serving.logs import note
from mlx_simul.serving.messages import ProtocolError
from mlx_simul.serving.stream import Stream


class Counts:
    """Counts of a server.

    Args:
        log: of the server.

    Attributes:
        refusals: how often something was refused, by code.
        words_read: source words, of all streams.
        words_written: target words, likewise.
        n_opened: streams that have begun.
        on_lag: told, for each target word, how many source words it is behind.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.refusals: Counter[str] = Counter()
        self.words_read = self.words_written = self.n_opened = 0
        self.on_lag: Callable[[int], None] | None = None

    def answer(self, stream: Stream, answer: Answer) -> None:
        """Count the words of an answer about a stream."""
        if isinstance(answer, Read):
            self.words_read += bool(answer.source)
        elif isinstance(answer, Write) and answer.word_complete:
            self.words_written += 1
            if self.on_lag is not None:
                self.on_lag(stream.protocol.backlog.words_behind)

    def refuse(self, code: str, **what: Any) -> None:
        """Count and log a refusal."""
        self.refusals[code] += 1
        note(self._log, "refused", level=logging.WARNING, code=code, **what)

    def refuse_client(self, error: ProtocolError, stream: Stream | None = None) -> None:
        """Count and log what a client was refused; the stream, if one is concerned."""
        session = None if stream is None else stream.name
        self.refuse(error.code, texts={"message": str(error)}, session=session, param=error.param)
