"""Talks through real sessions, word by word as if they were live, into records."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn

from mlx_simul.evaluation.options import Clock
from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talks import Talk
from mlx_simul.evaluation.translate import Player
from mlx_simul.options import SessionOptions
from mlx_simul.policies import Policy


class TalkTranslator:
    """Translates talks, each in one session, and records how it went.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        options: of the sessions; ``policy`` is given with each talk.
        clock: as for :class:`mlx_simul.evaluation.translate.Translator`.

    Raises:
        InvalidOptionError: for an option outside its range.
        PromptError: if the tokenizer's template cannot carry the source.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        options: SessionOptions | None = None,
        clock: Clock = "wall",
    ) -> None:
        self._player = Player(model, tokenizer, options, clock)

    def __call__(self, index: int, talk: Talk, policy: Policy) -> TalkRecord:
        """Translate one talk.

        Args:
            index: what the record calls it.
            talk: all of it.
            policy: when to read and when to write.
        """
        display = Display()
        fed_ms, _ = self._player.play(talk.source, policy, display.see)
        return TalkRecord(index, talk, tuple(display.shown), fed_ms, tuple(display.ends))
