"""How a chat template begins and ends an answer.

A template is asked to write a whole answer, and an answer with a thought before it. What it writes
around them is how its family opens the one, closes the other, and ends both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from mlx_simul.errors import PromptError
from mlx_simul.text.templates import WAY_OUT

_ANSWER = "mlxsimulanswersentinel"
_THOUGHT = "mlxsimulthoughtsentinel"

_TAG = re.compile(r"(<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\])")

_THOUGHT_NAME = r"(?!no)[\w:.-]*(?:think|thought|reason)[\w:.-]*"

# What opens a thought at the end of a header, and what closes it, for templates that show neither.
_CLOSERS = [
    (re.compile(rf"<({_THOUGHT_NAME})>\s*\Z"), r"\n</\1>\n\n"),
    (re.compile(r"\[(THINK)\]\s*\Z"), r"[/\1]"),
    (re.compile(r"◁(think)▷\s*\Z"), r"◁/\1▷"),
    (re.compile(r"<\|START_(THINKING)\|>\s*\Z"), r"<|END_\1|>"),
    (re.compile(r"<\|begin_of_(\w+)\|>\s*\Z"), r"<|end_of_\1|>"),
    (re.compile(r"<\|think([:_])start\|>\s*\Z"), r"<|think\1end|>"),
    (re.compile(r"<\|(inner)_prefix\|>\s*\Z"), r"<|\1_suffix|>"),
    (re.compile(r"<\|channel>thought\s*\Z"), r"<channel|>"),
    (re.compile(r"<\|open\|>(think)<\|sep\|>\s*\Z"), r"<|close|>\1<|sep|>"),
]
_OPEN_THOUGHT = re.compile(
    r"[<\[◁{](?![^<>\[\]◁▷{}]*(?:/|no_?think|end|close|suffix))"
    r"[^<>\[\]◁▷{}]*(?:think|thought|reason|analysis|reflect)[^<>\[\]◁▷{}]*[>\]▷}]\s*\Z"
    r"|<\|channel\|>(?:analysis|commentary)(?:<\|message\|>)?\s*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AnswerFrame:
    """What a template writes around an answer.

    Attributes:
        opening: From the end of the user's text to the answer, if no thought precedes it; ``None``
            if the template cannot be asked.
        closing: What follows the answer.
        thought: What stands before a thought, and between it and the answer; ``None`` if the
            template shows no thoughts.
    """

    opening: str | None = None
    closing: str = ""
    thought: tuple[str, str] | None = None


RenderAnswer: TypeAlias = Callable[[dict[str, str]], str]
"""Renders a conversation that ends with this message of the assistant."""


def answer_frame(
    without_thought: RenderAnswer, with_thought: RenderAnswer, source: str, asked: str
) -> AnswerFrame:
    """Finds out how a template writes an answer.

    Args:
        without_thought: Renders while thoughts are switched off.
        with_thought: Renders while they are not.
        source: The user's text, before the answer.
        asked: What the template writes after that text to ask for an answer.
    """
    answer = {"role": "assistant", "content": _ANSWER}
    try:
        opening, closing = _cut(without_thought(answer), source, _ANSWER)
    except PromptError:
        # It may refuse an answer, or one that nothing follows. How it asks for one is known still.
        return AnswerFrame()
    if opening != asked and closing.strip().startswith(asked.strip()):
        # It writes the assistant's messages like the user's, so they say nothing about answers.
        return AnswerFrame()
    # The names that templates know a thought by.
    thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
    try:
        before, between, _ = _cut(with_thought(answer | thought), source, _THOUGHT, _ANSWER)
    except PromptError:
        return AnswerFrame(opening, closing)
    return AnswerFrame(opening, closing, (before, between))


def _cut(text: str, *sentinels: str) -> list[str]:
    """What follows each of some texts that must stand in another once each, in this order."""
    parts = re.split("|".join(sentinels), text)
    if [*re.findall("|".join(sentinels), text)] != [*sentinels]:
        raise PromptError(f"the chat template does not show an answer as it is; {WAY_OUT}.")
    return parts[1:]


def opened_for_text(asked: str, frame: AnswerFrame) -> str:
    """Completes what a template writes to ask for an answer, so that text is what follows.

    Args:
        asked: All from the end of the user's text, as the template writes it.
        frame: How it writes answers.

    Returns:
        The same with thoughts closed and the answer's own part opened, as its family does.

    Raises:
        PromptError: A thought stays open.
    """
    opened = _with_opening(asked, frame)
    for opens, closes in _CLOSERS:
        if found := opens.search(opened):
            opened += found.expand(closes)
            break
    if found := _OPEN_THOUGHT.search(opened):
        raise PromptError(
            f"the chat template starts a thinking block ({found.group().strip()!r}), and mlx_simul "
            "does not know how to end it, so the model's thinking would appear in the translation; "
            f"{WAY_OUT}."
        )
    return opened


def _with_opening(asked: str, frame: AnswerFrame) -> str:
    opening = frame.opening
    if opening is None:
        return asked
    # A space before the answer belongs to its first token.
    if opening.startswith(asked):
        return asked + opening[len(asked) :].rstrip(" ")
    if frame.thought is not None:
        before, between = frame.thought
        rest = asked.removeprefix(before.rstrip())
        is_closed = between.strip() in rest
        if len(rest) < len(asked) and not is_closed:
            # It may be closed already, and the answer's own part not opened yet.
            begun = asked.startswith(before) and not between.strip().startswith(rest.strip())
            return (asked if begun else before) + between.rstrip(" ")
    return asked + _further_tags(asked, opening)


def _further_tags(asked: str, opening: str) -> str:
    """The tags that open an answer, after what both begin with: Cohere's <|START_RESPONSE|>."""
    ours, theirs = _TAG.split(asked), _TAG.split(opening)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    further = "".join(theirs[len(list(alike)) :]).strip()
    is_known = not further or asked.rstrip().endswith(further)
    return "" if is_known or not re.fullmatch(rf"(?:{_TAG.pattern}\s*)+", further) else further


def end_of_users_turn(asked: str, frame: AnswerFrame) -> str:
    """What ends a user's turn, of a template that always starts an answer (Llama 3's first one).

    Args:
        asked: All from the end of the user's text.
        frame: How the template writes answers. A turn ends in the same way whichever side speaks.

    Returns:
        The part of ``asked``; nothing if the two do not begin with the same tag.
    """
    end = re.match(rf"\s*{_TAG.pattern}\s*", frame.closing)
    is_it = end is not None and asked.startswith(end.group()) and asked != end.group()
    return end.group() if end is not None and is_it else ""
