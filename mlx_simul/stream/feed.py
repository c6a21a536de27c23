"""Source text in, words and breaks between turns out."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_simul.stream.turn import Setting
from mlx_simul.text.segmenter import PARAGRAPH, SourceSegmenter
from mlx_simul.text.turn_splitter import TurnBreak, TurnSplitter

Item = str | TurnBreak


class Feed:
    """Cuts a source into words, and these into turns where the stream has any.

    Args:
        setting: of the stream.

    Attributes:
        has_words: a word has come.
        is_closed: the source has ended.
        n_words: words that have come out, skipped ones included.
    """

    def __init__(self, setting: Setting) -> None:
        self._segmenter = SourceSegmenter(setting.options.turn.split, paragraphs=setting.has_turns)
        self._splitter = _splitter(setting) if setting.has_turns else None
        self._next_splitter: TurnSplitter | None = None
        self._in_turn = False
        self.has_words = self.is_closed = False
        self.n_words = self._skip_words = 0

    def change(self, setting: Setting) -> None:
        """Cut turns by the rules of another source language, from the next turn on."""
        self._next_splitter = _splitter(setting)
        self._change_between_turns()

    def skip(self, n_words: int) -> None:
        """Leave out the first words that come, and the breaks between them."""
        self._skip_words = n_words

    def push(self, text: str) -> list[Item]:
        """The words that a piece of text completes."""
        return self._items(self._segmenter.feed(text))

    def end_turn(self) -> list[Item]:
        """The word that has half arrived, and the end of the turn, if one has begun."""
        items = self._items(self._segmenter.flush())
        return items + self._cut([] if self._splitter is None else self._splitter.end_turn())

    def close(self) -> list[Item]:
        """What is left, and the end of the last turn."""
        self.is_closed = True
        items = self._items(self._segmenter.finish())
        return items + self._cut([] if self._splitter is None else self._splitter.finish())

    def _items(self, words: Sequence[str]) -> list[Item]:
        self.has_words = self.has_words or bool(words)
        if self._splitter is None:
            return list(words)
        items: list[Item] = []
        for word in words:
            cut: Sequence[Item] = self._splitter.add(word)
            if word == PARAGRAPH and not cut:
                # The turn has ended already; the paragraph ends only now.
                cut = [TurnBreak("blank_line")]
            items += self._cut(cut)
        return items

    def _cut(self, items: Sequence[Item]) -> list[Item]:
        if items:
            self._in_turn = isinstance(items[-1], str)
            self._change_between_turns()
        return self._kept(items)

    def _change_between_turns(self) -> None:
        if self._next_splitter is not None and not self._in_turn:
            self._splitter, self._next_splitter = self._next_splitter, None

    def _kept(self, items: Sequence[Item]) -> list[Item]:
        self.n_words += sum(isinstance(item, str) for item in items)
        for at, item in enumerate(items):
            if not self._skip_words:
                return list(items[at:])
            self._skip_words -= isinstance(item, str)
        return []


def _splitter(setting: Setting) -> TurnSplitter:
    turn = setting.options.turn
    return TurnSplitter(
        setting.source_language, max_turn_words=turn.max_turn_words, splitter=turn.splitter
    )
