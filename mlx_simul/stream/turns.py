"""What a session drives: the turns of a stream, of which one without turns has a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from mlx_simul.engine.prefix import EncodedPrefix
from mlx_simul.errors import PromptError, SavedSessionError
from mlx_simul.events import ToolCall
from mlx_simul.loop.loop import Steps
from mlx_simul.loop.requests import Insertion
from mlx_simul.options import SessionOptions
from mlx_simul.stream.live_turn import LiveTurn, Observer
from mlx_simul.stream.turn import Setting, TurnMaker
from mlx_simul.text.prompts import TokenizedSource
from mlx_simul.text.turn_splitter import TurnBreak

SettingOf: TypeAlias = Callable[[Mapping[str, Any]], Setting]
"""Makes a setting of the options that have changed since the stream began."""


class Turns(Protocol):
    """What a session drives: words in, steps out."""

    def encoded_prefix(self) -> EncodedPrefix:
        """What stands before the source, once the steps have come to NEED_SOURCE."""
        ...

    def add(self, items: Iterable[str | TurnBreak]) -> None:
        """Take words, and breaks between turns."""
        ...

    def close(self) -> None:
        """Say that no more words will come."""
        ...

    def steps(self) -> Steps:
        """Run to the end, yielding events and passes; NEED_SOURCE where words are missing."""
        ...

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written."""
        ...

    def saved(self, first: SessionOptions) -> dict[str, Any]:
        """All there is to save but for the engine, between two steps.

        Args:
            first: the options with which the stream began.
        """
        ...

    def restore(self, saved: Mapping[str, Any], setting_of: SettingOf) -> None:
        """Go on from what was saved, before any step; the engine is restored later.

        Args:
            saved: from a stream that began like this one.
            setting_of: makes a setting of what has changed in the options since then.
        """
        ...


class OneTurn:
    """A stream without turns: one loop.

    Args:
        maker: begins it.
        prefix: what stands before the source, encoded or not.
        source: a source whose tokens are known; then no words are added.
        tokenizer: of the model.
    """

    def __init__(
        self,
        maker: TurnMaker,
        prefix: EncodedPrefix,
        source: TokenizedSource | None,
        tokenizer: Any,
    ) -> None:
        self._maker, self._prefix, self._engine = maker, prefix, maker.engine
        self._source, self._tokenizer = source, tokenizer
        if prefix.state is not None:
            maker.engine.state = prefix.state
        self._turn = self._begin(is_encoded=prefix.state is not None)

    def _begin(self, *, is_encoded: bool) -> LiveTurn:
        setting, prefix_ids = self._maker.setting, self._prefix.token_ids
        self._is_encoded = is_encoded
        loop = self._maker.begin(setting.options.limits.max_words)
        loop.add_segment(prefix_ids, n_encoded=len(prefix_ids) if is_encoded else 0)
        if self._source is not None:
            for word in self._source.segments[1:-1]:
                loop.add_segment(word, self._tokenizer.decode(list(word)))
            loop.close_source(self._source.segments[-1])
        self._prompt = None if setting.prompt is None else setting.prompt_behind(())
        return LiveTurn(loop, self._prompt, self._maker.clock)

    def encoded_prefix(self) -> EncodedPrefix:
        """What the engine holds before any source."""
        return replace(self._prefix, state=self._engine.state)

    def add(self, items: Iterable[str | TurnBreak]) -> None:
        """Take words: a stream of one turn has no breaks between turns."""
        for item in items:
            self._turn.add(item)

    def insert(self, call: ToolCall, result: str) -> None:
        """Take the result of a tool.

        Raises:
            PromptError: if there are no tools, or the template cannot show it.
        """
        if self._prompt is None:
            raise PromptError("a source whose tokens are known has no tools in its prompt.")
        self._turn.insert(Insertion(call.call, self._prompt.tool_result_ids(call, result)))

    def close(self) -> None:
        """Say that no more words will come."""
        self._turn.add(TurnBreak("source_end"))

    def steps(self) -> Steps:
        """The steps of the loop."""
        return self._turn.steps()

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written."""
        self._turn.observe(observer)

    def saved(self, first: SessionOptions) -> dict[str, Any]:
        """All there is to save but for the engine."""
        return {
            "prefix_ids": self._prefix.token_ids,
            "is_encoded": self._is_encoded,
            "record": self._turn.record,
        }

    def restore(self, saved: Mapping[str, Any], setting_of: SettingOf) -> None:
        """Go on from what was saved; the engine is restored later."""
        require_prefix(saved["prefix_ids"], self._prefix.token_ids)
        self._turn = self._begin(is_encoded=saved["is_encoded"])
        self._turn.play_again(saved["record"])


def require_prefix(held: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Check that a stream begins with the tokens with which a saved one did.

    Raises:
        SavedSessionError: if it does not.
    """
    if held != wanted:
        raise SavedSessionError(
            f"the saved stream begins with {len(held)} tokens that are not the {len(wanted)} of "
            "this one: the tokenizer, its template or the checkpoint's settings have changed."
        )
