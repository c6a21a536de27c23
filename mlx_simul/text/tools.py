"""Calls of tools in a target: where they stand in its text, and what they say.

How a family spells a call, and how one is parsed, mlx-lm knows (``mlx_lm.tool_parsers``); its
tokenizer wrapper carries both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from mlx_simul.errors import InvalidOptionError, PromptError
from mlx_simul.events import ToolCall
from mlx_simul.options import Tools
from mlx_simul.text.detokenizer import StableDetokenizer


@dataclass(frozen=True)
class ToolFormat:
    """How a model writes calls.

    Attributes:
        start: text before a call.
        end: text after it; empty where a call goes on to the end of the turn.
        parse: what mlx-lm makes of the text between the two, given the tools.
        tools: JSON schemas of the functions that may be called.
    """

    start: str
    end: str
    parse: Callable[[str, Any], Any]
    tools: Tools

    def calls(self, text: str) -> list[ToolCall]:
        """The calls in a text between start and end, not numbered yet; if there are none, one that
        says why.

        Args:
            text: as the model wrote it.
        """
        try:
            parsed = self.parse(text, [*self.tools])
            found = [parsed] if isinstance(parsed, Mapping) else [*parsed]
            if not found:
                raise ValueError("there is no call in it")
            return [ToolCall(0, str(call["name"]), _arguments(call), text) for call in found]
        except Exception as error:  # a parser is code of mlx-lm's, and can fail in any way
            return [ToolCall(0, "", {}, text, f"{type(error).__name__}: {error}")]


def _arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments are not an object but {arguments!r}")
    return dict(arguments)


def result_text(result: Any) -> str:
    """The result of a tool as a target is shown it: text as it is, all else in JSON.

    Raises:
        InvalidOptionError: if JSON cannot represent it.
    """
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOptionError(
            "the result of a tool must be text or a value that JSON can represent, got "
            f"{result!r}: {error}."
        ) from error


def tool_format_of(tokenizer: Any, tools: Tools) -> ToolFormat:
    """How the model of a tokenizer writes calls.

    Raises:
        PromptError: if mlx-lm does not know.
    """
    if not getattr(tokenizer, "has_tool_calling", False):
        raise PromptError(
            "mlx-lm knows no format of tool calls for this tokenizer; use a model whose chat "
            'template has tools, or name a parser of mlx-lm\'s as "tool_parser_type" in its '
            "tokenizer_config.json."
        )
    start, end = tokenizer.tool_call_start, tokenizer.tool_call_end or ""
    return ToolFormat(start, end, tokenizer.tool_parser, tools)


class CallDetokenizer:
    """A detokenizer that keeps calls out of the text.

    Args:
        detokenizer: fresh.
        format: how calls are written.

    Attributes:
        is_in_call: whether a call has begun and not ended.
    """

    def __init__(self, detokenizer: StableDetokenizer, format: ToolFormat) -> None:
        self.is_in_call = False
        self._detokenizer, self._format = detokenizer, format
        self._pending = ""  # of a call, or what may be the start of one
        self._calls: list[str] = []

    def __copy__(self) -> CallDetokenizer:
        twin = CallDetokenizer(copy(self._detokenizer), self._format)
        twin.is_in_call, twin._pending = self.is_in_call, self._pending
        twin._calls = [*self._calls]
        return twin

    @property
    def is_holding(self) -> bool:
        """Whether text is held back."""
        return bool(self._pending or self._detokenizer.is_holding)

    def add(self, token: int) -> str:
        """Text outside of calls that became stable with this token."""
        return self._without_calls(self._detokenizer.add(token))

    def flush(self) -> str:
        """All text still held back; a call that is open ends here."""
        text = self._without_calls(self._detokenizer.flush())
        rest, self._pending = self._pending, ""
        if not self.is_in_call:
            return text + rest
        self._calls.append(rest)
        self.is_in_call = False
        return text

    def take_calls(self) -> list[ToolCall]:
        """The calls that have ended since the last time."""
        texts, self._calls = self._calls, []
        return [call for text in texts for call in self._format.calls(text)]

    def _without_calls(self, text: str) -> str:
        said, self._pending = "", self._pending + text
        while True:
            marker = self._format.end if self.is_in_call else self._format.start
            before, found, behind = self._pending.partition(marker) if marker else ("", "", "")
            if not found:
                break
            if self.is_in_call:
                self._calls.append(before)
            else:
                said += before
            self.is_in_call, self._pending = not self.is_in_call, behind
        if not self.is_in_call:
            n_held = _overlap(self._pending, self._format.start)
            n_said = len(self._pending) - n_held
            said, self._pending = said + self._pending[:n_said], self._pending[n_said:]
        return said


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of a text may begin a marker."""
    sizes = range(min(len(text), len(marker) - 1), 0, -1)
    return next((size for size in sizes if marker.startswith(text[-size:])), 0)
