"""Chat templates are found wherever a folder has them, used, and kept by convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import golden_folder
from transformers import AutoTokenizer

import mlx_simul
from mlx_simul.checkpoints import tokenizer_files
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.validate import validate
from mlx_simul.errors import ConversionError, ModelLoadError, PromptError
from mlx_simul.text.prompts import StreamingDataPreparator

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER = TEMPLATE.replace("assistant", "tool")
NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": OTHER}]


def write_json(path: Path, **content: Any) -> None:
    old = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(old | content), "utf-8")


def write_named_files(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(OTHER)


PLACES = {
    "chat_template.jinja": lambda f: (f / "chat_template.jinja").write_text(TEMPLATE),
    "tokenizer_config.json": lambda f: write_json(
        f / "tokenizer_config.json", chat_template=TEMPLATE
    ),
    "tokenizer_config.json, several": lambda f: write_json(
        f / "tokenizer_config.json", chat_template=NAMED
    ),
    "additional_chat_templates": write_named_files,
    "chat_template.json": lambda f: write_json(f / "chat_template.json", chat_template=TEMPLATE),
    "chat_template.json, several": lambda f: write_json(
        f / "chat_template.json", chat_template=NAMED
    ),
    "chat_template.json, by name": lambda f: write_json(
        f / "chat_template.json", chat_template={"default": TEMPLATE, "tool_use": OTHER}
    ),
    "processor_config.json": lambda f: write_json(
        f / "processor_config.json", chat_template=TEMPLATE, processor_class="SomeProcessor"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


def turn(tokenizer: Any) -> str:
    message = [{"role": "user", "content": "Hello"}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_found_used_and_kept(folder: Path, tmp_path: Path, place: str):
    PLACES[place](folder)
    wanted = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    for path in (folder, convert(folder, tmp_path / "target")):
        _, tokenizer = mlx_simul.load(path)
        assert turn(tokenizer) == wanted
        prompt = StreamingDataPreparator(tokenizer, instruction="Translate")
        assert prompt.header_text.endswith("assistant\n")
    # What is written needs nothing of ours to be found.
    assert turn(AutoTokenizer.from_pretrained(tmp_path / "target")) == wanted


@pytest.mark.parametrize(
    "place", [place for place in PLACES if "several" in place or "by" in place]
)
def test_all_of_several_templates_are_kept(folder: Path, tmp_path: Path, place: str):
    PLACES[place](folder)
    target = convert(folder, tmp_path / "target")
    kept = AutoTokenizer.from_pretrained(target).chat_template
    assert kept == {"default": TEMPLATE, "tool_use": OTHER}


def test_a_template_for_the_tokenizer_comes_before_one_for_a_processor(folder: Path):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    write_json(folder / "chat_template.json", chat_template=OTHER)
    assert turn(mlx_simul.load(folder)[1]).endswith("assistant\n")


def test_a_template_that_is_given_comes_before_all(folder: Path):
    write_json(folder / "chat_template.json", chat_template=OTHER)
    _, tokenizer = mlx_simul.load(folder, tokenizer_config={"chat_template": TEMPLATE})
    assert turn(tokenizer).endswith("assistant\n")


def test_several_templates_without_a_default_are_not_silently_none(folder: Path):
    write_json(folder / "chat_template.json", chat_template={"a": TEMPLATE, "b": OTHER})
    _, tokenizer = mlx_simul.load(folder)
    with pytest.raises(PromptError, match="default"):
        StreamingDataPreparator(tokenizer, instruction="Translate")


BROKEN = {
    "half a file": '{"chat_template": "',
    "a list": "[]",
    "another entry": '{"template": "x"}',
    "a number": '{"chat_template": 3}',
    "a list of texts": '{"chat_template": ["x"]}',
    "names without texts": '{"chat_template": [{"name": "default"}]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_damaged_template_file_is_refused(folder: Path, tmp_path: Path, content: str):
    (folder / "chat_template.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"chat_template\.json"):
        mlx_simul.load(folder)
    with pytest.raises(ConversionError, match=r"chat_template\.json"):
        convert(folder, tmp_path / "target")
    last = list(validate(folder))[-1]
    assert (last.check, last.verdict) == ("tokenizer", "FAILED")


def test_a_lost_template_is_told_of(folder: Path, caplog):
    """The golden tokenizer has tokens for turns, so its model may well be one for chats."""
    mlx_simul.load(folder)
    assert "holds no chat template" in caplog.text and "<|im_start|>" in caplog.text
    caplog.clear()
    PLACES["chat_template.json"](folder)
    mlx_simul.load(folder)
    assert not caplog.text


def test_a_base_models_tokenizer_is_not_suspected(folder: Path, caplog):
    path = folder / "tokenizer.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace("<|im_start|>", "<|begin|>").replace("<|im_end|>", "<|end|>"))
    config = folder / "tokenizer_config.json"
    if config.is_file():
        text = config.read_text("utf-8")
        config.write_text(
            text.replace("<|im_start|>", "<|begin|>").replace("<|im_end|>", "<|end|>")
        )
    mlx_simul.load(folder)
    assert not caplog.text


def test_mistrals_own_tokenizer_names_the_package_that_it_needs(
    folder: Path, tmp_path: Path, monkeypatch
):
    (folder / "tokenizer.json").unlink()
    (folder / "tekken.json").write_text("{}")
    monkeypatch.setattr(tokenizer_files, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="pip install mistral-common"):
        mlx_simul.load(folder)
    with pytest.raises(ConversionError, match="pip install mistral-common"):
        convert(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()
