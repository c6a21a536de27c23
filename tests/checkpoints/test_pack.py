"""A packed checkpoint: smaller, the same model, used when none is named, held to its languages."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul import SimulError
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.archs.trained import told
from mlx_simul.checkpoints import loading
from mlx_simul.checkpoints.pack import pack
from mlx_simul.console import cli
from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.errors import ConversionError, InvalidOptionError, ModelLoadError
from mlx_simul.options import PromptOptions

LANGUAGES = ("English", "French")
IDS = mx.array([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as `mlx-simul train` leaves it."""
    folder = write_chat_folder(tmp_path_factory.mktemp("pack") / "trained")
    config = json.loads((folder / "config.json").read_text())
    config["mlx_simul"] = {"mode": "group", "target_start": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def packed(trained):
    return pack(trained, trained.with_name("packed"), LANGUAGES)


def parameters(model):
    return dict(tree_flatten(model.parameters()))


def test_matrices_are_quantised_with_small_scales_and_vectors_are_left_alone(trained, packed):
    before, after = (mx.load(str(folder / "model.safetensors")) for folder in (trained, packed))
    matrices = {name for name, value in before.items() if value.ndim == 2}
    assert matrices
    for name, value in before.items():
        if name in matrices:
            base = name.removesuffix(".weight")
            assert after[name].dtype == mx.uint32
            assert after[f"{base}.scales"].dtype == after[f"{base}.biases"].dtype == mx.float16
        else:
            assert after[name].dtype == value.dtype
            assert np.array_equal(after[name], value)
    size = {folder: (folder / "model.safetensors").stat().st_size for folder in (trained, packed)}
    assert size[packed] < 0.4 * size[trained]


def test_dequantised_it_is_the_same_function_in_float32(trained, packed):
    quantised, _ = mlx_simul.load(packed)
    plain, _ = mlx_simul.load(packed, dequantize=True)
    original, _ = mlx_simul.load(trained)
    assert any(isinstance(layer, nn.QuantizedLinear) for layer in quantised.modules())
    assert not any(
        isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding) for layer in plain.modules()
    )
    weights = parameters(plain)
    assert {value.dtype for value in weights.values()} == {mx.float32}
    assert {n: w.shape for n, w in weights.items()} == {
        n: w.shape for n, w in parameters(original).items()
    }
    # As it is stored it computes in half precision.
    same = np.array(plain(IDS)), np.array(quantised(IDS).astype(mx.float32))
    assert np.allclose(*same, atol=1e-2 * np.abs(same[0]).max())
    # The scales are not multiplied in half precision, which would round each weight once more.
    scaled = "model.layers.0.self_attn.q_proj"
    stored = mx.load(str(packed / "model.safetensors"))
    weight, scales, biases = (stored[f"{scaled}.{part}"] for part in ("weight", "scales", "biases"))
    exact = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), 64, 8)
    assert np.array_equal(weights[f"{scaled}.weight"], exact)
    assert not np.array_equal(exact, mx.dequantize(weight, scales, biases, 64, 8))


def test_an_unquantised_checkpoint_may_be_dequantised(trained):
    model, _ = mlx_simul.load(trained, dequantize=True)
    assert np.array_equal(model(IDS), mlx_simul.load(trained)[0](IDS))


def test_what_was_not_trained_or_is_packed_already_is_refused(trained, packed, tmp_path):
    with pytest.raises(ConversionError, match="quantised already"):
        pack(packed, tmp_path / "again", LANGUAGES)
    stock = write_chat_folder(tmp_path / "stock")
    with pytest.raises(ConversionError, match="how it was trained for streaming"):
        pack(stock, tmp_path / "again", LANGUAGES)
    assert not (tmp_path / "again").exists()


# ---- Used when no model is named ----


@pytest.fixture
def default(packed, monkeypatch):
    monkeypatch.setattr(loading, "DEFAULT_MODEL", packed)
    return packed


def test_load_without_a_name_loads_it_dequantised_on_a_cpu_only(default, monkeypatch):
    def is_quantised(*named):
        model, _ = mlx_simul.load(*named)
        return any(isinstance(layer, nn.QuantizedLinear) for layer in model.modules())

    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    assert not is_quantised()
    assert not is_quantised(default)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert is_quantised()
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    monkeypatch.setattr(loading, "DEFAULT_MODEL", default.parent)
    assert is_quantised(default)


def test_a_package_without_its_model_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "DEFAULT_MODEL", tmp_path / "none")
    with pytest.raises(ModelLoadError, match=r"model that comes with the package.*reinstall"):
        mlx_simul.load()


def test_the_command_line_takes_it(default, capsys):
    short = ["--max-tokens", "6", "--max-tokens-per-word", "3", "One two three."]
    said = []
    for options in ([], ["--from", "English", "--to", "french"], ["--model", str(default)]):
        assert cli.main(["translate", *options, *short]) == EXIT_INCOMPLETE
        said.append(capsys.readouterr())
    assert said[0].out.strip()
    assert len({each.out for each in said}) == 1
    cut_off = "mlx-simul: warning: turn 1, source words 1 to 3: the output was cut off by a limit, "
    cut_off += "max_tokens.\n"
    assert {each.err for each in said} == {cut_off}
    assert cli.main(["translate", "--to", "German", *short]) == cli.EXIT_USAGE
    assert "target_language='German'" in capsys.readouterr().err


def test_validate_and_bench_take_it(default, monkeypatch):
    asked = []

    def note(what=None, **_):
        asked.append(what)
        raise SimulError("seen")

    monkeypatch.setattr("mlx_simul.console.validate.validate", note)
    monkeypatch.setattr("mlx_simul.console.ranks.load", note)
    for command in ("validate", "bench"):
        assert cli.main([command]) == cli.EXIT_FAILED
    assert asked == [default, None]


# ---- Held to its languages ----

HELD = StreamingConfig(translates=LANGUAGES)


def test_a_session_refuses_what_such_a_model_cannot_do(default):
    model, tokenizer = mlx_simul.load()
    named = {"source_language": "english", "target_language": "French"}

    def prefix(**options):
        return mlx_simul.SimulSession(model, tokenizer, **options).encode_prefix().token_ids

    assert prefix() == prefix(**named)
    for options in (
        {"target_language": "German"},
        {"source_language": "French", "target_language": "English"},
        {"instruction": "Summarize"},
        {"context": "A visit"},
        {"glossary": {"scan": "scanner"}},
        {"examples": [("a", "b")]},
        {"frame": "few-shot"},
    ):
        with pytest.raises(InvalidOptionError, match="translates English to French and takes no"):
            prefix(**options)


def test_others_are_told_what_is_given_or_else_what_was_trained():
    def said(trained, **options):
        asked = told(trained, PromptOptions(**options))
        return asked.instruction, asked.source_language, asked.target_language

    trained = StreamingConfig(instruction="Do it", source_language="Czech")
    assert said(trained) == ("Do it", "Czech", None)
    assert said(trained, target_language="Thai", context="x") == (None, None, "Thai")
    assert said(StreamingConfig(), glossary={"a": "b"}) == (None, None, None)
    assert said(HELD, context=None, glossary={}) == (None, None, None)
