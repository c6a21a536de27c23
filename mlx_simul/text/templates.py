"""A tokenizer's chat template, rendered: thoughts switched off, and one date for its clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from mlx_simul.errors import PromptError
from mlx_simul.options import Tools

WAY_OUT = 'give frame="few-shot", or another chat template'
"""What a user can do about a template that cannot be used."""

SOFT_SWITCH = "/no_think"
"""What some templates (Nemotron, SmolLM3) take out of a system message, to switch thoughts off."""

Messages = Sequence[Mapping[str, Any]]

# Qwen 3, GLM, SmolLM3, EXAONE 4, Nemotron 3 …; DeepSeek V3.1, Granite, Kimi K3; Seed-OSS.
_SWITCHES = {"enable_thinking": False, "thinking": False, "thinking_budget": 0}

# Cohere and Mistral know this effort. Others refuse it, or would print it.
_NO_EFFORT = re.compile(r"""reasoning_effort.*["']none["']""", re.DOTALL)

_RANDOM = re.compile(r"\|\s*random\b|\blipsum\s*\(")

# transformers gives templates a strftime_now() that reads the clock, and lets no function of ours
# through in its place; a macro of that name hides it. trim_blocks takes the last line break.
_CLOCK = """\
{%- macro strftime_now(format) -%}
{%- set said = namespace(text=format) -%}
{%- for directive, value in mlx_simul_clock -%}
{%- set said.text = said.text.replace(directive, value) -%}
{%- endfor -%}
{{- said.text -}}
{%- endmacro %}
"""
_DIRECTIVES = [f"%{flag}{name}" for flag in ("-", "") for name in "aAbBcdDeFgGhHIjmMpSTuUVwWxXyYzZ"]


def template_source(tokenizer: Any) -> str:
    """The text of a tokenizer's chat template; empty where a program of mlx-lm's stands for one."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default") or next(iter(template.values()), "")
    return template or ""


def render(
    tokenizer: Any,
    messages: Messages,
    today: date,
    *,
    starts_answer: bool = False,
    switches_off: bool = True,
    tools: Tools = (),
) -> str:
    """Renders messages.

    Args:
        tokenizer: One with a chat template.
        messages: Each with a role and a content.
        today: What the template takes for the date. Its clock stands at midnight.
        starts_answer: Whether an answer is to follow (``add_generation_prompt``).
        switches_off: Whether to set the template's variables so that no thought precedes it.
        tools: JSON schemas of functions that may be called.

    Raises:
        PromptError: The template fails, or draws random text.
    """
    source = template_source(tokenizer)
    if drawn := _RANDOM.search(source):
        raise PromptError(
            f"the chat template draws random text ({drawn.group().strip()!r}), so no two sessions "
            f"would begin alike; {WAY_OUT}."
        )
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": starts_answer}
    # A program has parameters of its own, and mlx-lm's know this one.
    options |= {"enable_thinking": not switches_off}
    if tools:
        options["tools"] = [*tools]
    if source and switches_off:
        options |= _SWITCHES
        if _NO_EFFORT.search(source):
            options["reasoning_effort"] = "none"
    if "strftime_now" in source:
        options |= {"chat_template": _CLOCK + source, "mlx_simul_clock": _clock(today)}
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except Exception as error:  # a template is a program, and can fail in any way
        roles = " and ".join(message["role"] for message in messages)
        raise PromptError(
            f"the chat template cannot render a {roles} message: {error}; {WAY_OUT}."
        ) from error


def _clock(today: date) -> list[tuple[str, str]]:
    """What each directive of strftime says on a day."""
    # "%%" is set aside while the others are replaced.
    said = [(directive, today.strftime(directive)) for directive in _DIRECTIVES]
    return [("%%", "\0"), *said, ("\0", "%")]
