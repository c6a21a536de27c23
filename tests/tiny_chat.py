"""A tiny chat model as a folder, as a user has one: weights, tokenizer and chat template."""

from pathlib import Path

from tiny_checkpoints import golden_folder
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""


def write_chat_folder(folder: Path) -> Path:
    """Write the golden Qwen2 with its tokenizer and a ChatML template."""
    golden_folder(folder, "qwen2")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
