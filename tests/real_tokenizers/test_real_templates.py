"""Headers and ends by the families' own templates (tox -e real-tokenizers).

The templates are real, their tokenizers stand-ins that have the control tokens they write.
"""

from __future__ import annotations

import datetime
import re

import pytest
from fetch import TEMPLATES
from golden_cases import GOLDEN
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from mlx_simul.errors import PromptError
from mlx_simul.text.prompts import StreamingDataPreparator

pytestmark = pytest.mark.real_tokenizers

INSTRUCTION = "Translate the following English paragraph to French"
THOUGHT = re.compile(r"think|thought|reason|channel", re.IGNORECASE)
# What a family's tokenizer has one token for, in all that its template writes.
TOKENS = re.compile(r"<[^<>\s]+>|\[/?(?:INST|SYSTEM_PROMPT|THINK)\]|\[e~\[|\]~b\]")

CHATML = "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>"
QWEN = "<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"
BRIEF = "<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n", "<|im_end|>"
LLAMA = "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"
GRANITE = "<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>"
KIMI = "<|im_end|>", "<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"
INST = "", "[/INST]", "<eos>"
GEMMA4 = "<turn|>\n", "<|turn>model\n<|channel>thought\n<channel|>", "<turn|>"
CHATBOT = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>"
R1 = "<｜Assistant｜><think>\n\n</think>\n\n"
DEEPSEEK_END = "<｜end▁of▁sentence｜>"

# What ends the user's turn, what opens an answer without a thought, and the token that ends it.
FAMILIES = {
    "Apertus-8B-Instruct": ("<|user_end|>", "<|assistant_start|>", ""),
    "Apriel-1.6-15b-Thinker-fixed": (
        *(
            "",
            "\n<|begin_assistant|>\nHere are my reasoning steps:\n\n[BEGIN FINAL RESPONSE]\n",
            "",
        ),
    ),
    "Bielik-11B-v3.0-Instruct": CHATML,
    "Cohere2MoE": (
        "<|END_TEXT|><|END_OF_TURN_TOKEN|>",
        f"{CHATBOT}<|START_TEXT|>",
        "<|END_TEXT|>",
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (
        *("", f"<|END_OF_TURN_TOKEN|>{CHATBOT}<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "GLM-4.6": ("/nothink", "<|assistant|>\n<think></think>\n", ""),
    "GLM-4.7-Flash": ("", "<|assistant|></think>", ""),
    "GigaChat3.1-10B-A1.8B": ("<|message_sep|>\n\n", "assistant<|role_sep|>\n", "<|message_sep|>"),
    "HuggingFaceTB-SmolLM3-3B": BRIEF,
    "Kimi-K2-Instruct": KIMI,
    "Kimi-K2-Thinking": (KIMI[0], f"{KIMI[1]}<think></think>", KIMI[2]),
    "Kimi-K3": (
        "<|close|>message<|sep|><|end_of_msg|>",
        '<|open|>message role="assistant"<|sep|><|open|>response<|sep|>',
        "<|close|>",
    ),
    "LFM2-8B-A1B": CHATML,
    "LFM2.5-8B-A1B": CHATML,
    "MiMo-VL": CHATML,
    "MiniMax-M1": (
        *("<end_of_sentence>\n", "<beginning_of_sentence>ai name=assistant\n"),
        "<end_of_sentence>",
    ),
    "MiniMax-M2": ("[e~[\n", "]~b]ai\n<think>\n\n</think>\n\n", "[e~["),
    "MiniMax-M3": ("[e~[\n", "]~b]ai\n</mm:think>", "[e~["),
    "Mistral-Small-3.2-24B-Instruct-2506": INST,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (CHATML[0], f"{CHATML[1]}<think></think>", CHATML[2]),
    "NVIDIA-Nemotron-Nano-v2": ("\n", "<SPECIAL_11>Assistant\n<think></think>", "<SPECIAL_12>"),
    "Qwen-QwQ-32B": (CHATML[0], f"{CHATML[1]}<think>\n</think>", CHATML[2]),
    "Qwen-Qwen2.5-7B-Instruct": CHATML,
    "Qwen-Qwen3-0.6B": QWEN,
    "Qwen3-Coder": CHATML,
    "Qwen3.5-4B": QWEN,
    "Reka-Edge": ("<sep>", "assistant:", "<sep>"),
    "Spark2.5": (DEEPSEEK_END, "<｜start▁of▁sentence｜><|Bot|></think>", DEEPSEEK_END),
    "StepFun3.5-Flash": BRIEF,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("", R1, DEEPSEEK_END),
    "deepseek-ai-DeepSeek-V3.1": ("", "<｜Assistant｜><think></think>", DEEPSEEK_END),
    "deepseek-ai-DeepSeek-V3.2": ("", "<｜Assistant｜><think></think>", DEEPSEEK_END),
    "deepseek-ai-DeepSeek-V4": ("", "<｜Assistant｜></think>", DEEPSEEK_END),
    "google-gemma-2-2b-it": ("<end_of_turn>\n", "<start_of_turn>model\n", "<end_of_turn>"),
    "google-gemma-4-31B-it": GEMMA4,
    "google-gemma-4-31B-it-interleaved": GEMMA4,
    "ibm-granite-granite-3.3-2B-Instruct": GRANITE,
    "ibm-granite-granite-4.1": GRANITE,
    "inclusionai-ling-3.0-flash": (
        *("<|role_end|>", "<role>ASSISTANT</role>\n<think></think>", "<|role_end|>"),
    ),
    "llama-cpp-deepseek-r1": (DEEPSEEK_END, R1, DEEPSEEK_END),
    "llama-cpp-rwkv-world": ("\n\n", "Assistant: <think>\n</think>", ""),
    "meetkai-functionary-medium-v3.2": (LLAMA[0], f"{LLAMA[1]}>>>all\n", LLAMA[2]),
    "meta-llama-Llama-3.1-8B-Instruct": LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": LLAMA,
    "meta-llama-Llama-3.3-70B-Instruct": LLAMA,
    "microsoft-Phi-3.5-mini-instruct": ("<|end|>\n", "<|assistant|>\n", "<|end|>"),
    "mistralai-Ministral-3-14B-Reasoning-2512": INST,
    "mistralai-Mistral-Nemo-Instruct-2407": INST,
    "muse-glimmer": ("<|eot|>", "<|start|>assistant to=user<|message|>", "<|eot|>"),
    "openai-gpt-oss-120b": (
        *("<|end|>", "<|start|>assistant<|channel|>final<|message|>", "<|return|>"),
    ),
    "openbmb-MiniCPM5-1B": QWEN,
    "poolside-Laguna-S-2.1": ("</user>\n", "<assistant></think>", "</assistant>"),
    "tencent-Hy3": (
        "",
        "<｜hy_Assistant:opensource｜><think:opensource></think:opensource>",
        "",
    ),
    "unsloth-Apriel-1.5": ("\n<|end|>\n", "<|assistant|>\n", "<|end|>"),
    "upstage-Solar-Open-100B": ("<|end|>", "<|begin|>assistant<|content|>", "<|end|>"),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    path = TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"{path} does not exist; it is made by tests/real_tokenizers/fetch.py")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"),
        chat_template=path.read_text(encoding="utf-8"),
        bos_token="<bos>",
        eos_token="<eos>",
    )
    turns = [{"role": role, "content": role} for role in ("user", "assistant")]
    texts = [
        tokenizer.apply_chat_template(turns[:n], tokenize=False, add_generation_prompt=n == 1)
        for n in (1, 2)
    ]
    found = TOKENS.findall("".join((*texts, *(FAMILIES.get(name) or ()))))
    tokenizer.add_tokens([AddedToken(text, special=True) for text in dict.fromkeys(found)])
    return tokenizer


@every_family
@pytest.mark.parametrize("instruction", [None, INSTRUCTION], ids=["bare", "instruction"])
def test_an_answer_begins_and_ends_as_its_family_has_it(name: str, instruction) -> None:
    tokenizer = tokenizer_of(name)
    prompt = StreamingDataPreparator(tokenizer, instruction=instruction)
    suffix, header, closing = FAMILIES[name]
    assert (prompt.suffix_text, prompt.header_text) == (suffix, header)
    if closing:
        assert prompt.closing_id == tokenizer.convert_tokens_to_ids(closing)
    assert prompt.closing_id in prompt.end_of_turn_ids
    assert instruction is None or INSTRUCTION in prompt.prefix_text
    # SmolLM3 says so itself; elsewhere it is taken out.
    assert "/no_think" not in prompt.prefix_text or "SmolLM3" in name


def test_seed_is_given_no_budget() -> None:
    prompt = StreamingDataPreparator(tokenizer_of("ByteDance-Seed-OSS"))
    assert prompt.header_text.startswith("<seed:bos>assistant\n<seed:think>\n")
    assert prompt.header_text.endswith("</seed:cot_budget_reflect>\n</seed:think>")
    assert "thinking budget is 0" in prompt.prefix_text


@every_family
def test_a_control_token_is_an_end_or_forbidden(name: str) -> None:
    tokenizer = tokenizer_of(name)
    prompt = StreamingDataPreparator(tokenizer)
    ends = prompt.end_of_turn_ids | prompt.control_ids
    for token, added in tokenizer.added_tokens_decoder.items():
        where = prompt.forbidden_ids if THOUGHT.search(added.content) else ends
        assert token in where, added.content


@every_family
def test_a_prompt_outlives_midnight(name: str, monkeypatch) -> None:
    class Clock(datetime.datetime):
        shows = datetime.datetime(2026, 7, 30, 23, 59)

        @classmethod
        def now(cls, tz=None):
            return cls.shows

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    tokenizer, date = tokenizer_of(name), Clock.shows.date()
    before = StreamingDataPreparator(tokenizer, date=date).prefix_text
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    said = [text for text in ("30 Jul 2026", "2026-07-30", "July 30, 2026") if text in theirs]
    assert all(text in before for text in said)
    Clock.shows += datetime.timedelta(hours=1)
    assert StreamingDataPreparator(tokenizer, date=date).prefix_text == before


@pytest.mark.parametrize(
    "name", ["NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "fireworks-ai-llama-3-firefunction-v2"]
)
def test_a_template_for_tools_only_is_refused_with_a_way_out(name: str) -> None:
    tokenizer = tokenizer_of("Qwen3-Coder")
    path = TEMPLATES / f"{name}.jinja"
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    with pytest.raises(PromptError, match='frame="few-shot"'):
        StreamingDataPreparator(tokenizer)
