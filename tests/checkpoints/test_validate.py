"""validate: a good folder passes; each kind of damage gets its own failing row and a way out."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden_cases import GOLDEN
from mlx.utils import tree_flatten
from repository import ROOT

from mlx_simul import testing
from mlx_simul.archs.base import Architecture
from mlx_simul.cache import LayerCache
from mlx_simul.checkpoints import folder as contents
from mlx_simul.checkpoints import loading
from mlx_simul.checkpoints import parameters as parameters_of
from mlx_simul.checkpoints import validate as module
from mlx_simul.checkpoints.loading import load_folder
from mlx_simul.checkpoints.validate import validate
from mlx_simul.console.validate import run
from mlx_simul.errors import ValidationError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def no_torch(request, monkeypatch):
    """Comparing with PyTorch takes seconds; one test with its own marker does it."""
    if "parity" not in request.keywords:
        monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.fixture
def one_law(monkeypatch):
    """For tests that are about something else than the laws."""
    monkeypatch.setattr(testing, "LAWS_OF_MODE", {"group": testing.LAWS[:1]})


@pytest.fixture(params=["llama-tiny-0", "qwen2-tiny-0"])
def any_folder(request, tmp_path):
    return make_folder(request.param, tmp_path)


@pytest.fixture
def folder(tmp_path):
    return make_folder("llama-tiny-0", tmp_path)


def make_folder(name: str, tmp_path: Path) -> Path:
    """A whole checkpoint of the golden cases, with a tokenizer and a chat template."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name / file, folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, **changes) -> None:
    """Replace tensors, or drop them where the new value is None."""
    path = folder / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    weights.update({name.replace("__", "."): value for name, value in changes.items()})
    path.unlink()
    mx.save_safetensors(str(path), {k: v for k, v in weights.items() if v is not None})


def logits(folder: Path) -> np.ndarray:
    model, _ = load_folder(folder)
    return np.array(model(mx.array([[5, 6, 7, 8]])).astype(mx.float32))


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def corrupt_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def put_nan(folder: Path) -> None:
    weight = mx.load(str(folder / "model.safetensors"))[Q_PROJ]
    weight[3, 5] = mx.nan
    edit_weights(folder, **{Q_PROJ.replace(".", "__"): weight})


def shard(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index; return its weight map."""
    path = folder / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    names = sorted(weights)
    weight_map = {}
    for i in (0, 1):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        mx.save_safetensors(str(folder / file), {name: weights[name] for name in names[i::2]})
        weight_map |= dict.fromkeys(names[i::2], file)
    path.unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def mix_up_shards(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, weight_map | {Q_PROJ: weight_map[min(weight_map)]})
    assert weight_map[Q_PROJ] != weight_map[min(weight_map)]


def repeat_a_tensor(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").unlink()
    mx.save_safetensors(str(folder / "model-old.safetensors"), {Q_PROJ: mx.zeros((2, 2))})


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"')


def take_other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec["added_tokens"].append({"id": 1024, "content": "<x>", "special": True, **special})
    path.write_text(json.dumps(spec))


def lose_end_of_turn(folder: Path) -> None:
    edit_config(folder, eos_token_id=7000)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}")


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "is missing"),
    "cut config": (lambda f: (f / "config.json").write_text('{"mo'), "config.json", "not readable"),
    "config of another kind": (
        lambda f: (f / "config.json").write_text("[1]"),
        "config.json",
        "list where an object belongs",
    ),
    "unknown type": (lambda f: edit_config(f, model_type="rwkv"), "config.json", "'rwkv'"),
    "no type": (lambda f: edit_config(f, model_type=None), "config.json", "Known: "),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "weight files", "holds no model"),
    "GGUF only": (
        lambda f: (f / "model.safetensors").rename(f / "m.gguf"),
        "weight files",
        "Convert its GGUF file by name: .*m.gguf",
    ),
    "pickle only": (to_pickle, "weight files", "pytorch_model.bin.*never read"),
    "cut short": (cut_short, "weight files", "damaged or cut short"),
    "corrupt header": (corrupt_header, "weight files", "damaged or cut short"),
    "lost shard": (lose_a_shard, "weight files", "lacks model-00002-of-00002.safetensors"),
    "mixed shards": (mix_up_shards, "weight files", f"says that {Q_PROJ} is in"),
    "repeated tensor": (repeat_a_tensor, "weight files", f"{Q_PROJ} is in both"),
    "index outside the folder": (
        lambda f: write_index(f, {Q_PROJ: "../model.safetensors"}),
        "weight files",
        "file names of this folder",
    ),
    "index of another kind": (lambda f: write_index(f, None), "weight files", "weight_map"),
    "absurd layers": (
        lambda f: edit_config(f, num_hidden_layers=10**9),
        "weight files",
        "asks for 1000000000 layers",
    ),
    "layers as text": (lambda f: edit_config(f, num_hidden_layers="2"), "weight files", "'2' lay"),
    "too many layers": (
        lambda f: edit_config(f, num_hidden_layers=4),
        "tensor shapes",
        "model.layers.3.*is missing from the files",
    ),
    "too few layers": (
        lambda f: edit_config(f, num_hidden_layers=2),
        "tensor shapes",
        "model.layers.2.*leaves no place",
    ),
    "missing tensor": (
        lambda f: edit_weights(f, **{Q_PROJ.replace(".", "__"): None}),
        "tensor shapes",
        f"{Q_PROJ} is missing from the files",
    ),
    "wrong shape": (
        lambda f: edit_weights(f, **{Q_PROJ.replace(".", "__"): mx.zeros((3, 64))}),
        "tensor shapes",
        rf"{Q_PROJ} has the shape \(3, 64\), but config.json makes it",
    ),
    "config lies about width": (
        lambda f: edit_config(f, intermediate_size=17),
        "tensor shapes",
        "config.json makes it",
    ),
    "config lies about vocabulary": (
        lambda f: edit_config(f, vocab_size=1025),
        "tensor shapes",
        "config.json makes it",
    ),
    "no heads": (
        lambda f: edit_config(f, num_attention_heads=0, head_dim=None),
        "tensor shapes",
        "cannot be loaded",
    ),
    "impossible vocabulary": (
        lambda f: edit_config(f, vocab_size=-1),
        "tensor shapes",
        "cannot be loaded",
    ),
    "config leaves out a size": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}'),
        "tensor shapes",
        "config.json leaves no place for it",
    ),
    "NaN": (put_nan, "tensor values", f"{Q_PROJ} in model.safetensors holds 1 values"),
    "no tokenizer": (lose_tokenizer, "tokenizer", "holds no tokenizer"),
    "damaged tokenizer": (damage_tokenizer, "tokenizer", "cannot be loaded"),
    "other tokenizer": (
        take_other_tokenizer,
        "tokenizer",
        "ids up to 1024, .* has 1024",
    ),
    "no end of turn": (lose_end_of_turn, "tokenizer", r"none of the end-of-turn tokens \[7000\]"),
    "broken template": (break_template, "chat template", "template"),
}


@pytest.mark.parametrize(("break_it", "check", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_explained(folder, capsys, break_it, check, says):
    break_it(folder)
    *passed, last = validate(folder)
    assert (last.check, last.verdict) == (check, "FAILED")
    assert {row.verdict for row in passed} <= {"ok"}
    assert run(argparse.Namespace(folder=folder)) == 1
    output = capsys.readouterr().out
    assert f"\nFAILED: {check}: " in output
    assert re.search(says, last.explanation, re.DOTALL), last.explanation


def test_good_folder_passes(any_folder, capsys):
    rows = list(validate(any_folder))
    verdicts = {row.check: row.verdict for row in rows}
    assert verdicts.pop("logits as transformers'") == "skipped"
    assert set(verdicts.values()) == {"ok"}, rows
    assert {law.name.replace("_", " ") for law in testing.LAWS} < verdicts.keys()
    assert run(argparse.Namespace(folder=any_folder)) == 0
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.usefixtures("one_law")
def test_sharded_folder_passes(folder):
    shard(folder)
    assert {row.verdict for row in validate(folder)} == {"ok", "skipped"}


@pytest.mark.parametrize("how", ["float16", "bfloat16", "4bit"])
@pytest.mark.usefixtures("one_law")
def test_converted_folder_passes(folder, how):
    model, _ = load_folder(folder)
    if how == "4bit":
        nn.quantize(model, group_size=32, bits=4)
        edit_config(folder, quantization={"group_size": 32, "bits": 4})
    else:
        model.set_dtype(getattr(mx, how))
    path = folder / "model.safetensors"
    path.unlink()
    mx.save_safetensors(str(path), dict(tree_flatten(model.parameters())))
    rows = list(validate(folder))
    assert {row.verdict for row in rows} == {"ok", "skipped"}, rows
    if how == "4bit":
        assert "quantised" in rows[-1].explanation


@pytest.mark.usefixtures("one_law")
def test_quantised_folder_that_lost_a_scale_fails(folder):
    test_converted_folder_passes(folder, "4bit")
    edit_weights(folder, **{Q_PROJ.replace("weight", "biases").replace(".", "__"): None})
    last = list(validate(folder))[-1]
    assert last.verdict == "FAILED"
    assert Q_PROJ.replace("weight", "biases") in last.explanation


@pytest.mark.usefixtures("one_law")
def test_missing_chat_template_is_a_note(folder, capsys):
    (folder / "chat_template.jinja").unlink()
    assert run(argparse.Namespace(folder=folder)) == 0
    assert "few-shot frame" in capsys.readouterr().out


@pytest.mark.usefixtures("one_law")
def test_a_head_that_differs_is_used_although_the_config_ties_it(folder):
    before = logits(folder)
    edit_config(folder, tie_word_embeddings=True)
    assert np.array_equal(logits(folder), before)
    assert {row.verdict for row in validate(folder)} == {"ok", "skipped"}


@pytest.mark.parametrize(
    "name",
    ["model.extra.weight", "model.layers.0.self_attn.q_norm.weight", "classifier.weight"],
)
def test_weights_of_which_nothing_is_made_are_refused(folder, monkeypatch, name):
    """mlx-lm's renaming often drops what it does not know, and then loads without a word."""
    edit_weights(folder, **{name.replace(".", "__"): mx.ones((4,))})
    known = loading.registered_classes

    def forgetful(config):
        model_class, args_class = known(config)

        class Forgetful(model_class):
            def sanitize(self, weights):
                return super().sanitize({k: v for k, v in weights.items() if k != name})

        return Forgetful, args_class

    parameters = parameters_of.read_parameters(folder, forgetful)
    parameters_of.check_shapes(parameters)
    stored = contents.read_headers(folder, contents.weight_files(folder))
    with pytest.raises(ValidationError, match=f"^{name} is in the files, but .* would drop it"):
        parameters_of.check_unused(parameters, stored)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_what_is_computed_anyway_may_be_in_the_files(folder, name):
    edit_weights(folder, **{name.replace(".", "__"): mx.ones((4,))})
    parameters = parameters_of.read_parameters(folder)
    stored = contents.read_headers(folder, contents.weight_files(folder))
    assert parameters.unused == [name]
    parameters_of.check_unused(parameters, stored)


@pytest.mark.usefixtures("one_law")
def test_head_that_repeats_the_embeddings_may_be_dropped(folder):
    edit_config(folder, tie_word_embeddings=True)
    embeddings = mx.load(str(folder / "model.safetensors"))[EMBEDDING]
    edit_weights(folder, **{HEAD.replace(".", "__"): embeddings})
    assert {row.verdict for row in validate(folder)} == {"ok", "skipped"}


@pytest.mark.usefixtures("one_law")
def test_words_that_a_tokenizer_joins_are_noted(folder, monkeypatch):
    from mlx_simul.text.prompts import StreamingDataPreparator

    monkeypatch.setattr(StreamingDataPreparator, "check_segments", lambda self, text: [" là"])
    row = next(row for row in validate(folder) if row.check == "tokens per word")
    assert row.verdict == "note"
    assert "' là' (English)" in row.explanation


def test_broken_law_fails(folder, capsys, monkeypatch):
    class MovesNoKeys(LayerCache):
        def move_target(self, rope, delta, row, n_target, lost):
            return ()

    monkeypatch.setattr(Architecture, "make_cache", lambda *_: [MovesNoKeys() for _ in range(3)])
    rows = {row.check: row for row in validate(folder)}
    assert rows["any chunking"].verdict == "ok"
    assert rows["moved target equals written there"].verdict == "FAILED"
    assert run(argparse.Namespace(folder=folder)) == 1
    assert "is broken (" in capsys.readouterr().out


@pytest.mark.usefixtures("one_law")
def test_progress_is_shown_for_what_takes_long(folder):
    shown = []

    def progress(items, description, total):
        items = list(items)
        shown.append((description, len(items) == total))
        return items

    list(validate(folder, progress=progress))
    assert shown == [("Reading weights", True), ("Trying the laws", True)]


def test_not_a_folder(folder):
    (row,) = validate(folder / "config.json")
    assert "is not a folder" in row.explanation


def test_tool_exits_with_one(folder):
    lose_tokenizer(folder)
    tool = ROOT / "tools" / "validate.py"
    done = subprocess.run(
        [sys.executable, str(tool), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "FAILED: tokenizer: " in done.stdout


@pytest.mark.parity
@pytest.mark.usefixtures("one_law")
def test_logits_are_compared_with_transformers(any_folder):
    row = list(validate(any_folder))[-1]
    assert (row.check, row.verdict) == ("logits as transformers'", "ok")


@pytest.mark.parity
@pytest.mark.usefixtures("one_law")
def test_setting_that_mlx_lm_does_not_know_fails(folder):
    edit_config(folder, hidden_act="relu")
    row = list(validate(folder))[-1]
    assert (row.check, row.verdict) == ("logits as transformers'", "FAILED")
    assert "a setting in config.json" in row.explanation
