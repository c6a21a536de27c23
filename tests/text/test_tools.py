"""Calls of tools in a text: kept out of it, wherever it is cut."""

import json
from copy import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tool_parsers import json_tools
from tools_template import FILE_ITEM, TEMPLATE, tokenizer_with_tools

from mlx_simul.errors import PromptError
from mlx_simul.events import ToolCall
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.text.tools import CallDetokenizer, ToolFormat

FORMAT = ToolFormat("<call>", "</call>", json_tools.parse_tool_call, [FILE_ITEM])


class Pieces:
    """A detokenizer of tokens that are texts."""

    is_holding = False

    def add(self, token):
        return token

    def flush(self):
        return ""


def cut(text, sizes):
    at = 0
    while at < len(text):
        size = sizes[at % len(sizes)]
        yield text[at : at + size]
        at += size


said = st.text("ab <c>/", max_size=12).filter(lambda text: "<call>" not in text)
calls = st.fixed_dictionaries(
    {"name": st.text("ab", min_size=1, max_size=3), "arguments": st.dictionaries(said, said)}
).filter(lambda call: "</call>" not in json.dumps(call))


@given(st.lists(st.tuples(said, calls), max_size=4), said, st.lists(st.integers(1, 9), min_size=1))
def test_a_text_without_its_calls_is_what_was_said(parts, last, sizes):
    if any("<call>" in f"{text}<call>"[:-1] for text, _ in parts):
        return
    whole = "".join(f"{text}<call>{json.dumps(call)}</call>" for text, call in parts) + last
    detokenizer = CallDetokenizer(Pieces(), FORMAT)
    shown = []
    for piece in cut(whole, sizes):
        shown.append(detokenizer.add(piece))
        twin = copy(detokenizer)
        twin.add("<call>")
        twin.flush()  # what happens to a copy is none of its business
    shown.append(detokenizer.flush())
    found = detokenizer.take_calls()
    assert "".join(shown) == "".join(text for text, _ in parts) + last
    assert [(call.name, call.arguments) for call in found] == [
        (call["name"], call["arguments"]) for _, call in parts
    ]
    assert detokenizer.take_calls() == []


def test_a_call_that_is_cut_off_or_no_call_says_why():
    detokenizer = CallDetokenizer(Pieces(), FORMAT)
    assert detokenizer.add('A<call>{"name": "b"') == "A"
    assert (detokenizer.is_in_call, detokenizer.is_holding) == (True, True)
    assert detokenizer.flush() == ""
    assert not detokenizer.is_in_call
    detokenizer.add('<call>{"name": "b", "arguments": [1]}</call><call>[1]</call>')
    first, second, third = detokenizer.take_calls()
    assert (first.name, first.written) == ("", '{"name": "b"')
    assert str(first.error).startswith("JSONDecodeError")
    assert second.error == "ValueError: the arguments are not an object but [1]"
    assert str(third.error).startswith("TypeError")
    detokenizer.add("<call>[]</call>")
    (none,) = detokenizer.take_calls()
    assert none.error == "ValueError: there is no call in it"


def test_a_call_without_an_end_goes_on_to_the_end_of_the_turn():
    format = ToolFormat("[CALLS]", "", json_tools.parse_tool_call, [FILE_ITEM])
    detokenizer = CallDetokenizer(Pieces(), format)
    assert (
        detokenizer.add('Yes.[CALLS]{"name": "a", ') + detokenizer.add('"arguments": {}}') == "Yes."
    )
    assert detokenizer.take_calls() == []
    detokenizer.flush()
    assert detokenizer.take_calls() == [ToolCall(0, "a", {}, '{"name": "a", "arguments": {}}')]


# In a prompt


def test_the_tools_stand_before_the_source_and_a_result_behind_its_call():
    tokenizer = tokenizer_with_tools()
    prompt = StreamingDataPreparator(tokenizer, tools=[FILE_ITEM])
    call = ToolCall(0, "file_item", {"who": "Ann"}, "…")
    result = tokenizer.decode(list(prompt.tool_result_ids(call, "42")))
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {
            "name": "file_item", "arguments": {"who": "Ann"}}}]},
        {"role": "tool", "content": "42"},
    ]  # fmt: skip
    whole = tokenizer.apply_chat_template(
        messages, tools=[FILE_ITEM], tokenize=False, add_generation_prompt=True
    )
    begins = prompt.prefix_text + "Hello" + prompt.suffix_text + prompt.header_text
    assert whole.startswith(begins)
    assert "file_item" in prompt.prefix_text
    assert whole.endswith("</tool_call>" + result)
    assert result.startswith("<|im_end|>\n<|im_start|>user\n<tool_response>\n42")
    assert prompt.tool_result_ids(call, "42")[0] in prompt.end_of_turn_ids


def test_a_control_token_in_a_result_stays_text():
    tokenizer = tokenizer_with_tools()
    prompt = StreamingDataPreparator(tokenizer, tools=[FILE_ITEM])
    call = ToolCall(0, "file_item", {}, "")
    ids = prompt.tool_result_ids(call, "<|im_end|>")
    plain = prompt.tool_result_ids(call, "x")
    assert ids.count(2) == plain.count(2)
    assert "<|im_end|>\n</tool_response>" in tokenizer.decode(list(ids))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (TEMPLATE.replace("</tool_call>{% endfor %}", "{% endfor %}"), "where a call ends"),
        (TEMPLATE.replace("{{ m.content }}\n</tool_response>", "</tool_response>"), "0 times"),
    ],
)
def test_a_template_that_does_not_show_a_result_is_refused(template, says):
    prompt = StreamingDataPreparator(tokenizer_with_tools(template), tools=[FILE_ITEM])
    with pytest.raises(PromptError, match=says):
        prompt.tool_result_ids(ToolCall(0, "file_item", {}, ""), "42")


def test_what_cannot_have_tools_is_refused(tokenizer):
    with pytest.raises(PromptError, match="knows no format of tool calls"):
        StreamingDataPreparator(tokenizer_with_tools()._tokenizer, tools=[FILE_ITEM])
    with pytest.raises(PromptError, match="belong to the chat frame"):
        StreamingDataPreparator(tokenizer_with_tools(), frame="few-shot", tools=[FILE_ITEM])
    prompt = StreamingDataPreparator(tokenizer_with_tools())
    with pytest.raises(PromptError, match="give tools="):
        prompt.tool_result_ids(ToolCall(0, "file_item", {}, ""), "42")
