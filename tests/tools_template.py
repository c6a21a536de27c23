"""A chat template with tools in the way of Qwen 2.5, and a model that says what a test wants."""

import mlx.core as mx
from golden_cases import GOLDEN
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools
from transformers import PreTrainedTokenizerFast

TEMPLATE = """\
{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Write <tool_call>{"name": "…", "arguments": {}}</tool_call><|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}{% set tool_call = call.function %}<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

FILE_ITEM = {
    "type": "function",
    "function": {
        "name": "file_item",
        "description": "Files an action item.",
        "parameters": {"type": "object", "properties": {"who": {"type": "string"}}},
    },
}


def tokenizer_with_tools(template=TEMPLATE):
    """The golden cases' tokenizer with such a template, as mlx-lm would wrap it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"), eos_token="<|im_end|>"
    )
    fast.chat_template = template
    return TokenizerWrapper(
        fast,
        eos_token_ids=[2],
        tool_call_start=json_tools.tool_call_start,
        tool_call_end=json_tools.tool_call_end,
        tool_parser=json_tools.parse_tool_call,
    )


class Says:
    """A logits processor by which a model writes a text, as far as it has been told to by now.

    Beyond that it ends its turn.
    """

    def __init__(self, tokenizer):
        self._tokenizer, self._ids = tokenizer, []

    def then(self, text):
        """Let it write more."""
        self._ids += self._tokenizer.encode(text, add_special_tokens=False)

    def __call__(self, tokens, logits):
        n_written = len(tokens)
        token = self._ids[n_written] if n_written < len(self._ids) else 2
        return mx.where(mx.arange(logits.shape[-1]) == token, 0.0, -mx.inf)[None]
