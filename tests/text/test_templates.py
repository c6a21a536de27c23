"""A template's clock shows a date of its own, whatever the time; no prompt is left to chance."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import first_of, tiny_model
from tiny_tokenizers import CHATML
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from mlx_simul import SimulSession
from mlx_simul.errors import InvalidOptionError, PromptError
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.text.templates import render

DAY = datetime.date(2026, 7, 30)
USER = [{"role": "user", "content": "Hello"}]
# As Llama 3.2 and gpt-oss have it: a variable that the clock fills, and the clock itself.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = 'then' %}"
    "{% endif %}{% endif %}Today: {{ date_string }}|{{ strftime_now('%Y-%m-%d') }}\n" + CHATML
)


def tokenizer_of(template: str | dict[str, str] | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"),
        eos_token="<|im_end|>",
        chat_template=template,
    )


class Clock(datetime.datetime):
    """A clock that a test sets."""

    shows = datetime.datetime(2026, 7, 30, 23, 59)

    @classmethod
    def now(cls, tz=None):
        return cls.shows


@pytest.fixture
def clock(monkeypatch):
    """Stops the clock that transformers gives to templates, and that of days."""

    class Day(datetime.date):
        @classmethod
        def today(cls):
            return Clock.shows.date()

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    monkeypatch.setattr("mlx_simul.text.prompts.Date", Day)
    Clock.shows = datetime.datetime(2026, 7, 30, 23, 59)
    return Clock


def test_a_template_shows_the_date_that_it_is_given() -> None:
    text = render(tokenizer_of(DATED), USER, DAY)
    assert text.startswith("Today: 30 Jul 2026|2026-07-30\n<|im_start|>user")


def test_the_clock_of_a_template_stands_still(clock) -> None:
    template = "{{ strftime_now('%H:%M:%S') }}" + CHATML
    first = render(tokenizer_of(template), USER, DAY)
    clock.shows += datetime.timedelta(seconds=75)
    assert render(tokenizer_of(template), USER, DAY) == first
    assert first.startswith("00:00:00<")


@given(
    st.lists(
        st.sampled_from(["%Y", "%-d", "%d", "%B", "%b", "%%", "%y", "%A", "%j", " ", "d", "é"])
    )
)
def test_all_directives_say_what_they_say_elsewhere(parts) -> None:
    said = "".join(parts)
    template = f"{{{{ strftime_now({said!r}) }}}}{CHATML}"
    assert render(tokenizer_of(template), USER, DAY) == DAY.strftime(said) + render(
        tokenizer_of(CHATML), USER, DAY
    )


@pytest.mark.parametrize("start", ["", "\n", "  ", "\n\n  x", "{# a #}\n"])
def test_nothing_else_of_a_template_changes(clock, start: str) -> None:
    tokenizer = tokenizer_of(start + DATED)
    ours = render(tokenizer, USER, clock.shows.date(), starts_answer=True)
    theirs = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert ours == theirs


def test_one_of_several_templates_is_the_default() -> None:
    tokenizer = tokenizer_of({"default": DATED, "tool_use": "{{ 'tools' }}"})
    assert render(tokenizer, USER, DAY).startswith("Today: 30 Jul 2026")


@pytest.mark.parametrize(
    "part", ["{{ ['a', 'b'] | random }}", "{{ ['a']|random }}", "{{ lipsum() }}"]
)
def test_a_template_that_draws_random_text_is_refused(part: str) -> None:
    with pytest.raises(PromptError, match="random text") as caught:
        StreamingDataPreparator(tokenizer_of(part + CHATML))
    assert 'frame="few-shot"' in str(caught.value)
    assert StreamingDataPreparator(tokenizer_of(part + CHATML), frame="few-shot").header_ids


def test_a_template_that_asks_for_the_time_otherwise_is_refused() -> None:
    with pytest.raises(PromptError, match="'now' is undefined"):
        StreamingDataPreparator(tokenizer_of("{{ now() }}" + CHATML))


# Sessions


@pytest.fixture(scope="module")
def model():
    return tiny_model(first_of("qwen2", vocab_size=1024))


def test_sessions_share_a_prefix_beyond_midnight(clock, model) -> None:
    tokenizer = tokenizer_of(DATED)
    prefix = SimulSession(model, tokenizer).encode_prefix()
    assert prefix.date == DAY
    before = SimulSession(model, tokenizer, prefix=prefix, max_tokens=5)
    clock.shows += datetime.timedelta(minutes=2)
    after = SimulSession(model, tokenizer, prefix=prefix, max_tokens=5)
    texts = [session.feed("one two") + session.finish() for session in (before, after)]
    assert texts[0][-1].token_ids == texts[1][-1].token_ids
    # Without the date of the prefix they would not have begun alike.
    with pytest.raises(InvalidOptionError, match="date"):
        SimulSession(model, tokenizer, prefix=replace(prefix, date=None))
    with pytest.raises(InvalidOptionError, match="date"):
        SimulSession(model, tokenizer, prefix=prefix, date="2026-07-31")


def test_a_session_has_the_date_that_it_is_given(model) -> None:
    tokenizer = tokenizer_of(DATED)
    given = [SimulSession(model, tokenizer, date=date) for date in (DAY, "2026-07-30")]
    first, second = (session.encode_prefix().token_ids for session in given)
    assert first == second
    assert "30 Jul 2026|2026-07-30" in tokenizer.decode(first)


@pytest.mark.parametrize("date", ["30.7.2026", "today", "2026-02-30", ""])
def test_a_date_that_is_not_one_is_refused(model, date: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"as in '2026-07-30', got"):
        SimulSession(model, tokenizer_of(DATED), date=date)
