"""Every example runs and prints something readable."""

import json
import runpy
import sys

import pytest
from repository import ROOT
from tiny_chat import write_chat_folder
from tools_template import TEMPLATE, Says

import mlx_simul
from mlx_simul.loop.limits import Limits

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OPTIONS = {"async_captions": ["--pace", "0"]}
SAYS = {
    "async_captions": " s  ",
    "glossary": "with context and glossary: ",
    "live_chunks": "'is leaves at ' ",
    "live_summary": "\n",
    "meeting_assistant": "No action item was filed.",
    "many_sessions": "  German: Good morning. -> ",
    "own_policy": " [bridge]",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_folder(tmp_path_factory.mktemp("examples") / "model")


@pytest.fixture(scope="module")
def folder_with_tools(tmp_path_factory):
    folder = write_chat_folder(tmp_path_factory.mktemp("tools") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return folder


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, folder, folder_with_tools, monkeypatch, capsys):
    folder = folder_with_tools if path.stem == "meeting_assistant" else folder
    # Random weights never end a turn, and know no short words.
    monkeypatch.setattr(
        "mlx_simul.stream.turn.Limits", lambda words, tokens, ratio: Limits(words, 20, ratio)
    )
    options = ["--model", str(folder), *OPTIONS.get(path.stem, [])]
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.stem] in capsys.readouterr().out


def test_the_assistant_files_what_a_model_calls_for(folder_with_tools, capsys):
    """With a model that says what a test wants: none of those at hand calls tools."""
    example = runpy.run_path(str(ROOT / "examples" / "meeting_assistant.py"), run_name="example")
    model, tokenizer = mlx_simul.load(str(folder_with_tools))
    says = Says(tokenizer)

    def meeting():
        yield "Ann will write the report by Friday. "
        arguments = {"who": "Ann", "what": "write the report", "by": "Friday"}
        says.then(
            f'<tool_call>{{"name": "file_item", "arguments": {json.dumps(arguments)}}}</tool_call>'
        )
        yield "And Bob brings cake. "
        # A call that lacks an argument is answered with what is wrong, and can be made again.
        says.then('<tool_call>{"name": "file_item", "arguments": {"who": "Bob"}}</tool_call>')
        yield "That is all, thank you. "

    items = example["assist"](model, tokenizer, meeting(), logits_processors=[says])
    assert items == [arguments_of("Ann", "write the report", "Friday")]
    assert "  -> Ann: write the report (Friday)" in capsys.readouterr().out


def arguments_of(who, what, by):
    return {"who": who, "what": what, "by": by}


def test_an_example_that_needs_a_larger_model_says_so(monkeypatch, capsys):
    for path in EXAMPLES:
        if path.stem in ("glossary", "live_summary", "meeting_assistant"):
            monkeypatch.setattr(sys, "argv", [str(path)])
            with pytest.raises(SystemExit):
                runpy.run_path(str(path), run_name="__main__")
            assert "--model" in capsys.readouterr().err


def test_a_model_that_cannot_be_told_the_languages_is_refused_in_one_line(
    tmp_path, monkeypatch, capsys
):
    folder = write_chat_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["mlx_simul"] = {"translates": ["English", "French"]}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    path = EXAMPLES[0].parent / "many_sessions.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--model", str(folder)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    assert "translates English to French" in capsys.readouterr().err


def test_the_others_take_the_packaged_one(folder, monkeypatch, capsys):
    monkeypatch.setattr("mlx_simul.checkpoints.loading.DEFAULT_MODEL", folder)
    monkeypatch.setattr(
        "mlx_simul.stream.turn.Limits", lambda words, tokens, ratio: Limits(words, 20, ratio)
    )
    monkeypatch.setattr(sys, "argv", ["live_chunks.py"])
    runpy.run_path(str(EXAMPLES[0].parent / "live_chunks.py"), run_name="__main__")
    assert SAYS["live_chunks"] in capsys.readouterr().out
