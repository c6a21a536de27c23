"""Source text in, words and breaks between turns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlx_simul.stream.saved import plain_vars
from mlx_simul.stream.turn import Setting
from mlx_simul.text.segmenter import PARAGRAPH, SourceSegmenter
from mlx_simul.text.turn_splitter import TurnBreak, TurnSplitter

Item = str | TurnBreak

_COUNTS = ("_in_turn", "has_words", "is_closed", "n_words", "_skip_words")


class _Rules(NamedTuple):
    """The rules of a source language, by its name if that is known."""

    language: str | None
    splitter: TurnSplitter


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
        self._turn_options = setting.options.turn
        self._segmenter = SourceSegmenter(self._turn_options.split, paragraphs=setting.has_turns)
        # The rules by which turns are cut, and those from the next turn on.
        self._rules = self._rules_of(setting.source_language) if setting.has_turns else None
        self._next_rules: _Rules | None = None
        self._in_turn = False
        self.has_words = self.is_closed = False
        self.n_words = self._skip_words = 0

    def change(self, setting: Setting) -> None:
        """Cut turns by the rules of another source language, from the next turn on."""
        self._next_rules = self._rules_of(setting.source_language)
        self._change_between_turns()

    @property
    def state(self) -> dict[str, Any]:
        """All there is to save, half a word included; assigning it restores it.

        It holds no functions, so a feed that takes it was made with the same.
        """
        return {
            "segmenter": plain_vars(self._segmenter),
            "rules": self._rules and (self._rules.language, plain_vars(self._rules.splitter)),
            "next_rules": self._next_rules and (self._next_rules.language,),
            **{name: getattr(self, name) for name in _COUNTS},
        }

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        vars(self._segmenter).update(value["segmenter"])
        if value["rules"] is not None:
            language, splitter = value["rules"]
            self._rules = self._rules_of(language)
            vars(self._rules.splitter).update(splitter)
        if value["next_rules"] is not None:
            self._next_rules = self._rules_of(*value["next_rules"])
        for name in _COUNTS:
            setattr(self, name, value[name])

    def skip(self, n_words: int) -> None:
        """Leave out the first words that come, and the breaks between them."""
        self._skip_words = n_words

    def push(self, text: str) -> list[Item]:
        """The words that a piece of text completes."""
        return self._items(self._segmenter.feed(text))

    def end_turn(self) -> list[Item]:
        """The word that has half arrived, and the end of the turn, if one has begun."""
        items = self._items(self._segmenter.flush())
        return items + self._cut([] if self._rules is None else self._rules.splitter.end_turn())

    def close(self) -> list[Item]:
        """What is left, and the end of the last turn."""
        self.is_closed = True
        items = self._items(self._segmenter.finish())
        return items + self._cut([] if self._rules is None else self._rules.splitter.finish())

    def _items(self, words: Sequence[str]) -> list[Item]:
        self.has_words = self.has_words or bool(words)
        if self._rules is None:
            return list(words)
        items: list[Item] = []
        for word in words:
            cut: Sequence[Item] = self._rules.splitter.add(word)
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
        if self._next_rules is not None and not self._in_turn:
            self._rules, self._next_rules = self._next_rules, None

    def _kept(self, items: Sequence[Item]) -> list[Item]:
        self.n_words += sum(isinstance(item, str) for item in items)
        for at, item in enumerate(items):
            if not self._skip_words:
                return list(items[at:])
            self._skip_words -= isinstance(item, str)
        return []

    def _rules_of(self, language: str | None) -> _Rules:
        turn = self._turn_options
        splitter = TurnSplitter(
            language, max_turn_words=turn.max_turn_words, splitter=turn.splitter
        )
        return _Rules(language, splitter)
