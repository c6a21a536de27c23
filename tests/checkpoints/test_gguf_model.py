"""Config and weights from GGUF: the checkpoint that the file was made from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import (
    golden_config,
    golden_weights,
    llama_cpp_layout,
    write_gguf,
    write_tiny,
)

from mlx_simul.checkpoints import gguf_model
from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_config import read_config
from mlx_simul.checkpoints.gguf_model import read_weights, restore_rotary_layout
from mlx_simul.checkpoints.gguf_tokenizer import read_tokenizer
from mlx_simul.errors import ConversionError

FAMILIES = ("llama", "qwen2")
SHARED_FOLDER = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def weights_of(path: Path, family: str) -> dict[str, np.ndarray]:
    """Read the tiny model's weights, as the conversion does."""
    file = GGUFFile(path)
    shapes = {name: values.shape for name, values in golden_weights(family).items()}
    return dict(read_weights(file, read_config(file), shapes))


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(values, right[name]) for name, values in left.items()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_is_rebuilt(tmp_path: Path, family: str) -> None:
    config = read_config(GGUFFile(write_tiny(tmp_path / "m.gguf", family)))
    expected = golden_config(family)
    for no_metadata in ("torch_dtype", "use_sliding_window"):
        expected.pop(no_metadata, None)
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_exactly(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "m.gguf", family)
    assert equal(weights_of(path, family), golden_weights(family))
    own = gguf_model.family_of
    other = {"llama": {"is_interleaved": False}, "qwen2": {"is_interleaved": True}}[family]
    monkeypatch.setattr(gguf_model, "family_of", lambda file: replace(own(file), **other))
    assert not equal(weights_of(path, family), golden_weights(family))


@given(
    n_heads=st.integers(1, 5),
    half=st.integers(1, 6),
    width=st.sampled_from([(), (3,)]),
)
def test_the_rotary_layout_is_restored(n_heads: int, half: int, width: tuple[int, ...]) -> None:
    n_rows = n_heads * 2 * half
    rows = np.arange(n_rows * int(np.prod(width))).reshape(n_rows, *width)
    stored = llama_cpp_layout(rows, n_heads)
    assert np.array_equal(restore_rotary_layout(stored, n_heads), rows)
    if half > 1:
        assert not np.array_equal(stored, rows)


def rope_factors(factor: float, theta: float = 10000.0, dims: int = 16) -> np.ndarray:
    """Llama 3.1's factor of each frequency, one branch after the other as its paper's code has."""
    factors = []
    for index in range(0, dims, 2):
        wavelength = 2 * np.pi * theta ** (index / dims)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def test_llama_3_scaling_is_recovered(tmp_path: Path) -> None:
    factors = rope_factors(32.0)
    path = write_tiny(tmp_path / "m.gguf", "llama", tensors={"rope_freqs.weight": factors})
    assert read_config(GGUFFile(path))["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert equal(weights_of(path, "llama"), golden_weights("llama"))
    factors[-2] *= 0.9
    path = write_tiny(tmp_path / "m.gguf", "llama", tensors={"rope_freqs.weight": factors})
    with pytest.raises(ConversionError, match="not those of Llama 3"):
        read_config(GGUFFile(path))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"attention.sliding_window": 128},
            {
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 128,
            },
        ),
        ({"attention.head_count_kv": [2, 2, 2]}, {"num_key_value_heads": 2}),
    ],
)
def test_what_differs_in_the_metadata_differs_in_the_config(
    tmp_path: Path, metadata: dict, expected: dict
) -> None:
    plain = read_config(GGUFFile(write_tiny(tmp_path / "plain.gguf", "llama")))
    changes = {f"llama.{key}": value for key, value in metadata.items()}
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    assert read_config(GGUFFile(path)) == plain | expected


def test_every_end_token_is_kept(tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 2}
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    assert read_config(GGUFFile(path))["eos_token_id"] == [2, 0]


CONTRADICTIONS = {
    "llama.embedding_length": (32, "embedding_length is 32"),
    "llama.feed_forward_length": (99, "feed_forward_length is 99"),
    "llama.attention.head_count": (3, "attention.head_count is 3"),
    "llama.attention.head_count_kv": (4, "attention.head_count_kv is 4"),
    "llama.attention.key_length": (32, "attention.head_count is 4"),
    "llama.block_count": (2**31, "claims 2147483648 layers"),
    "llama.context_length": (0, "must be at least 1"),
    "llama.rope.dimension_count": (8, "rotates 8 of 16"),
    "llama.rope.scaling.type": ("dynamic", "Supported: none, linear, yarn"),
    "llama.expert_count": (8, "does not state 'llama.expert_used_count'"),
    "llama.attention.value_length": (32, "value_length is 32 and attention.key_length 16"),
    "llama.attention.layer_norm_rms_epsilon": ("small", "should be of type float"),
    "tokenizer.ggml.eos_token_id": ("2", "should be of type int, but is '2'"),
    "llama.rope.freq_base": (float("nan"), "must be finite"),
    "general.alignment": (48, "not a power of two"),
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_metadata_that_contradicts_the_tensors_is_refused(tmp_path: Path, key: str) -> None:
    value, complaint = CONTRADICTIONS[key]
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata={key: value})
    with pytest.raises(ConversionError, match=complaint):
        read_config(GGUFFile(path))


def test_heads_that_cannot_share_are_refused(tmp_path: Path) -> None:
    three_heads = {f"blk.0.attn_{part}.weight": np.ones((48, 64), np.float32) for part in "kv"}
    path = write_tiny(
        tmp_path / "m.gguf",
        "llama",
        metadata={"llama.attention.head_count_kv": 3},
        tensors=three_heads,
    )
    with pytest.raises(ConversionError, match="4 attention heads cannot share 3"):
        read_config(GGUFFile(path))


@pytest.mark.parametrize("key", ["llama.block_count", "llama.attention.layer_norm_rms_epsilon"])
def test_missing_metadata_is_named(tmp_path: Path, key: str) -> None:
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata={key: None})
    with pytest.raises(ConversionError, match=f"does not state '{key}'"):
        read_config(GGUFFile(path))


def test_another_architecture_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, architecture="bert")
    with pytest.raises(ConversionError, match=r"'bert', which.*Supported: .*llama.*qwen2"):
        read_config(GGUFFile(path))
    path = write_tiny(tmp_path / "m.gguf", "qwen2", metadata={"qwen2.expert_count": 4})
    with pytest.raises(ConversionError, match="'qwen2' with experts, which cannot"):
        read_config(GGUFFile(path))


NAN = np.full((1024, 64), np.nan, np.float32)
BAD_TENSORS = {
    "missing": ({"blk.1.attn_v.weight": None}, r"lacks 1 tensors \(blk.1.attn_v.weight\)"),
    "many missing": (
        {f"blk.{layer}.ffn_{part}.weight": None for layer in (1, 2) for part in ("up", "down")},
        "lacks 4 tensors .* and 1 more",
    ),
    "left over": ({"blk.7.ffn_up.weight": np.ones((2, 2), np.float32)}, "has no place for"),
    "misshapen": ({"blk.2.attn_v.weight": np.ones((64, 64), np.float32)}, r"asks for \(32, 64\)"),
    "not finite": ({"token_embd.weight": NAN}, "'token_embd.weight' holds NaN"),
}


@pytest.mark.parametrize("fault", BAD_TENSORS)
def test_bad_tensors_are_refused(tmp_path: Path, fault: str) -> None:
    tensors, complaint = BAD_TENSORS[fault]
    path = write_tiny(tmp_path / "m.gguf", "llama", tensors=tensors)
    with pytest.raises(ConversionError, match=complaint):
        weights_of(path, "llama")


@SHARED_FOLDER
@given(data=st.data())
def test_any_damage_to_the_header_is_an_error_of_ours_or_none(tmp_path: Path, data) -> None:
    path = tmp_path / "damaged.gguf"
    if not path.exists():
        write_tiny(path, "llama")
    whole = path.read_bytes()
    start = min(info.offset for info in GGUFFile(path).tensors.values())
    ends = st.integers(0, 700) | st.integers(start - 3000, start - 1)  # most between is vocabulary
    damaged = bytearray(whole)
    for at in data.draw(st.lists(ends, min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    other = tmp_path / "other.gguf"
    other.write_bytes(damaged)
    try:
        read_config(GGUFFile(other))
        read_tokenizer(GGUFFile(other))
        weights_of(other, "llama")
    except ConversionError as error:
        assert str(other) in str(error)
