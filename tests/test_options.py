"""Laws of the options: said once, and the same in Python, on the command line and in a file."""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from datetime import date
from importlib import import_module
from typing import Literal, TypedDict

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from repository import ROOT

from mlx_simul.console.fields import add_options, chosen
from mlx_simul.console.options import add_session_arguments, session_options
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.report import command
from mlx_simul.machine.fields import as_table, flag_of, help_of, make, plain_fields, summary_of
from mlx_simul.options import (
    GROUPS,
    NOT_OPTIONS,
    SAMPLING,
    DecodingOptions,
    LimitOptions,
    OptionKeywords,
    PlacementOptions,
    PromptOptions,
    SessionOptions,
    TurnOptions,
)

KINDS = {
    "prompt": PromptOptions,
    "turn": TurnOptions,
    "limits": LimitOptions,
    "decoding": DecodingOptions,
    "placement": PlacementOptions,
}
PLAIN = {item.name: item for kind in KINDS.values() for item in plain_fields(kind)} | {
    item.name: item for item in plain_fields(SessionOptions) if item.name not in GROUPS
}
COMMANDS = ("translate", "demo", "inspect", "evaluate", "serve-simuleval")

# A text that begins with @ names a file on the command line, and "none" is none.
texts = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1).filter(
    lambda text: text != "none" and not text.startswith("@")
)
counts = st.integers(1, 10**6)
shares = st.floats(0, 1)
VALUES = {
    "policy": st.sampled_from(["wait-k:1", "whole", "confidence:0.5"]),
    "source_language": st.none() | texts,
    "target_language": st.none() | texts,
    "instruction": st.none() | texts,
    "context": st.none() | texts,
    "glossary": st.none() | st.dictionaries(texts, texts),
    "frame": st.sampled_from(["auto", "chat", "few-shot"]),
    "date": st.none() | st.dates().map(date.isoformat),
    "turns": st.sampled_from(["auto", "sentence", None]),
    "history": st.integers(0, 9),
    "max_turn_words": counts,
    "max_words": st.none() | counts,
    "max_tokens": counts,
    "max_tokens_per_word": counts,
    "max_target_source_ratio": st.sampled_from(["auto", None]) | st.floats(0.1, 9),
    "stop": st.lists(texts, min_size=1, max_size=3).map(tuple),
    "stop_after": st.sampled_from(["sentence", "code_block", "json", None]),
    "temp": st.floats(0.1, 100),
    "top_p": st.none() | shares,
    "min_p": st.none() | shares,
    "min_tokens_to_keep": st.none() | counts,
    "top_k": st.none() | counts,
    "xtc_probability": st.none() | shares,
    "xtc_threshold": st.none() | st.floats(0, 0.5),
    "seed": st.none() | st.integers(0, 2**64 - 1),
    "repetition_penalty": st.none() | st.floats(0.01, 100),
    "repetition_context_size": counts,
    "early_eos": st.sampled_from(["read", "stop"]),
    "gpe_compat": st.booleans(),
    "draft": st.sampled_from(["ngram", None]),
    "num_draft_tokens": counts,
    "num_beams": st.integers(2, 64),
    "length_penalty": st.floats(-10, 10),
    "logprobs": st.booleans(),
    "mode": st.sampled_from(["auto", "group", "reencode", "interleaved"]),
    "target_start": st.sampled_from(["auto", "follow"]) | st.integers(0, 10**6),
    "kv_bits": st.sampled_from([None, 4, 8]),
    "kv_group_size": st.sampled_from([32, 64]),
}
"""Values of each option that a file can say."""


NOT_WITH_BEAMS = {"temp", "top_p", "min_p", "gpe_compat", "draft"}


@st.composite
def flat_options(draw):
    """Some options by their flat names, such that they will do together."""
    names = draw(st.sets(st.sampled_from(sorted(VALUES))))
    given = {name: draw(VALUES[name]) for name in sorted(names)}
    if "temp" not in given:
        given.pop("top_p", None)
        given.pop("min_p", None)
    for name in NOT_WITH_BEAMS if "num_beams" in given else {"length_penalty"}:
        given.pop(name, None)
        given = {name: value for name, value in given.items() if name not in SAMPLING}
    return given


def plain(given):
    """The same as TOML and JSON have it."""
    return {name: "none" if value is None else value for name, value in given.items()}


def grouped(given):
    """The same in a table for each group."""
    tables = {
        name: {n: given[n] for n in (item.name for item in plain_fields(kind)) if n in given}
        for name, kind in KINDS.items()
    }
    alone = {
        name: value for name, value in given.items() if not any(name in t for t in tables.values())
    }
    return alone | tables


def read_on_a_command_line(*words):
    parser = argparse.ArgumentParser()
    add_session_arguments(parser)
    return session_options(parser.parse_args(words))


def as_words(given, glossary):
    """The same on a command line."""
    words = []
    for name, value in plain(given).items():
        if isinstance(value, bool):
            words += [flag_of(PLAIN[name])] if value else []
        elif isinstance(value, dict):
            glossary.write_text(json.dumps(value), "utf-8")
            words.append(f"{flag_of(PLAIN[name])}={glossary}")
        else:
            values = value if isinstance(value, tuple) else [value]
            words += [f"{flag_of(PLAIN[name])}={one}" for one in values]
    return words


def toml(given):
    """The same as a TOML file."""
    lines = []
    for name, value in plain(given).items():
        if isinstance(value, dict):
            pairs = (f"{_text(key)} = {_text(term)}" for key, term in value.items())
            lines.append(f"{name} = {{ {', '.join(pairs)} }}")
        else:
            lines.append(f"{name} = {_text(value)}")
    return "\n".join(lines)


def _text(value):
    return json.dumps(value, ensure_ascii=False)


# One option, said in five ways


def test_every_option_that_a_file_can_say_is_tried():
    assert VALUES.keys() == PLAIN.keys()


@given(flat_options())
def test_flat_is_whole_is_plain(given):
    flat = SessionOptions.of(**given)
    by_group = grouped(given)
    whole = SessionOptions(
        **{name: KINDS[name](**v) if name in GROUPS else v for name, v in by_group.items()}
    )
    assert flat == whole
    assert SessionOptions.from_plain(plain(given)) == flat
    tables = {
        n: plain(v) if isinstance(v, dict) and n in GROUPS else v for n, v in by_group.items()
    }
    assert SessionOptions.from_plain(tables) == flat
    assert make(SessionOptions, tables) == flat
    assert SessionOptions.of(**flat.flat()) == flat


@given(flat_options())
def test_a_command_line_and_a_file_say_the_same(tmp_path_factory, given):
    folder = tmp_path_factory.getbasetemp()
    wanted = SessionOptions.of(**given)
    assert read_on_a_command_line(*as_words(given, folder / "terms.json")) == wanted
    config = folder / "options.toml"
    config.write_text(toml(given), "utf-8")
    assert read_on_a_command_line("--config", str(config)) == wanted


@given(flat_options(), flat_options())
def test_what_is_given_later_replaces_and_the_rest_stays(first, then):
    assume("temp" in first or not then.keys() & {"top_p", "min_p"} or "temp" in then)
    both = first.keys() | then.keys()
    assume("num_beams" not in both or not both & NOT_WITH_BEAMS)
    before = SessionOptions.of(**first)
    after = SessionOptions.of(before, **then)
    assert after == SessionOptions.of(**(first | then))
    assert SessionOptions.from_plain(plain(then), before) == after
    assert before == SessionOptions.of(**first)


@given(flat_options())
def test_as_a_table_and_back(given):
    given.pop("date", None)  # a day is said as a text, and kept as a day
    options = SessionOptions.of(**given)
    assert make(SessionOptions, json.loads(json.dumps(as_table(options)))) == options


def test_another_value_is_other_options():
    for name, values in (("history", (0, 1)), ("turns", ("auto", None)), ("context", (None, "x"))):
        one, other = (SessionOptions.of(**{name: value}) for value in values)
        assert one != other and hash(one) != hash(other)
        assert SessionOptions.from_plain(plain({name: values[1]})) == other != one


# Defaults


def test_a_default_is_the_same_everywhere(tmp_path):
    empty = tmp_path / "empty.toml"
    empty.touch()
    defaults = SessionOptions()
    assert SessionOptions.of() == SessionOptions.from_plain({}) == defaults
    assert read_on_a_command_line() == read_on_a_command_line("--config", str(empty)) == defaults


def own_defaults(parser):
    """Options of a session that a parser has a default of its own for."""
    return {
        action.dest
        for action in parser._actions
        if action.dest in VALUES and action.default is not argparse.SUPPRESS
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_has_a_default_of_its_own(name):
    parser = argparse.ArgumentParser()
    import_module(f"mlx_simul.console.{name.replace('-', '_')}").add_arguments(parser)
    # Evaluations take many policies, which is another option.
    assert own_defaults(parser) <= ({"policy"} if name == "evaluate" else set())
    assert {action.dest for action in parser._actions} & VALUES.keys()


def test_a_default_of_its_own_is_found():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-tokens", type=int, default=7)
    assert own_defaults(parser) == {"max_tokens"}


def test_help_shows_each_default(capsys):
    parser = argparse.ArgumentParser()
    add_session_arguments(parser)
    shown = " ".join(parser.format_help().split())
    for name, item in PLAIN.items():
        if name != "policy" and item.default not in (None, False):
            assert f"(default: {item.default})" in shown, name


# Names and their help


def differences(keywords):
    """Names and types by which keywords for type checkers differ from the fields."""
    said = {name: hint.__forward_arg__ for name, hint in keywords.__annotations__.items()}
    kinds = [SessionOptions, *KINDS.values()]
    held = {f.name: f.type for kind in kinds for f in fields(kind) if f.name not in GROUPS}
    return said.items() ^ held.items()


def test_the_keywords_for_type_checkers_are_the_fields():
    assert differences(OptionKeywords) == set()
    assert OptionKeywords.__annotations__.keys() == SessionOptions().flat().keys()
    assert list(KINDS) == [item.name for item in fields(SessionOptions) if item.name in GROUPS]


def test_keywords_that_differ_are_found():
    forgets = TypedDict(
        "forgets", {**OptionKeywords.__annotations__, "temp": "int", "warmth": "int"}
    )
    assert {name for name, _ in differences(forgets)} == {"temp", "warmth"}


@pytest.mark.parametrize("kind", [*KINDS.values(), SessionOptions, EvaluationOptions])
def test_each_field_has_help(kind):
    said = help_of(kind)
    assert said.keys() == {item.name for item in fields(kind)}
    assert all(text and not text.endswith(".") for text in said.values())
    assert summary_of(kind)


def test_a_field_without_help_is_found():
    @dataclass
    class Silent:
        """Says little.

        Attributes:
            loud: what it says.
        """

        loud: int = 1
        silent: int = 2

    assert help_of(Silent).keys() == {"loud"}


def test_flags_differ_and_results_spell_them_as_the_command_line_does():
    flags = [flag_of(item) for item in PLAIN.values()]
    assert len(set(flags)) == len(flags)
    assert {"--from", "--to", "--max-ratio", "--max-tokens-per-word"} <= set(flags)
    session = {"target_language": "French", "max_target_source_ratio": None, "gpe_compat": True}
    results = {
        "model": "en-fr",
        "corpus": {"name": "pairs.tsv"},
        "made_with": {"processes": 1},
        "policies": {"wait-k:3": {"bleu": {}}},
        "options": {
            "baseline": "wait-k:3", "n_sources": None, "unit": "word", "word_ms": 400.0,
            "clock": "wall", "bleu_tokenizer": "13a", "session": session,
        },
    }  # fmt: skip
    assert command(results).endswith("--to French --max-ratio none --gpe-compat")


def test_the_page_of_options_is_up_to_date():
    tool = ROOT / "tools" / "options.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run `python tools/options.py`. {done.stderr}"
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in SessionOptions().flat())


# Chat histories

HISTORY = [("Hello.", "Bonjour."), ("Thanks.", "Merci.")]


def messages(system, pairs):
    said = [{"role": "system", "content": system}] if system is not None else []
    for source, target in pairs:
        said += [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
    return said


@given(st.none() | texts, st.lists(st.tuples(texts, texts)))
def test_messages_are_an_instruction_and_pairs(system, pairs):
    told = SessionOptions.of(messages=messages(system, pairs))
    assert told == SessionOptions.of(instruction=system, pairs=tuple(pairs))
    assert told.prompt.messages is None
    before = SessionOptions.of(instruction="Sing", pairs=HISTORY, max_words=3)
    after = SessionOptions.of(before, messages=messages(system, pairs))
    assert after == SessionOptions.of(told, max_words=3)


@pytest.mark.parametrize("twice", [{"instruction": "Sing"}, {"pairs": HISTORY}])
def test_messages_and_what_they_hold_are_refused_together(twice):
    with pytest.raises(InvalidOptionError, match=f"leave {next(iter(twice))} out"):
        PromptOptions(messages=messages("Sing", HISTORY), **twice)


@pytest.mark.parametrize(
    "said",
    [
        messages("x", HISTORY)[:-1],
        messages("x", HISTORY)[2:],
        [*messages("x", HISTORY), *messages("y", [])],
        [{"role": "user"}],
    ],
    ids=["ends with the user", "begins with the assistant", "two systems", "no content"],
)
def test_messages_in_another_order_are_refused(said):
    with pytest.raises(InvalidOptionError, match="messages must"):
        SessionOptions.of(messages=said)


# What is refused


@given(texts)
@example("options")
@example("cls")
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    known = VALUES.keys() | GROUPS | OptionKeywords.__annotations__.keys()
    assume(name not in known | NOT_OPTIONS.keys())
    for refused in (
        lambda: SessionOptions.of(**{name: 1}),
        lambda: SessionOptions.from_plain({name: 1}),
        lambda: SessionOptions.from_plain({"limits": {name: 1}}),
        lambda: make(SessionOptions, {"limits": {name: 1}}),
    ):
        with pytest.raises(InvalidOptionError, match="unknown option") as caught:
            refused()
        assert name in str(caught.value) or repr(name) in str(caught.value)
        assert "max_tokens_per_word" in str(caught.value)


@pytest.mark.parametrize("name", ["sampler", "logits_processors", "messages", "examples", "split"])
def test_a_file_cannot_say_what_only_python_can(name):
    with pytest.raises(InvalidOptionError, match="unknown option"):
        SessionOptions.from_plain({name: "x"})


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"max_tokens": "9"}, "max_tokens must be a whole number, got '9'"),
        ({"max_tokens": True}, "max_tokens must be a whole number, got True"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": "none"}, "max_tokens must be a whole number, got 'none'"),
        ({"frame": "Chat"}, "frame must be 'auto' or 'chat' or 'few-shot', got 'Chat'"),
        ({"limits": 3}, "limits must be a table of options, got 3"),
        ({"temp": 101}, "temp must be a number from 0 to 100, got 101"),
        ({"top_p": 0.5}, "set temp above 0 as well"),
        ({"max_target_source_ratio": 0.0}, "must be a positive number, got 0.0"),
        ({"date": "yesterday"}, "date must be a day as in '2026-07-30', got 'yesterday'"),
        ({"turns": "word"}, "turns must be"),
        ({"history": -1}, "history must be a whole number of at least 0, got -1"),
        ({"stop": ["a", ""]}, "none of them empty; got ''"),
        ({"stop": [[]]}, "none of them empty; got ()"),
        ({"stop": ["a"] * 65}, "stop holds 65 stops; at most 64 may be given"),
        ({"stop_after": "word"}, "stop_after must be 'sentence' or 'code_block' or 'json' or"),
    ],
)
def test_a_refusal_says_what_was_seen_and_what_would_do(table, wanted):
    with pytest.raises(InvalidOptionError) as caught:
        SessionOptions.from_plain(table)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"date": 5}, "date must be .* got 5"),
        ({"sampler": 3}, "sampler must be a function"),
        ({"logits_processors": 3}, "logits_processors must be functions"),
        ({"logits_processors": [len, 3]}, "logits_processors must be functions"),
        ({"limits": 3}, r"limits is a group of options, LimitOptions\(...\), got 3"),
        ({"decoding": {"temp": 1}}, "decoding is a group"),
    ],
)
def test_what_only_python_can_say_is_checked_at_once(given, says):
    with pytest.raises(InvalidOptionError, match=says):
        SessionOptions.of(**given)


def test_stops_may_be_said_in_short():
    stops = (
        SessionOptions.of(stop="a").limits.stop,
        SessionOptions.of(stop=[5, [6, 7], "b"]).limits.stop,
    )
    assert stops == (("a",), ((5,), (6, 7), "b"))
    assert SessionOptions.of(stop=[]).limits.stop is None
    with pytest.raises(
        InvalidOptionError, match=r"rows of token ids, none of them empty; got 1\.5"
    ):
        SessionOptions.of(stop=[1.5])
    with pytest.raises(InvalidOptionError, match="got True"):
        SessionOptions.of(stop=[True])


def test_options_that_are_not_whole_are_refused():
    with pytest.raises(InvalidOptionError, match=r"options must be a SessionOptions, got \{"):
        SessionOptions.of({"max_words": 3})


def test_only_fields_that_are_asked_for_become_arguments():
    @dataclass(frozen=True)
    class Some:
        """Some options.

        Attributes:
            one: the first.
            kind: of two.
            loud: or not.
        """

        one: int = 1
        kind: Literal["a", "b"] = "a"
        loud: bool = True

    parser = argparse.ArgumentParser()
    add_options(parser, Some, skip=["one"])
    assert chosen(parser.parse_args([]), Some) == {}
    args = parser.parse_args(["--kind", "b", "--no-loud"])
    assert chosen(args, Some) == {"kind": "b", "loud": False}
    with pytest.raises(SystemExit):
        parser.parse_args(["--one", "2"])
