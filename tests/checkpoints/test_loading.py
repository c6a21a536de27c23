"""load: folders and repository ids, and what is said of checkpoints that are damaged."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from golden_cases import GOLDEN
from huggingface_hub.errors import RepositoryNotFoundError
from mlx_lm.utils import quantize_model, save_model
from tiny_checkpoints import golden_folder
from tiny_configs import full_config
from tiny_models import first_of, fresh_model
from transformers import AutoTokenizer

import mlx_simul
from mlx_simul import archs
from mlx_simul.archs import rewrites
from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.checkpoints import loading
from mlx_simul.checkpoints.convert import convert
from mlx_simul.errors import ConversionError, ModelLoadError, UnknownArchitectureError
from mlx_simul.testing import LAWS


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A whole checkpoint: the golden Qwen2 and its tokenizer."""
    path = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen2-tiny-0", path)
    tokenizer.save_pretrained(path)
    return path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits(model):
    return np.array(model(mx.array([[5, 6, 7, 8]])).astype(mx.float32))


def test_a_folder_gives_a_model_that_streams_and_its_tokenizer(folder, model):
    loaded, tokenizer = mlx_simul.load(folder)
    assert np.array_equal(logits(loaded), logits(model))
    assert tokenizer.eos_token_ids == {2}
    events = list(mlx_simul.stream_generate(loaded, tokenizer, "One two three.", max_tokens=4))
    assert isinstance(events[-1], mlx_simul.Finished)


def test_a_repository_id_is_fetched_from_the_hub_without_code_or_pickles(folder, monkeypatch):
    asked = {}

    def fetch(repo_id, revision, allow_patterns):
        asked.update(repo_id=repo_id, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", fetch)
    loaded, _ = mlx_simul.load("someone/model", revision="v1")
    assert loaded.model_type == "qwen2"
    assert (asked["repo_id"], asked["revision"]) == ("someone/model", "v1")
    assert not any(name.endswith((".py", ".bin", ".pt", ".pkl")) for name in asked["patterns"])


def test_a_repository_in_the_local_hub_cache_needs_no_network(folder, tmp_path, monkeypatch):
    """The real huggingface_hub, offline, over a cache laid out as it lays it out."""
    cache, commit = tmp_path / "hub", "0" * 40
    repo = cache / "models--someone--model"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded, _ = mlx_simul.load("someone/model")
    assert loaded.model_type == "qwen2"
    with pytest.raises(ModelLoadError, match="not a local folder"):
        mlx_simul.load("someone/other")


def test_a_repository_that_is_not_there(monkeypatch):
    def refuse(*args, **options):
        response = SimpleNamespace(headers={}, status_code=404, request=None)
        raise RepositoryNotFoundError("404: nothing here", response=response)

    monkeypatch.setattr(loading, "snapshot_download", refuse)
    with pytest.raises(ModelLoadError, match=r"'someone/typo'.*404"):
        mlx_simul.load("someone/typo")


def save_in_shards(folder, n_shards):
    """Split model.safetensors as large checkpoints are, index included."""
    weights = sorted(mx.load(str(folder / "model.safetensors")).items())
    (folder / "model.safetensors").unlink()
    index = {}
    for i in range(n_shards):
        name = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        shard = dict(weights[i::n_shards])
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        index |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("n_shards", [None, 3], ids=["one file", "shards"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_quantised_and_sharded_checkpoints_load(folder, model, bits, n_shards):
    loaded, _ = mlx_simul.load(folder)
    config = json.loads((folder / "config.json").read_text())
    if bits:
        loaded, config = quantize_model(loaded, config, group_size=32, bits=bits)
    (folder / "model.safetensors").unlink()
    save_model(folder, loaded)
    (folder / "config.json").write_text(json.dumps(config))
    if n_shards:
        save_in_shards(folder, n_shards)
    again, _ = mlx_simul.load(folder)
    assert np.array_equal(logits(again), logits(loaded))
    assert np.array_equal(logits(again), logits(model)) == (bits is None)
    for law in LAWS:
        law(again).require()


ADAPTER = {"fine_tune_type": "lora", "num_layers": 2, "mlx_simul": {"target_start": 32}}


def test_adapters_load(folder, tmp_path):
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    parameters = {"rank": 4, "scale": 10.0, "dropout": 0.0}
    tuned, _ = mlx_simul.load(folder)
    tuned.freeze()
    linear_to_lora_layers(tuned, 2, parameters)
    tuned.update({"model": tuned.model})
    adapter = {
        name: mx.random.normal(value.shape)
        for name, value in tree_flatten(tuned.trainable_parameters())
    }
    path = tmp_path / "adapter"
    path.mkdir()
    mx.save_safetensors(str(path / "adapters.safetensors"), adapter)
    (path / "adapter_config.json").write_text(json.dumps(ADAPTER | {"lora_parameters": parameters}))
    plain, _ = mlx_simul.load(folder)
    adapted, _ = mlx_simul.load(folder, adapter_path=path)
    assert archs.streaming_config(adapted).to_json() == {"target_start": 32}
    assert not np.allclose(logits(adapted), logits(plain))
    with pytest.raises(ModelLoadError, match="adapters"):
        mlx_simul.load(folder, adapter_path=tmp_path / "nowhere")


@pytest.mark.parametrize(("trained", "start"), [({}, None), ({"target_start": 64}, 64)])
def test_the_config_says_how_it_was_trained(folder, trained, start):
    edit_config(folder, mlx_simul=trained)
    assert archs.streaming_config(mlx_simul.load(folder)[0]).target_start == start


def cut_in_half(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            cut_in_half, "file not fully covered|MetadataIncompleteBuffer", id="cut short"
        ),
        pytest.param(
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 999), "header", id="garbage"
        ),
        pytest.param(
            lambda f: (f / "model.safetensors").unlink(), "No safetensors", id="no weights"
        ),
        pytest.param(lambda f: (f / "config.json").unlink(), "config.json", id="no config"),
        pytest.param(
            lambda f: (f / "config.json").write_text("{"), "cannot be loaded", id="no JSON"
        ),
        pytest.param(lambda f: edit_config(f, hidden_size=128), "Expected shape", id="wider"),
        pytest.param(lambda f: edit_config(f, num_hidden_layers=5), "Missing", id="deeper"),
        pytest.param(lambda f: edit_config(f, num_hidden_layers=1), "not in", id="shallower"),
        pytest.param(lambda f: edit_config(f, hidden_size="?"), "cannot be", id="no number"),
        pytest.param(
            lambda f: (f / "tokenizer.json").unlink(), "the tokenizer in", id="no tokenizer"
        ),
    ],
)
def test_a_damaged_checkpoint_is_explained(folder, damage, said):
    damage(folder)
    with pytest.raises(ModelLoadError, match=said) as caught:
        mlx_simul.load(folder)
    assert "mlx-simul validate" in str(caught.value)


def test_a_config_without_a_type_or_with_an_unknown_one(folder):
    edit_config(folder, model_type="perceiver")
    with pytest.raises(UnknownArchitectureError, match="perceiver"):
        mlx_simul.load(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="'model_type'"):
        mlx_simul.load(folder)


def test_code_in_a_checkpoint_is_not_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('code ran')")
    edit_config(folder, model_file="evil.py")
    with pytest.raises(ModelLoadError, match=r"evil\.py"):
        mlx_simul.load(folder)
    # mlx-lm 0.31 would run it in any case, so that this does not depend on mlx-lm.
    with pytest.raises(ConversionError, match=r"evil\.py.*is not run"):
        convert(folder, folder.parent / "converted")


def test_a_family_that_the_installed_mlx_lm_does_not_have(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm.models.talkie", None)
    with pytest.raises(UnknownArchitectureError, match=r"'talkie'.*upgrade mlx-lm"):
        replace(archs.find("talkie"), rewrite=None).classes  # noqa: B018


def test_the_allowed_mlx_lm_can_load_what_it_has():
    """Families that a later release brought stand in a module of their own."""
    recent = {t for t, home in rewrites.HOMES.items() if home == "recent"}
    code = "import sys\n" + "".join(f"sys.modules['mlx_lm.models.{t}'] = None\n" for t in recent)
    code += "from mlx_simul import archs\n"
    others = set(rewrites.HOMES) - recent
    code += f"for name in {sorted(others)}: archs.find(name).classes\n"
    code += f"for name in {sorted(recent)}: archs.find(name)\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_file_where_a_folder_belongs(folder):
    with pytest.raises(ModelLoadError, match="mlx-simul convert"):
        mlx_simul.load(folder / "config.json")


@pytest.mark.parametrize(
    "scaling", [{}, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}]
)
def test_rope_settings_are_found_where_transformers_5_writes_them(folder, scaling):
    edit_config(folder, rope_theta=777.0, rope_scaling=scaling or None)
    old = logits(mlx_simul.load(folder)[0])
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"], config["rope_scaling"]
    nested = {"rope_type": "default", "rope_theta": 777.0, **scaling}
    path.write_text(json.dumps({**config, "rope_parameters": nested}))
    assert np.array_equal(logits(mlx_simul.load(folder)[0]), old)
    path.write_text(json.dumps(config))
    assert not np.array_equal(logits(mlx_simul.load(folder)[0]), old)


def test_exaone_is_read_as_transformers_writes_it():
    found = overrides_for_mlx_lm(
        {"model_type": "exaone", "num_hidden_layers": 3, "rms_norm_eps": 1e-5}
    )
    assert (found["num_layers"], found["layer_norm_epsilon"]) == (3, 1e-5)


def test_yarn_is_read_as_transformers_reads_it():
    given = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "rope_theta": 7.0}
    found = overrides_for_mlx_lm({"rope_parameters": given, "max_position_embeddings": 128})
    assert found["rope_theta"] == 7.0
    scaling = found["rope_scaling"]
    assert scaling["original_max_position_embeddings"] == 128
    assert 0.1 * scaling["mscale"] * np.log(4.0) + 1 == pytest.approx(1.5)


def folder_of(tmp_path, model_type, config):
    """A checkpoint of any family with the golden cases' tokenizer."""
    config = {**config, "vocab_size": 1024, "eos_token_id": 2}
    folder = golden_folder(tmp_path / "checkpoint", "qwen2")
    (folder / "model.safetensors").unlink()
    save_model(folder, fresh_model(model_type, config))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("model_type", "said"), [("qwen2", None), ("lfm2", "recurrent state")])
def test_a_model_that_has_to_encode_again_says_why(tmp_path, caplog, model_type, said):
    config = full_config(model_type, first_of(model_type).config)
    loaded, _ = mlx_simul.load(folder_of(tmp_path, model_type, config))
    assert archs.of(loaded).model_type == model_type
    said_in_all = " ".join(record.getMessage() for record in caplog.records)
    assert (said in said_in_all) if said else "encoding the target again" not in said_in_all


def test_rope_of_a_type_that_transformers_does_not_know_is_none_of_its_tokenizers_business(
    tmp_path,
):
    folder = folder_of(tmp_path, "minicpm", full_config("minicpm", "longrope"))
    _, tokenizer = mlx_simul.load(folder)
    assert (
        tokenizer.decode(tokenizer.encode("Good morning", add_special_tokens=False))
        == "Good morning"
    )
    with pytest.raises(AttributeError, match="max_position_embeddings"):
        AutoTokenizer.from_pretrained(folder)
