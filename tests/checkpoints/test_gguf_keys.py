"""Metadata that change what a model computes: understood or refused, for every key there is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf.constants
import numpy as np
import pytest
from tiny_checkpoints import write_tiny
from tiny_gguf import write_model

from mlx_simul.checkpoints import gguf_keys
from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_config import read_config
from mlx_simul.checkpoints.gguf_families import FAMILIES
from mlx_simul.checkpoints.gguf_keys import HARMLESS, NEUTRAL, READ, template_of
from mlx_simul.errors import ConversionError


def keys_of(names: type) -> Iterator[str]:
    """Every key that the gguf package has a name for."""
    for name, value in vars(names).items():
        if isinstance(value, type):
            yield from keys_of(value)
        elif not name.startswith("_"):
            yield value


FORMAT = sorted(set(keys_of(gguf.constants.Keys)))
NEWER = {
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.normalizer.strip_accents",
    "tokenizer.ggml.suppress_tokens",
    "{arch}.rope.scale_linear",
}
"""Keys that llama.cpp reads and the package does not name."""


@pytest.mark.parametrize("key", FORMAT)
def test_every_key_of_the_format_is_in_one_table(key: str) -> None:
    template = template_of(key, "no such architecture")
    assert [template in table for table in (READ, NEUTRAL, HARMLESS)].count(True) == 1, (
        f"the gguf package has the key {key!r} now: say in gguf_keys what becomes of it"
    )


def test_every_key_of_the_tables_is_one_of_the_format() -> None:
    ours = {key for key in READ | NEUTRAL.keys() | HARMLESS.keys() if not key.endswith("*")}
    assert ours - set(FORMAT) == NEWER


def test_families_read_keys_that_could_change_something() -> None:
    for family in FAMILIES:
        assert family.keys | family.neutral.keys() <= NEUTRAL.keys() | HARMLESS.keys()


def tiny(path: Path, model_type: str = "stablelm", **metadata: Any) -> GGUFFile:
    """A file of a family, here one that reads none of the keys that change something."""
    name = "sequential" if model_type == "stablelm" else None
    return GGUFFile(write_model(path, model_type, name, **metadata)[1])


def not_neutral(accepted: tuple[Any, ...]) -> Any:
    """A value of a kind with those accepted, and not one of them."""
    if accepted and isinstance(accepted[0], str):
        return "something else"
    if accepted in ((True,), (2,)):
        return not accepted[0] if accepted[0] is True else 1
    return 7


CHANGING = sorted(NEUTRAL.keys() - {"{arch}.use_parallel_residual"})


@pytest.mark.parametrize("key", CHANGING)
def test_a_value_that_changes_the_computation_is_refused(tmp_path: Path, key: str) -> None:
    file = tiny(tmp_path / "m.gguf", **{key: not_neutral(NEUTRAL[key])})
    named = key.replace("{arch}", "stablelm").replace("{dense}", "dense_2")
    if key == "{arch}.expert_count":
        named = "with experts"
    with pytest.raises(ConversionError, match=named.replace(".", r"\.")) as refused:
        read_config(file)
    assert "onvert the safetensors checkpoint" in str(refused.value)


@pytest.mark.parametrize("key", [key for key in CHANGING if NEUTRAL[key]])
def test_a_value_that_changes_nothing_is_accepted(tmp_path: Path, key: str) -> None:
    plain = read_config(tiny(tmp_path / "plain.gguf"))
    for value in NEUTRAL[key]:
        assert read_config(tiny(tmp_path / "m.gguf", **{key: value})) == plain


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_a_harmless_key_is_passed_over(tmp_path: Path, key: str) -> None:
    plain = read_config(tiny(tmp_path / "plain.gguf"))
    file = tiny(tmp_path / "m.gguf", **{key.replace("*", "some_thing"): 7})
    assert read_config(file) == plain


@pytest.mark.parametrize("key", ["{arch}.attention.brand_new", "tokenizer.ggml.brand_new"])
def test_an_unknown_key_of_the_model_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConversionError, match=r"brand_new' \(1\), which is not known"):
        read_config(tiny(tmp_path / "m.gguf", **{key: 1}))


def test_an_unknown_key_of_another_program_is_passed_over(tmp_path: Path) -> None:
    plain = read_config(tiny(tmp_path / "plain.gguf"))
    changes = {"quantize.imatrix.file": "x", "brand.new": 3, "llama.logit_scale": 2.0}
    assert read_config(tiny(tmp_path / "m.gguf", **changes)) == plain


def test_values_that_change_nothing_in_these_sizes_are_accepted(tmp_path: Path) -> None:
    head_dim = 16
    same = {
        "{arch}.embedding_length_out": 64,
        "{arch}.attention.scale": head_dim**-0.5,
        "{arch}.attention.key_length_swa": head_dim,
        "{arch}.rope.dimension_count_swa": head_dim // 4,
        "{arch}.rope.freq_base_swa": 1000.0,
    }
    plain = read_config(tiny(tmp_path / "plain.gguf"))
    assert read_config(tiny(tmp_path / "m.gguf", **same)) == plain
    for key, value in same.items():
        with pytest.raises(ConversionError, match=key.split(".", 1)[1]):
            read_config(tiny(tmp_path / "m.gguf", **{key: 2 * value}))


def test_one_value_a_layer_is_neutral_where_all_are(tmp_path: Path) -> None:
    key = "{arch}.swiglu_clamp_exp"
    read_config(tiny(tmp_path / "m.gguf", **{key: [0.0, 0.0]}))
    with pytest.raises(ConversionError, match="swiglu_clamp_exp"):
        read_config(tiny(tmp_path / "m.gguf", **{key: [0.0, 7.0]}))


# What llama.cpp computes of these, in transformers' words (llama-model.cpp, llama-context.cpp).
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
TYPE, FACTOR, LENGTH = "scaling.type", "scaling.factor", "scaling.original_context_length"
SCALINGS: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({TYPE: "none"}, None),
    ({TYPE: "none", FACTOR: 4.0}, None),
    ({TYPE: "linear"}, None),
    ({TYPE: "linear", FACTOR: 4.0}, {"rope_type": "linear", "factor": 4.0}),
    ({FACTOR: 4.0}, {"rope_type": "linear", "factor": 4.0}),
    ({"scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    ({FACTOR: 2.0, "scale_linear": 4.0}, {"rope_type": "linear", "factor": 2.0}),
    ({FACTOR: 0.0}, None),
    ({FACTOR: 1.0}, None),
    ({TYPE: "yarn", FACTOR: 4.0, LENGTH: 512}, YARN),
    ({TYPE: "yarn", "scale_linear": 4.0, LENGTH: 512}, YARN),
    ({TYPE: "yarn", FACTOR: 4.0}, YARN | {"original_max_position_embeddings": 128}),
    (
        {TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.yarn_beta_fast": 16.0},
        YARN | {"beta_fast": 16.0},
    ),
    (
        {TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.yarn_beta_slow": 2.0},
        YARN | {"beta_slow": 2.0},
    ),
    (
        {TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.yarn_attn_factor": 1.5},
        YARN | {"attention_factor": 1.5},
    ),
    (
        {TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.attn_factor": 2.0},
        YARN | {"attention_factor": 2 * (0.1 * math.log(4) + 1)},
    ),
    ({TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.yarn_ext_factor": 1.0}, YARN),
    ({TYPE: "yarn", FACTOR: 4.0, LENGTH: 512, "scaling.yarn_ext_factor": -1.0}, YARN),
    ({"scaling.finetuned": True}, None),
    ({LENGTH: 64}, None),
]


@pytest.mark.parametrize(("metadata", "expected"), SCALINGS, ids=str)
def test_scaling_is_understood(
    tmp_path: Path, metadata: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    changes = {f"llama.rope.{key}": value for key, value in metadata.items()}
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    context = read_config(GGUFFile(path))["max_position_embeddings"]
    scaling = read_config(GGUFFile(path))["rope_scaling"]
    if expected is not None and LENGTH not in metadata and "yarn" in metadata.values():
        expected = expected | {"original_max_position_embeddings": context}
    assert scaling == expected


REFUSED = {
    "ext factor": ({TYPE: "yarn", FACTOR: 4.0, "scaling.yarn_ext_factor": 0.5}, "only 1 can be"),
    "ext without YaRN": ({"scaling.yarn_ext_factor": 0.5}, "scaled by 'linear'"),
    "attn factor": ({FACTOR: 4.0, "scaling.attn_factor": 1.2}, "attn_factor is 1.2 without YaRN"),
    "negative": ({FACTOR: -4.0}, "must be finite and above 0"),
    "infinite": ({FACTOR: math.inf}, "must be finite and above 0"),
    "betas": (
        {TYPE: "yarn", FACTOR: 4.0, "scaling.yarn_beta_fast": 0.0},
        "'llama.rope.scaling.yarn_beta_fast' is 0",
    ),
    "log": ({TYPE: "yarn", FACTOR: 4.0, "scaling.yarn_log_multiplier": 0.1}, "yarn_log_mult"),
    "alpha": ({"scaling.alpha": 1000.0}, "scaling.alpha"),
    "longrope": ({TYPE: "longrope"}, "lacks rope_factors_long"),
    "dynamic": ({TYPE: "dynamic", FACTOR: 4.0}, "Supported: none, linear"),
    "no magnitude": (
        {TYPE: "yarn", FACTOR: 1.0, "scaling.yarn_attn_factor": 1.5},
        "attention_factor",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_scaling_that_is_not_understood_is_refused(tmp_path: Path, fault: str) -> None:
    metadata, complaint = REFUSED[fault]
    changes = {f"llama.rope.{key}": value for key, value in metadata.items()}
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes)
    with pytest.raises(ConversionError, match=complaint):
        read_config(GGUFFile(path))


def test_scaling_that_a_family_does_not_compute_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="by 'linear', which mlx-lm's stablelm does not"):
        read_config(tiny(tmp_path / "m.gguf", **{"{arch}.rope.scaling.factor": 2.0}))


def test_scaling_twice_is_refused(tmp_path: Path) -> None:
    factors = np.array([1, 1, 1, 1, 1, 1, 1, 2], np.float32)
    changes = {"llama.rope.scaling.factor": 2.0}
    tensors = {"rope_freqs.weight": factors}
    path = write_tiny(tmp_path / "m.gguf", "llama", metadata=changes, tensors=tensors)
    with pytest.raises(ConversionError, match="scales positions twice: by 'linear'"):
        read_config(GGUFFile(path))


def test_granite_without_rotation_is_refused(tmp_path: Path) -> None:
    key = "{arch}.rope.scaling.finetuned"
    read_config(tiny(tmp_path / "m.gguf", "granite", **{key: True}))
    with pytest.raises(ConversionError, match="finetuned' is False"):
        read_config(tiny(tmp_path / "m.gguf", "granite", **{key: False}))


# Without the list, a file that asks for another computation was converted as if it did not.
def test_the_list_is_what_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny(tmp_path / "m.gguf", **{"{arch}.attention.causal": False})
    with pytest.raises(ConversionError, match="causal"):
        read_config(file)
    monkeypatch.setattr(gguf_keys, "NEUTRAL", {})
    monkeypatch.setattr(gguf_keys, "HARMLESS", {**HARMLESS, "{arch}.attention.causal": "no"})
    read_config(file)


@pytest.mark.parametrize(
    ("model_type", "key", "value", "name"),
    [
        ("granite", "logit_scale", 3.0, "logits_scaling"),
        ("granite", "residual_scale", 0.3, "residual_multiplier"),
        ("granite", "embedding_scale", 3.0, "embedding_multiplier"),
        ("granite", "attention.scale", 0.3, "attention_multiplier"),
        ("gemma2", "attn_logit_softcapping", 3.0, "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping", 7.0, "final_logit_softcapping"),
        ("gemma2", "attention.sliding_window", 9, "sliding_window"),
        ("gemma3_text", "rope.freq_base_swa", 77.0, "rope_local_base_freq"),
        ("qwen2_moe", "expert_used_count", 3, "num_experts_per_tok"),
        ("qwen2_moe", "expert_weights_norm", True, "norm_topk_prob"),
        ("qwen3_moe", "expert_weights_norm", False, "norm_topk_prob"),
        ("gpt_oss", "attention.sliding_window", 9, "sliding_window"),
    ],
)
def test_what_a_family_reads_is_in_its_config(
    tmp_path: Path, model_type: str, key: str, value: Any, name: str
) -> None:
    file = tiny(tmp_path / "m.gguf", model_type, **{f"{{arch}}.{key}": value})
    assert read_config(file)[name] == value


def test_the_scale_of_attention_is_gemmas_scalar(tmp_path: Path) -> None:
    file = tiny(tmp_path / "m.gguf", "gemma2", **{"{arch}.attention.scale": 0.25})
    assert read_config(file)["query_pre_attn_scalar"] == 16
    assert read_config(tiny(tmp_path / "m.gguf", "gemma2"))["query_pre_attn_scalar"] == 8


PATTERNS = [
    ("gemma2", [True, False], None),
    ("gemma2", [False, True], "windows on the layers"),
    ("gemma2", 2, None),
    ("gemma2", 3, "windows on the layers"),
    ("gemma3_text", [True, True, False] * 2, 3),
    ("gemma3_text", 3, 3),
    ("gemma3_text", [True, False] * 3, 2),
    ("gemma3_text", [True, True, True, False, True, False], "windows on the layers"),
    ("gemma3_text", [True] * 6, "windows on the layers"),
    ("gemma3_text", [True], "is for 1 layers, but there are 6"),
    ("phi3", [True, True], None),
    ("phi3", [True, False], "windows on the layers"),
]


@pytest.mark.parametrize(("model_type", "pattern", "expected"), PATTERNS, ids=str)
def test_the_pattern_of_windows(
    tmp_path: Path, model_type: str, pattern: Any, expected: int | str | None
) -> None:
    changes = {
        "{arch}.attention.sliding_window_pattern": pattern,
        "{arch}.attention.sliding_window": 5,
    }
    file = tiny(tmp_path / "m.gguf", model_type, **changes)
    if isinstance(expected, str):
        with pytest.raises(ConversionError, match=expected):
            read_config(file)
    else:
        assert read_config(file).get("sliding_window_pattern") == expected
        assert read_config(file)["sliding_window"] == 5
