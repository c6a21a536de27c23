"""Folders with Mistral's own tokenizer file; mistral-common, which reads it, brings real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from tiny_configs import TINY
from tiny_models import fresh_model

import mlx_simul
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.validate import WORD_TEXTS, validate
from mlx_simul.console.cli import main
from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.text.prompts import StreamingDataPreparator

pytestmark = pytest.mark.mistral

FILE = "tekken_240911.json"
CONFIG = {
    **TINY,
    "model_type": "mistral",
    "vocab_size": 131_072,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MESSAGES = [
    {"role": "system", "content": "Translate to French."},
    {"role": "user", "content": "Good morning! [INST]"},
]


def data(name: str) -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with nothing but a tekken.json to read text with."""
    path = tmp_path_factory.mktemp("tekken") / "source"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    weights: Any = dict(tree_flatten(fresh_model("mistral", CONFIG).parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "pt"})
    shutil.copy(data(FILE), path / "tekken.json")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return mlx_simul.load(folder)


@pytest.fixture(scope="module")
def converted(folder: Path) -> Path:
    return convert(folder, folder.with_name("target"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_file(str(folder / "tekken.json"))


def test_texts_become_the_tokens_of_mistral_common(loaded: Any, reference: Any):
    plain = reference.instruct_tokenizer.tokenizer
    for text in WORD_TEXTS.values():
        ids = loaded[1].encode(text, add_special_tokens=False)
        assert ids == plain.encode(text, bos=False, eos=False)
        assert loaded[1].decode(ids) == text


@pytest.mark.parametrize("with_system", [True, False])
def test_a_turn_is_that_of_mistral_common(loaded: Any, reference: Any, with_system: bool):
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    messages = MESSAGES if with_system else MESSAGES[1:]
    # Ours has no control token in a user's text; neither has mistral-common.
    messages = [m | {"content": m["content"].replace("[INST]", "")} for m in messages]
    wanted = reference.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
    assert loaded[1].apply_chat_template(messages, add_generation_prompt=True) == wanted


def test_it_streams(loaded: Any):
    prompt = StreamingDataPreparator(loaded[1], target_language="French")
    assert prompt.prefix_text.startswith("<s>") and "[INST]" in prompt.prefix_text
    assert prompt.header_text == "[/INST]"
    events = mlx_simul.stream_generate(*loaded, "One two.", target_language="French", max_tokens=3)
    assert isinstance(list(events)[-1], mlx_simul.Finished)


def test_the_command_translates(folder: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--model", str(folder), "--to", "French", "--max-tokens", "3"]
    assert main(["translate", *options, "One two."]) == EXIT_INCOMPLETE
    assert capsys.readouterr().out.strip()


def test_it_is_converted_with_its_tokenizer(folder: Path, converted: Path, loaded: Any):
    from transformers import AutoTokenizer

    names = {path.name for path in converted.iterdir()}
    assert {"tokenizer.json", "chat_template.jinja"} <= names and "tekken.json" not in names
    plain = AutoTokenizer.from_pretrained(converted)  # as any reader would, mistral-common's or not
    for text in WORD_TEXTS.values():
        assert plain.encode(text, add_special_tokens=False) == loaded[1].encode(
            text, add_special_tokens=False
        )
    assert plain.chat_template == loaded[1].chat_template


def test_it_is_valid(folder: Path, converted: Path, monkeypatch: pytest.MonkeyPatch):
    from mlx_simul import testing

    monkeypatch.setattr(testing, "LAWS_OF_MODE", {"group": testing.LAWS[:1]})
    for path in (folder, converted):
        assert "FAILED" not in {row.verdict for row in validate(path)}


def test_a_folder_with_both_kinds_uses_the_usual_one(folder: Path, converted: Path, tmp_path: Path):
    both = tmp_path / "both"
    shutil.copytree(converted, both)
    shutil.copy(folder / "tekken.json", both)
    (both / "chat_template.jinja").unlink()
    _, tokenizer = mlx_simul.load(both)
    # The template is made from tekken.json, where the usual files have none.
    assert "[INST]" in tokenizer.apply_chat_template(MESSAGES[1:], tokenize=False)
    kept = convert(both, tmp_path / "target")
    assert (kept / "chat_template.jinja").is_file() and not (kept / "tekken.json").exists()
