"""Chat templates in the shapes that families have, reduced to what opens and ends an answer.

Each is named after a family whose template is like it. The real ones are tried by
``tox -e real-tokenizers``.
"""

from dataclasses import dataclass

from tiny_tokenizers import CHATML


def _exact(template: str) -> str:
    """The template with line breaks that Jinja does not take for its own."""
    return template.replace("\n", "{{ '\\n' }}")


def _turns(user: str, answer: str, asked: str) -> str:
    """A template of a user's turn, an assistant's, and what asks for one."""
    return _exact(
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}{answer}{{% else %}}{user}"
        f"{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{asked}{{% endif %}}"
    )


_T = "{{ m.reasoning_content }}"
_HAS_T = "{% if m.reasoning_content is defined %}"
_M = "{{ m.content }}"
_OFF = "enable_thinking is defined and not enable_thinking"


@dataclass(frozen=True)
class Family:
    """A template, and what a prompt for a translation is to take from it.

    Attributes:
        suffix: what ends the user's turn.
        header: what opens an answer without a thought.
        closing: the token that ends an answer; empty if the template shows none.
        tokens: control tokens of its tokenizer that are flagged special.
        plain_tokens: those that are not.
    """

    template: str
    suffix: str
    header: str
    closing: str
    tokens: tuple[str, ...]
    plain_tokens: tuple[str, ...] = ()


_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")

FAMILIES = {
    "gpt-oss": Family(
        _turns(
            f"<|start|>{{{{ m.role }}}}<|message|>{_M}<|end|>",
            f"{_HAS_T}<|start|>assistant<|channel|>analysis<|message|>{_T}<|end|>{{% endif %}}"
            f"<|start|>assistant<|channel|>final<|message|>{_M}<|return|>",
            "<|start|>assistant",
        ),
        "<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>"),
    ),
    "qwen3": Family(
        CHATML.replace(
            "assistant\n", f"assistant\n{{% if {_OFF} %}}<think>\n\n</think>\n\n{{% endif %}}"
        ),
        "<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>",
        _IM,
        _THINK,
    ),
    "qwen3-thinking": Family(
        _turns(
            f"<|im_start|>{{{{ m.role }}}}\n{_M}<|im_end|>\n",
            f"<|im_start|>assistant\n<think>\n{_HAS_T}{_T}{{% endif %}}\n</think>\n\n{_M}"
            "<|im_end|>\n",
            "<|im_start|>assistant\n<think>\n",
        ),
        "<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>",
        _IM,
        _THINK,
    ),
    "deepseek-r1": Family(
        _turns(
            f"<｜User｜>{_M}",
            f"<｜Assistant｜>{_M}<｜end▁of▁sentence｜>",
            "<｜Assistant｜><think>\n",
        ),
        "",
        "<｜Assistant｜><think>\n\n</think>\n\n",
        "<｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        _THINK,
    ),
    "deepseek-v3.1": Family(
        _turns(
            f"<｜User｜>{_M}",
            f"<｜Assistant｜></think>{_M}<｜end▁of▁sentence｜>",
            "<｜Assistant｜>{% if thinking is defined and not thinking %}</think>{% else %}<think>"
            "{% endif %}",
        ),
        "",
        "<｜Assistant｜></think>",
        "<｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        _THINK,
    ),
    "exaone-deep": Family(
        _turns(
            f"[|{{{{ m.role }}}}|]{_M}\n",
            f"[|assistant|]{_M}[|endofturn|]\n",
            "[|assistant|]<thought>\n",
        ),
        "\n",
        "[|assistant|]<thought>\n\n</thought>\n\n",
        "[|endofturn|]",
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        ("<thought>", "</thought>"),
    ),
    "seed-oss": Family(
        _turns(
            f"<seed:bos>{{{{ m.role }}}}\n{_M}<seed:eos>",
            f"<seed:bos>assistant\n{_HAS_T}<seed:think>{_T}</seed:think>\n{{% endif %}}{_M}"
            "<seed:eos>",
            "<seed:bos>assistant\n<seed:think>"
            "{% if thinking_budget == 0 %}I answer at once.</seed:think>{% endif %}",
        ),
        "<seed:eos>",
        "<seed:bos>assistant\n<seed:think>I answer at once.</seed:think>",
        "<seed:eos>",
        ("<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>"),
    ),
    "seed-oss without a budget": Family(
        _turns(
            f"<seed:bos>{{{{ m.role }}}}\n{_M}<seed:eos>",
            f"<seed:bos>assistant\n{_HAS_T}<seed:think>{_T}</seed:think>\n{{% endif %}}{_M}"
            "<seed:eos>",
            "<seed:bos>assistant\n<seed:think>",
        ),
        "<seed:eos>",
        "<seed:bos>assistant\n<seed:think></seed:think>\n",
        "<seed:eos>",
        ("<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>"),
    ),
    "magistral": Family(
        _turns(f"[INST]{_M}[/INST]", f"{_M}</s>", "[THINK]"),
        "[/INST]",
        "[THINK][/THINK]",
        "</s>",
        ("[INST]", "[/INST]", "</s>", "[THINK]", "[/THINK]"),
    ),
    "command": Family(
        _turns(
            f"<|START_OF_TURN|><|USER|>{_M}<|END_OF_TURN|>",
            f"<|START_OF_TURN|><|CHATBOT|>{_HAS_T}<|START_THINKING|>{_T}<|END_THINKING|>"
            f"{{% endif %}}<|START_TEXT|>{_M}<|END_TEXT|><|END_OF_TURN|>",
            "<|START_OF_TURN|><|CHATBOT|><|START_THINKING|>"
            "{% if reasoning_effort == 'none' %}<|END_THINKING|>{% endif %}",
        ),
        "<|END_OF_TURN|>",
        "<|START_OF_TURN|><|CHATBOT|><|START_THINKING|><|END_THINKING|><|START_TEXT|>",
        "<|END_TEXT|>",
        (
            *("<|START_OF_TURN|>", "<|USER|>", "<|CHATBOT|>", "<|END_OF_TURN|>", "<|END_TEXT|>"),
            *("<|START_TEXT|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        ),
    ),
    "gemma4": Family(
        _turns(
            f"<|turn>{{{{ m.role }}}}\n{_M}<turn|>\n",
            f"<|turn>model\n{_M}<turn|>\n",
            "<|turn>model\n<|channel>thought\n",
        ),
        "<turn|>\n",
        "<|turn>model\n<|channel>thought\n<channel|>",
        "<turn|>",
        ("<|turn>", "<turn|>", "<|channel>", "<channel|>"),
    ),
    "glm": Family(
        _turns(
            f"<|user|>\n{_M}{{% if {_OFF} %}}/nothink{{% endif %}}",
            f"<|assistant|>\n<think>{_HAS_T}{_T}{{% endif %}}</think>\n{_M}",
            f"<|assistant|>{{% if {_OFF} %}}\n<think></think>{{% endif %}}",
        ),
        "/nothink",
        "<|assistant|>\n<think></think>\n",
        "",
        ("<|user|>", "<|assistant|>"),
        _THINK,
    ),
    "nemotron": Family(
        "{% set think = '/no_think' not in messages[0].content %}"
        + _turns(
            "<extra_1>{{ m.role }}\n{{ m.content.replace('/no_think', '') }}\n",
            f"<extra_1>assistant\n<think>\n{_M}\n<extra_2>\n",
            "<extra_1>assistant\n{% if think %}<think>\n{% else %}<think></think>{% endif %}",
        ),
        "\n",
        "<extra_1>assistant\n<think></think>",
        "<extra_2>",
        ("<extra_1>", "<extra_2>"),
        _THINK,
    ),
    "apriel": Family(
        _turns(
            f"<|begin_{{{{ m.role }}}}|>\n{_M}",
            f"\n<|begin_assistant|>\n{_HAS_T}{_T}\n[BEGIN FINAL RESPONSE]\n{{% endif %}}{_M}"
            "<|end|>",
            "\n<|begin_assistant|>\nHere are my steps:\n",
        ),
        "",
        "\n<|begin_assistant|>\nHere are my steps:\n\n[BEGIN FINAL RESPONSE]\n",
        "<|end|>",
        ("<|begin_user|>", "<|begin_assistant|>", "<|end|>"),
    ),
    "llama3": Family(
        _exact(
            "{% for m in messages %}<|start|>{{ m.role }}<|header_end|>\n\n{{ m.content }}"
            "<|eot_id|>{% endfor %}<|start|>assistant<|header_end|>\n\n"
        ),
        "<|eot_id|>",
        "<|start|>assistant<|header_end|>\n\n",
        "<|eot_id|>",
        ("<|start|>", "<|header_end|>", "<|eot_id|>"),
    ),
    "phi3": Family(
        _exact(
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
        ),
        "<|end|>\n",
        "<|assistant|>\n",
        "<|end|>",
        ("<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
    ),
    "reka": Family(
        _turns(f"human: {_M}<sep>", f"assistant: {_M}\n\n<sep>", "assistant:"),
        "<sep>",
        "assistant:",
        "<sep>",
        ("<sep>",),
    ),
}
