"""What to do, and what the model should know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import Any, Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.options.base import option, python_only

Frame: TypeAlias = Literal["auto", "chat", "few-shot"]
Pairs: TypeAlias = Sequence[tuple[str, str]]
Tools: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PromptOptions:
    """Task: what to do, and what the model should know.

    Attributes:
        source_language: the language of the source, such as English.
        target_language: the language to translate to, such as French.
        instruction: what to do with the source, instead of "Translate the following … paragraph
            to …". It is the system message where the chat template has one. By default it is what
            the checkpoint was trained on.
        context: text that the model should know.
        glossary: source terms and their translations.
        frame: the chat template, or example translations (for base models); by default the
            template if the tokenizer has one.
        examples: pairs of a source and its translation, for the few-shot frame.
        pairs: finished pairs of a source and its translation, as earlier turns of the chat.
        messages: a chat history instead of an instruction and pairs: at most one system message,
            and then user and assistant in turns.
        date: the day that a chat template prints, such as 2026-07-30; today by default.
        tools: JSON schemas of functions that the model may call, as chat templates take them.
    """

    source_language: str | None = option(None, "--from", "LANGUAGE")
    target_language: str | None = option(None, "--to", "LANGUAGE")
    instruction: str | None = None
    context: str | None = option(None, metavar="TEXT|@FILE")
    glossary: Mapping[str, str] | None = option(None, metavar="FILE")
    frame: Frame = "auto"
    examples: Pairs | None = python_only()
    pairs: Pairs = python_only(())
    messages: Sequence[Mapping[str, str]] | None = python_only()
    date: Date | str | None = option(None, metavar="YYYY-MM-DD", plain=str | None)
    tools: Tools = python_only(())

    def __post_init__(self) -> None:
        if isinstance(self.date, str):
            try:
                object.__setattr__(self, "date", Date.fromisoformat(self.date))
            except ValueError as error:
                raise InvalidOptionError(
                    f"date must be a day as in '2026-07-30', got {self.date!r}: {error}."
                ) from error
        elif self.date is not None and not isinstance(self.date, Date):
            raise InvalidOptionError(
                f"date must be a datetime.date or a text as in '2026-07-30', got {self.date!r}."
            )
        if self.messages is not None:
            self._take_messages(self.messages)
        object.__setattr__(self, "tools", _checked_tools(self.tools))

    def _take_messages(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Say a chat history as an instruction and pairs."""
        given = {"instruction": self.instruction, "pairs": self.pairs}
        if twice := [name for name, value in given.items() if value]:
            raise InvalidOptionError(
                f"messages hold instruction and pairs; leave {' and '.join(twice)} out."
            )
        if any(not {"role", "content"} <= set(message) for message in messages):
            raise InvalidOptionError(
                f"each of messages must have a role and a content, got {list(messages)!r}."
            )
        said = [(message["role"], message["content"]) for message in messages]
        system = [content for role, content in said[:1] if role == "system"]
        turns = said[len(system) :]
        roles = [role for role, _ in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2):
            raise InvalidOptionError(
                "messages must be at most one system message and then user and assistant in turns, "
                f"ending with the assistant, got the roles {[role for role, _ in said]}. The next "
                "user message is the source: feed it instead."
            )
        texts = [content for _, content in turns]
        object.__setattr__(self, "pairs", tuple(zip(texts[::2], texts[1::2], strict=True)))
        object.__setattr__(self, "instruction", system[0] if system else None)
        object.__setattr__(self, "messages", None)


def _checked_tools(given: Any) -> tuple[Mapping[str, Any], ...]:
    """Tools, which are JSON schemas of functions.

    Raises:
        InvalidOptionError: if one is not, or has no name, or cannot be represented in JSON.
    """
    # An iterator would be used up by the first look.
    tools = tuple(given) if isinstance(given, Iterable) else (given,)
    try:
        json.dumps(tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOptionError(
            f"tools must be schemas that JSON can represent, got {tools!r}: {error}."
        ) from error
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidOptionError(
                'each of tools must be a schema as in {"type": "function", "function": {"name": '
                f'"file_item", "parameters": {{...}}}}}}, got {tool!r}.'
            )
    return tools
