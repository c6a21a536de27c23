"""What opens an answer and what ends it is taken from the template, whatever its family."""

from __future__ import annotations

import pytest
from family_templates import FAMILIES, Family
from golden_cases import GOLDEN
from tiny_models import first_of, tiny_model
from tiny_tokenizers import CHATML
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mlx_simul import Finished, SimulSession, Write
from mlx_simul.errors import PromptError
from mlx_simul.serving.sessions import Sessions
from mlx_simul.text.prompts import StreamingDataPreparator

every_family = pytest.mark.parametrize("name", FAMILIES)
THINKING = FAMILIES["qwen3"]


def tokenizer_of(family: Family, **options) -> PreTrainedTokenizerFast:
    options = {"eos_token": "<|endoftext|>", "chat_template": family.template, **options}
    made = PreTrainedTokenizerFast(tokenizer_file=str(GOLDEN / "tokenizer.json"), **options)
    made.add_tokens([AddedToken(text, special=True) for text in family.tokens])
    made.add_tokens([AddedToken(text, special=False) for text in family.plain_tokens])
    return made


def with_template(template: str) -> PreTrainedTokenizerFast:
    return tokenizer_of(Family(template, "", "", "", ("<|im_start|>", "<|im_end|>")))


@every_family
@pytest.mark.parametrize("instruction", [None, "Translate."], ids=["bare", "instruction"])
def test_a_header_ends_where_a_plain_answer_begins(name: str, instruction) -> None:
    family = FAMILIES[name]
    prompt = StreamingDataPreparator(tokenizer_of(family), instruction=instruction)
    assert (prompt.suffix_text, prompt.header_text) == (family.suffix, family.header)
    assert "/no_think" not in prompt.prefix_text
    assert prompt.check_segments("the good morning") == []


@every_family
def test_what_follows_an_answer_ends_it(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    prompt = StreamingDataPreparator(tokenizer)
    closing = family.closing or "<|endoftext|>"
    assert prompt.closing_id == tokenizer.convert_tokens_to_ids(closing)
    assert {prompt.closing_id, tokenizer.eos_token_id} <= prompt.end_of_turn_ids


@every_family
def test_a_control_token_ends_a_target_or_is_forbidden(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    prompt = StreamingDataPreparator(tokenizer)
    ends = prompt.end_of_turn_ids | prompt.control_ids
    assert ends.isdisjoint(prompt.forbidden_ids)
    for token in (*family.tokens, *family.plain_tokens):
        is_of_thought = any(part in token.lower() for part in ("think", "thought", "channel"))
        where = prompt.forbidden_ids if is_of_thought else ends
        assert tokenizer.convert_tokens_to_ids(token) in where, token


@pytest.mark.parametrize(
    ("opener", "header"),
    [
        ("<think>", "<think>\n</think>\n\n"),
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<seed:think>", "<seed:think>\n</seed:think>\n\n"),
        ("<reasoning>\n", "<reasoning>\n\n</reasoning>\n\n"),
        ("[THINK]", "[THINK][/THINK]"),
        ("◁think▷", "◁think▷◁/think▷"),
        ("<|START_THINKING|>", "<|START_THINKING|><|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|begin_of_thought|><|end_of_thought|>"),
        ("<|think_start|>", "<|think_start|><|think_end|>"),
        ("<|inner_prefix|>", "<|inner_prefix|><|inner_suffix|>"),
        ("<|channel>thought\n", "<|channel>thought\n<channel|>"),
        ("<|open|>think<|sep|>", "<|open|>think<|sep|><|close|>think<|sep|>"),
    ],
)
def test_a_thought_that_a_template_only_opens_is_closed(opener: str, header: str) -> None:
    prompt = StreamingDataPreparator(
        with_template(CHATML.replace("assistant\n", f"assistant\n{opener}"))
    )
    assert prompt.header_text == f"<|im_start|>assistant\n{header}"


@pytest.mark.parametrize(
    "opener", ["<|think|>", "{reasoning}", "<|channel|>analysis<|message|>", "[REASONING: on]"]
)
def test_a_thought_that_cannot_be_closed_is_refused(opener: str) -> None:
    tokenizer = with_template(CHATML.replace("assistant\n", f"assistant\n{opener}"))
    with pytest.raises(PromptError, match="starts a thinking block") as caught:
        StreamingDataPreparator(tokenizer, instruction="Translate.")
    assert opener in str(caught.value) and 'frame="few-shot"' in str(caught.value)


@pytest.mark.parametrize(
    "end", ["</think>", "<|END_THINKING|>", "<|no_think|>", "<nothink>", "<|end_of_thought|>"]
)
def test_a_closed_thought_is_left_alone(end: str) -> None:
    tokenizer = with_template(CHATML.replace("assistant\n", f"assistant\n{end}"))
    assert StreamingDataPreparator(tokenizer).header_text == f"<|im_start|>assistant\n{end}"


def test_a_template_that_ends_answers_with_a_line_break_ends_the_target_there() -> None:
    tokenizer = with_template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    prompt = StreamingDataPreparator(tokenizer)
    assert (prompt.suffix_text, prompt.header_text) == ("\n\n", "assistant:")
    assert tokenizer.encode("\n\n")[0] in prompt.end_of_turn_ids
    assert not prompt.end_of_turn_ids.intersection(tokenizer.encode(" the cat."))


def test_a_line_break_before_a_control_token_ends_nothing() -> None:
    prompt = StreamingDataPreparator(tokenizer_of(FAMILIES["reka"]))
    assert prompt.end_of_turn_ids.isdisjoint(tokenizer_of(FAMILIES["reka"]).encode("\n\n"))


def test_a_template_that_refuses_an_answer_still_asks_for_one() -> None:
    refuses = "{% for m in messages if m.role == 'assistant' %}{{ raise_exception('no') }}"
    prompt = StreamingDataPreparator(with_template(refuses + "{% endfor %}" + CHATML))
    assert prompt.header_text == "<|im_start|>assistant\n"


def test_tags_of_html_are_text_and_unknown_tokens_no_end() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen3"], unk_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_tokens(["<b>", "</b>", "<table>", "<tool_call>"])
    prompt = StreamingDataPreparator(tokenizer)
    ends = prompt.end_of_turn_ids | prompt.control_ids
    assert ends.isdisjoint(tokenizer.convert_tokens_to_ids(["<b>", "</b>", "<table>"]))
    assert tokenizer.unk_token_id not in ends
    assert tokenizer.convert_tokens_to_ids("<tool_call>") in ends


# In a session


@pytest.fixture(scope="module")
def model():
    return tiny_model(first_of("qwen2", vocab_size=1040))


def insisting_on(tokenizer, *texts: str):
    """A processor that makes some tokens the likeliest, the first one most."""
    ids = tokenizer.convert_tokens_to_ids(list(texts))

    def process(_, logits):
        for rank, token in enumerate(ids):
            logits[:, token] += 1e4 / (1 + rank)
        return logits

    return [process]


def written(session: SimulSession, text: str = "one two three") -> Finished:
    events = session.feed(text) + session.finish()
    assert all(event.text is not None for event in events if isinstance(event, Write))
    return events[-1]


def test_a_model_that_opens_a_thought_by_itself_cannot(model) -> None:
    tokenizer = tokenizer_of(THINKING)
    processors = insisting_on(tokenizer, "<think>", "</think>")
    finished = written(SimulSession(model, tokenizer, max_tokens=12, logits_processors=processors))
    assert len(finished.token_ids) > 0
    assert "think" not in finished.target_text


def test_without_the_prompt_it_could(model) -> None:
    tokenizer = tokenizer_of(THINKING)
    source = StreamingDataPreparator(tokenizer).tokenize("one two three")
    session = SimulSession(
        model,
        tokenizer,
        source=source,
        max_tokens=12,
        logits_processors=insisting_on(tokenizer, "<think>"),
    )
    assert session.finish()[-1].target_text == "<think>" * 12


@pytest.mark.parametrize("token", ["<|im_start|>", "<|endoftext|>", "<|im_end|>"])
def test_control_tokens_never_run_on(model, token: str) -> None:
    tokenizer = tokenizer_of(THINKING)
    finished = written(
        SimulSession(model, tokenizer, logits_processors=insisting_on(tokenizer, token))
    )
    assert (finished.target_text, finished.reason) == ("", "drought")


def test_a_batch_forbids_the_same_tokens_in_shared_passes(model) -> None:
    tokenizer = tokenizer_of(THINKING)
    options = {"max_tokens": 8}
    alone = written(SimulSession(model, tokenizer, **options)).token_ids
    think = tokenizer.convert_tokens_to_ids("<think>")
    forced = {**options, "logits_processors": insisting_on(tokenizer, "<think>")}
    batch = Sessions(model, tokenizer)
    sessions = [batch.add(**options), batch.add(**forced)]
    assert all(map(batch.is_shared, sessions))
    for session in sessions:
        session.push("one two three")
        session.close()
    found = {session: event for session, event in batch.events() if isinstance(event, Finished)}
    assert found[sessions[0]].token_ids == alone
    assert think not in found[sessions[1]].token_ids
    assert found[sessions[1]].token_ids
