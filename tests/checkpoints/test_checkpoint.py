"""Checkpoints: what is read is what is written, and what is faulty is refused."""

import json
import pickle
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mlx.utils import tree_flatten
from mlx_lm.utils import load
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import everything_in, golden_folder, golden_weights, write_tiny
from transformers import AutoConfig, AutoTokenizer

from mlx_simul.checkpoints.convert import Quantization, convert
from mlx_simul.errors import ConversionError


@pytest.fixture(params=("llama", "qwen2"))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return golden_folder(tmp_path / "source", "llama")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def logits(folder: Path) -> np.ndarray:
    model, _ = load(str(folder))[:2]
    return np.array(model(mx.array([[1, 7, 20, 33, 2]])).astype(mx.float32))


def test_a_folder_of_safetensors_is_converted(tmp_path: Path, target: Path, family: str) -> None:
    source = golden_folder(tmp_path / "source", family)
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert convert(source, target) == target
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert np.array_equal(logits(target), logits(source))
    text = "I bought 12 apples, did you?"
    before, after = (AutoTokenizer.from_pretrained(path) for path in (source, target))
    assert after.encode(text) == before.encode(text)
    assert everything_in(tmp_path) == ["source", "target"]


def test_a_gguf_file_is_converted(tmp_path: Path, target: Path, family: str) -> None:
    source = golden_folder(tmp_path / "source", family)
    convert(write_tiny(tmp_path / "m.gguf", family), target)
    weights = load_file(target / "model.safetensors")
    for name, values in golden_weights(family).items():
        assert np.array_equal(weights[name], values)
    assert np.array_equal(logits(target), logits(source))
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode(tokenizer.encode("I bought 12 apples")) == "I bought 12 apples"
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>hi"
    assert load(str(target))[1].eos_token_ids == {2}


def set_rope_parameters(folder: Path) -> None:
    """Write the base frequency as transformers 5 does."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"]
    config["rope_parameters"] = {"rope_theta": 12345.0, "rope_type": "default"}
    path.write_text(json.dumps(config))


def test_rope_parameters_reach_plain_mlx_lm(tmp_path: Path, target: Path, family: str) -> None:
    source = golden_folder(tmp_path / "source", family)
    set_rope_parameters(source)
    convert(source, target)
    assert load(str(target))[0].layers[0].self_attn.rope.base == 12345.0
    assert load(str(source))[0].layers[0].self_attn.rope.base != 12345.0
    config = AutoConfig.from_pretrained(target)
    assert config.rope_parameters == {"rope_theta": 12345.0, "rope_type": "default"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_cast(tmp_path: Path, source: Path, dtype: str) -> None:
    for path in (source, write_tiny(tmp_path / "m.gguf", "llama")):
        folder = convert(path, tmp_path / "target", dtype=dtype, force=True)
        model, _ = load(str(folder))[:2]
        assert {str(value.dtype) for value in weights_of(model)} == {f"mlx.core.{dtype}"}
        assert json.loads((folder / "config.json").read_text())["torch_dtype"] == dtype


def weights_of(model) -> list[mx.array]:
    return [value for _, value in tree_flatten(model.parameters())]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", "float32"), ("BF16", "bfloat16"), ("F16", "float16"), ("Q8_0", "float16")],
)
def test_a_gguf_file_keeps_its_type(tmp_path: Path, target: Path, kind: str, dtype: str) -> None:
    convert(write_tiny(tmp_path / "m.gguf", "llama", GGMLQuantizationType[kind]), target)
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_quantised(tmp_path: Path, source: Path, target: Path, bits: int) -> None:
    seen: list[str] = []

    def progress(items, description, total):
        seen.append(description)
        return items

    convert(source, target, quantization=Quantization(bits, 32), progress=progress)
    assert seen == ["Checking", "Quantising"]
    config = json.loads((target / "config.json").read_text())
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (bits, 32)
    name = "model.layers.0.mlp.up_proj"
    stored = {key: value for key, value in mx.load(str(target / "model.safetensors")).items()}
    parts = [stored[f"{name}.{part}"] for part in ("weight", "scales", "biases")]
    restored = np.array(mx.dequantize(*parts, group_size=32, bits=bits))
    original = golden_weights("llama")[f"{name}.weight"]
    spread = np.repeat(np.ptp(original.reshape(-1, 32), axis=1), 32).reshape(original.shape)
    error = abs(restored - original)
    assert (error <= spread / (2**bits - 1)).all()
    assert (error > spread / (2 ** (bits + 2) - 1)).any()  # which more bits would keep below
    assert np.isfinite(logits(target)).all()
    with pytest.raises(ConversionError, match="quantised already"):
        convert(target, tmp_path / "again", quantization=Quantization())


def test_large_models_are_written_and_read_in_shards(
    tmp_path: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx_lm.utils

    def shards(weights, max_file_size_gb=5):
        names = list(weights)
        return [{name: weights[name] for name in part} for part in (names[:9], names[9:])]

    monkeypatch.setattr(mlx_lm.utils, "make_shards", shards)
    convert(source, target)
    monkeypatch.undo()
    assert len(list(target.glob("model-*.safetensors"))) == 2
    assert np.array_equal(logits(convert(target, tmp_path / "again")), logits(source))
    (target / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConversionError, match="lacks model-00002-of-00002"):
        convert(target, tmp_path / "third")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_never_opened(tmp_path: Path, source: Path, target: Path, name: str) -> None:
    exploded = tmp_path / "exploded"
    (source / name).write_bytes(pickle.dumps(Bomb(exploded)))
    convert(source, target)  # beside safetensors they do not matter
    (source / "model.safetensors").unlink()
    for path in (source, source / name):
        with pytest.raises(ConversionError, match=r"is a pickle.*safetensors"):
            convert(path, target, force=True)
    assert not exploded.exists()
    pickle.loads((source / name).read_bytes())
    assert exploded.exists()  # it would have


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, **changes: np.ndarray | None) -> None:
    weights = golden_weights("llama") | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


NORM = np.ones(64, np.float32)
FAULTS = {
    "truncated": (lambda f: cut(f / "model.safetensors", 10), "model.safetensors is damaged"),
    "cut in the header": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 40),
        "model.safetensors is damaged",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model"),
    "a missing weight": (lambda f: edit_weights(f, model__norm__weight=None), "model.norm.weight"),
    "a weight too many": (lambda f: edit_weights(f, model__other=NORM), "model.other"),
    "NaN": (lambda f: edit_weights(f, model__norm__weight=NORM * np.nan), "holds NaN"),
    "infinity": (lambda f: edit_weights(f, model__norm__weight=NORM * np.inf), "holds NaN or inf"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "half a config": (lambda f: cut(f / "config.json", 20), "is not readable JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "list where an object belongs"),
    "another shape": (lambda f: edit_config(f, hidden_size=128), "config.json makes it"),
    "too few layers": (lambda f: edit_config(f, num_hidden_layers=2), "leaves no place for it"),
    "endless layers of a part": (
        lambda f: edit_config(f, text_config={"num_hidden_layers": 10**9}),
        "asks for 1000000000 layers",
    ),
    "a weight twice": (
        lambda f: save_file({"model.norm.weight": NORM}, f / "model-old.safetensors"),
        "is in both",
    ),
    "endless layers": (
        lambda f: edit_config(f, num_hidden_layers=10**9),
        "asks for 1000000000 lay",
    ),
    "no heads": (
        lambda f: edit_config(f, num_attention_heads=0),
        "or the config.json that names it",
    ),
    "no such type": (lambda f: edit_config(f, model_type="klingon"), "klingon not supported"),
    "remote code": (lambda f: edit_config(f, model_file="evil.py"), "a file of code"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    "half a tokenizer": (lambda f: cut(f / "tokenizer.json", 99), "its tokenizer, or the"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused(tmp_path: Path, source: Path, target: Path, fault: str) -> None:
    damage, complaint = FAULTS[fault]
    damage(source)
    with pytest.raises(ConversionError, match=complaint):
        convert(source, target)
    assert everything_in(tmp_path) == ["source"]


def test_weights_beyond_the_range_of_the_type_are_refused(
    tmp_path: Path, source: Path, target: Path
) -> None:
    large = NORM * 1e5
    edit_weights(source, model__norm__weight=large)
    gguf = write_tiny(tmp_path / "m.gguf", "llama", tensors={"output_norm.weight": large})
    for path in (source, gguf):
        with pytest.raises(ConversionError, match=r"infinite weights in float16\. Try another"):
            convert(path, target, dtype="float16")
        convert(path, target, dtype="bfloat16", force=True)
        shutil.rmtree(target)


def test_bad_gguf_files_leave_nothing(tmp_path: Path, target: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", "llama")
    whole = path.read_bytes()
    for content in (b"", whole[:1000], whole[:-3000], b"PK" + whole[2:]):
        path.write_bytes(content)
        with pytest.raises(ConversionError, match=r"m\.gguf"):
            convert(path, target)
    assert everything_in(tmp_path) == ["m.gguf"]


def test_a_model_too_narrow_for_the_group_size_is_refused(source: Path, target: Path) -> None:
    narrow = {
        name: values[:, :96] if "down_proj" in name else values[:96]
        for name, values in golden_weights("llama").items()
        if ".mlp." in name
    }
    edit_weights(source, **narrow)
    edit_config(source, intermediate_size=96)
    with pytest.raises(ConversionError, match="multiple of the group size 128"):
        convert(source, target, quantization=Quantization(group_size=128))
    convert(source, target, quantization=Quantization(group_size=64))
