"""One source word in, the whole target words that it completed out.

This is how SimulEval talks to a system. It joins what it gets by spaces, hence whole words; and it
takes as a word's delay the source words sent when the word came back, hence all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_simul.events import Event, Finished, TurnEnd, Write
from mlx_simul.loop.remarks import remark
from mlx_simul.text.segmenter import require_text

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession


@dataclass(frozen=True)
class Answer:
    """What an interpreter says to what it has heard.

    Attributes:
        words: what is complete now, cut at white space.
        finished: there will be no more.
        remark: with the last of it, what was left out, if anything was.
    """

    words: tuple[str, ...]
    finished: bool
    remark: str | None = None


class Interpreter:
    """Sessions, one after another, that are fed word by word.

    Args:
        begin: makes a fresh session; called when the first word of a source is there.
    """

    def __init__(self, begin: Callable[[], SimulSession]) -> None:
        self._begin = begin
        self.reset()

    def reset(self) -> None:
        """Forget the source under way; the next word begins another."""
        self._session: SimulSession | None = None
        self._part = ""
        self._finished = False
        self._remark: str | None = None

    def answer(self, source_words: Iterable[str], source_finished: bool) -> Answer:
        """Hear more of the source.

        Args:
            source_words: whole words, none of them perhaps.
            source_finished: they are the last.

        Raises:
            InvalidOptionError: if one is not a ``str``.

        Returns:
            What was written because of it. A session that has come to its end takes nothing more
            and answers so.
        """
        if self._finished:
            return Answer((), finished=True)
        if self._session is None:
            self._session = self._begin()
        events: list[Event] = []
        for word in source_words:
            require_text(word)
            # Without white space after it a live word might still go on.
            events += self._session.feed(f"{word} ")
        if source_finished:
            events += self._session.finish()
        # Target words such as "1." and "5" come apart, and are one word between white space.
        text = "".join(map(self._completed, events))
        return Answer(tuple(text.split()), self._finished, self._remark)

    def _completed(self, event: Event) -> str:
        self._part += event.text
        self._finished = isinstance(event, Finished)
        if (said := remark(event)) is not None:
            self._remark = said
        if not isinstance(event, TurnEnd | Finished) and not (
            isinstance(event, Write) and event.word_complete
        ):
            return ""
        text, self._part = self._part, ""
        return text
