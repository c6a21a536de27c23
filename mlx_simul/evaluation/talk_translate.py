"""Talks through real sessions, word by word as if they were live, into records."""

from __future__ import annotations

from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talks import Talk
from mlx_simul.evaluation.translate import Player
from mlx_simul.policies import Policy


class TalkTranslator:
    """Translates talks, each in one session, and records how it went.

    Args:
        player: feeds them.
    """

    def __init__(self, player: Player) -> None:
        self._player = player

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
