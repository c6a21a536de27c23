"""The fixed text around a source: a chat template, or a plain frame for base models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from mlx_simul.errors import PromptError
from mlx_simul.options import Tools
from mlx_simul.text.answers import answer_frame, end_of_users_turn, opened_for_text
from mlx_simul.text.templates import SOFT_SWITCH, WAY_OUT, render, template_source

MAX_PROMPT_CHARS = 32_768
"""The most characters that instruction, languages, context, glossary and examples have together."""

# Plain letters pass through every template unchanged and occur in none.
_GUIDE = "mlxsimulguidesentinel"
_SOURCE = "mlxsimulsourcesentinel"
_TURN = "mlxsimul{}turnsentinel"
_RESULT = "mlxsimulresultsentinel"

_SURROGATE = re.compile("[\ud800-\udfff]")

# The same sentences in each language, so that every pair of these languages has examples.
_SENTENCES = {
    "english": (
        "Good morning, I am looking for the station.",
        "The little shop on the corner is closed today.",
        "We will call you when the letter arrives.",
    ),
    "french": (
        "Bonjour, je cherche la gare.",
        "Le petit magasin du coin est fermé aujourd'hui.",
        "Nous vous appellerons quand la lettre arrivera.",
    ),
    "german": (
        "Guten Morgen, ich suche den Bahnhof.",
        "Der kleine Laden an der Ecke ist heute geschlossen.",
        "Wir rufen Sie an, wenn der Brief ankommt.",
    ),
    "spanish": (
        "Buenos días, busco la estación.",
        "La pequeña tienda de la esquina está cerrada hoy.",
        "Le llamaremos cuando llegue la carta.",
    ),
    "italian": (
        "Buongiorno, cerco la stazione.",
        "Il piccolo negozio all'angolo oggi è chiuso.",
        "La chiameremo quando arriverà la lettera.",
    ),
}


@dataclass(frozen=True)
class TurnParts:
    """What stands before a source that has finished pairs before it, in order.

    Args:
        before: Template text; control tokens in it count.
        guide: Text that came from users.
        pieces: Template text before the first pair's source, between the two texts of a pair and
            between pairs, and up to the source: one more than there are texts.
    """

    before: str
    guide: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class PromptParts:
    """A prompt in order: before, guide, between, {source}, suffix, header.

    Args:
        before: Template text; control tokens in it count.
        guide: Text that came from users.
        between: Template text up to the source.
        suffix: From the source to the end of the user's turn.
        header: The start of the answer; never empty.
        closing: What follows an answer, where a template shows it.
    """

    before: str
    guide: str
    between: str
    suffix: str
    header: str
    closing: str = ""


def check_texts(texts: Iterable[object]) -> None:
    """Refuses what users may not put into a prompt.

    Args:
        texts: All that goes into the prompt but the source.

    Raises:
        PromptError: One is not a text or holds a lone surrogate, or they are longer together than
            ``MAX_PROMPT_CHARS``.
    """
    size = 0
    for text in texts:
        if not isinstance(text, str):
            raise PromptError(
                "instruction, languages, context, glossary and examples must be text, but one is "
                f"{text!r}; give a str."
            )
        if _SURROGATE.search(text):
            raise PromptError(
                f"a prompt text contains a lone surrogate (half a character): {text[:80]!r}; "
                'decode it with errors="replace".'
            )
        size += len(text)
    if size > MAX_PROMPT_CHARS:
        raise PromptError(
            f"instruction, glossary, context and examples have {size} characters together; at most "
            f"{MAX_PROMPT_CHARS} are accepted. Shorten the context or the glossary."
        )


def guide_text(
    instruction: str | None, glossary: Mapping[str, str] | None, context: str | None
) -> str:
    """Joins what is to guide a translation, each part under its own heading.

    Args:
        instruction: Stands first, without a heading.
        glossary: Source term -> target term; under "Glossary:", a line "- a = b" each.
        context: Under "Context:".

    Returns:
        The text; empty if there is nothing to say.
    """
    terms = "\n".join(f"- {source} = {target}" for source, target in (glossary or {}).items())
    context = (context or "").strip()
    parts = (
        (instruction or "").strip(),
        f"Glossary:\n{terms}" if terms else "",
        f"Context:\n{context}" if context else "",
    )
    return "\n\n".join(part for part in parts if part)


def chat_frame(tokenizer: Any, guide: str, today: date, tools: Tools = ()) -> PromptParts:
    """Renders the chat template around sentinels, so that a text is what the header asks for.

    The guide is the system message or, where the template refuses, drops or misplaces one, comes
    first in the user's turn. Thoughts are switched off or closed, and channels opened, as the
    template's family does it.

    Args:
        tokenizer: One with a chat template.
        guide: The instruction; may be empty.
        today: What the template takes for the date.
        tools: JSON schemas of functions that may be called.

    Returns:
        The parts. The suffix is empty if the start of an answer changes how the user's turn ends:
        all that follows the source is header then.

    Raises:
        PromptError: The template fails, or does not show the user's text exactly once, or writes
            nothing after it, or leaves a thought open.
    """
    *attempts, last = _arrangements(guide, SOFT_SWITCH in template_source(tokenizer))
    for messages in attempts:
        try:
            return _rendered(tokenizer, messages, guide, today, tools)
        except PromptError:
            continue
    return _rendered(tokenizer, last, guide, today, tools)


def _arrangements(
    guide: str, has_soft_switch: bool, first: str = _SOURCE
) -> list[list[dict[str, str]]]:
    """Where the guide may stand before the first text of a user, best first."""
    user = {"role": "user", "content": first}
    in_system_turn = {"role": "system", "content": _GUIDE}
    in_user_turn = {"role": "user", "content": f"{_GUIDE}\n\n{first}"}
    found = [[in_system_turn, user], [in_user_turn]] if guide else [[user]]
    if has_soft_switch:
        switch = {"role": "system", "content": f"{_GUIDE if guide else ''}{SOFT_SWITCH}"}
        found.insert(0, [switch, user])
    return found


def _rendered(
    tokenizer: Any, messages: list[dict[str, str]], guide: str, today: date, tools: Tools
) -> PromptParts:
    shown = partial(render, tokenizer, today=today, tools=tools)
    text = shown(messages, starts_answer=True)
    prefix, asked = _around(_SOURCE, text)
    _refuse_switch_left_in(text, messages)
    before, between = _around(_GUIDE, prefix) if guide else ("", prefix)
    frame = answer_frame(
        lambda answer: shown([*messages, answer]),
        lambda answer: shown([*messages, answer], switches_off=False),
        _SOURCE,
        asked,
    )
    after = opened_for_text(asked, frame)
    _, suffix = _around(_SOURCE, shown(messages))
    if suffix == asked or not after.startswith(suffix):
        suffix = end_of_users_turn(asked, frame)
    header = after.removeprefix(suffix)
    if not header:
        raise PromptError(
            "the chat template writes nothing after the user's text, so no token could start the "
            f"translation; {WAY_OUT}."
        )
    return PromptParts(before, guide, between, suffix, header, frame.closing)


def chat_turns(tokenizer: Any, guide: str, today: date, tools: Tools, n_pairs: int) -> TurnParts:
    """Renders the chat template with finished pairs, each a user's turn and an assistant's.

    The guide stands where ``chat_frame`` puts it: in the system message, or first in the first
    user's turn.

    Args:
        tokenizer: One with a chat template.
        guide: The instruction; may be empty.
        today: What the template takes for the date.
        tools: JSON schemas of functions that may be called.
        n_pairs: Finished pairs before the source, at least 1.

    Returns:
        The parts of the prompt up to the source.

    Raises:
        PromptError: The template fails, or does not show each text exactly once.
    """
    # Letters only, as in the other sentinels.
    first, *later = turns = [_TURN.format("x" * i) for i in range(2 * n_pairs)]
    others = [
        {"role": "user" if i % 2 else "assistant", "content": text}
        for i, text in enumerate((*later, _SOURCE))
    ]
    *attempts, last = _arrangements(guide, SOFT_SWITCH in template_source(tokenizer), first)
    for messages in attempts:
        try:
            return _rendered_turns(tokenizer, [*messages, *others], guide, today, tools, turns)
        except PromptError:
            continue
    return _rendered_turns(tokenizer, [*last, *others], guide, today, tools, turns)


def _rendered_turns(
    tokenizer: Any,
    messages: list[dict[str, str]],
    guide: str,
    today: date,
    tools: Tools,
    turns: Sequence[str],
) -> TurnParts:
    text = render(tokenizer, messages, today, starts_answer=True, tools=tools)
    _refuse_switch_left_in(text, messages)
    prefix, _ = _around(_SOURCE, text)
    before, rest = _around(_GUIDE, prefix) if guide else ("", prefix)
    pieces: list[str] = []
    for turn in turns:
        piece, rest = _around(turn, rest)
        pieces.append(piece)
    return TurnParts(before, guide, (*pieces, rest))


def tool_turn(
    tokenizer: Any, today: date, tools: Tools, name: str, arguments: Mapping[str, Any], end: str
) -> tuple[str, str]:
    """Renders what stands around the result of a call, up to the start of the next answer.

    Args:
        tokenizer: One with a chat template.
        today: What the template takes for the date.
        tools: JSON schemas of the functions that may be called.
        name: Of the function that was called.
        arguments: It was called with.
        end: What ends a call.

    Returns:
        The text from the end of the call to the result, and from there to the next answer.

    Raises:
        PromptError: The template fails, or does not show call and result.
    """
    call = {"id": "call00000", "type": "function"}
    call |= {"function": {"name": name, "arguments": dict(arguments)}}
    messages = [
        {"role": "user", "content": _SOURCE},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": name, "tool_call_id": call["id"], "content": _RESULT},
    ]
    text = render(tokenizer, messages, today, starts_answer=True, tools=tools)
    _, behind_source = _around(_SOURCE, text)
    before, after = _around(_RESULT, behind_source)
    _, found, to_result = before.rpartition(end)
    if not end or not found or not after:
        raise PromptError(
            "the chat template does not show where a call ends and its result begins, so results "
            "cannot be given back; use the calls alone, or another model."
        )
    return to_result, after


def _refuse_switch_left_in(text: str, messages: list[dict[str, str]]) -> None:
    if SOFT_SWITCH in text and SOFT_SWITCH in messages[0]["content"]:
        raise PromptError(f"the chat template does not take {SOFT_SWITCH!r} out; {WAY_OUT}.")


def _around(sentinel: str, text: str) -> tuple[str, str]:
    parts = text.split(sentinel)
    if len(parts) != 2:
        names = {
            _GUIDE: "the instruction",
            _SOURCE: "the user's text",
            _RESULT: "the result of a tool",
        }
        what = names.get(sentinel, "an earlier turn")
        raise PromptError(
            f"the chat template shows {what} {len(parts) - 1} times instead of once; {WAY_OUT}."
        )
    return parts[0], parts[1]


def built_in_examples(source_language: str, target_language: str) -> list[tuple[str, str]]:
    """Gives example translations between two languages, named in English.

    Returns:
        Pairs (source, translation); none unless both languages are among English, French, German,
        Spanish and Italian, and differ.
    """
    source, target = source_language.casefold(), target_language.casefold()
    if source == target or not {source, target} <= _SENTENCES.keys():
        return []
    return list(zip(_SENTENCES[source], _SENTENCES[target], strict=True))


def few_shot_frame(
    guide: str,
    examples: Sequence[tuple[str, str]],
    source_label: str,
    target_label: str,
    line_end: str,
) -> PromptParts:
    """Lays out the plain frame, whose next line a base model continues with a translation.

    Args:
        guide: Text that stands on top; may be empty.
        examples: Pairs (source, translation).
        source_label: What a source line begins with, as in "English".
        target_label: What a target line begins with.
        line_end: What ends a line.

    Returns:
        The parts; all up to the source is ``guide``, but for a space.
    """
    shots = "".join(
        f"{source_label}: {source}{line_end}{target_label}: {target}{line_end}\n"
        for source, target in examples
    )
    top = f"{guide}\n\n" if guide else ""
    return PromptParts("", f"{top}{shots}{source_label}:", " ", line_end, f"{target_label}:")


def few_shot_turns(frame: PromptParts, source_label: str, n_pairs: int) -> TurnParts:
    """Lays out finished pairs as further examples in the plain frame.

    Args:
        frame: The frame without them.
        source_label: What a source line begins with.
        n_pairs: Finished pairs before the source.
    """
    to_target, to_source = f"{frame.suffix}{frame.header} ", f"{frame.suffix}\n{source_label}: "
    return TurnParts("", frame.guide, (frame.between, *(to_target, to_source) * n_pairs))
