"""The families that a GGUF file may hold: what llama.cpp's converter made of each, as data.

llama.cpp fixes in its code, by the name of the architecture, what the metadata do not say: whether
the rows of queries and keys were reordered, what was added to the norms, which layers have a
window, how the experts' weights are normalised. The entries here follow its ``conversion`` folder
and ``src/models``; a family that mlx-lm tells apart by a key of the metadata (Mistral has a window,
Mixtral has experts) has an entry of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.errors import ConversionError

EVERY_SCALING = frozenset({"linear", "yarn", "llama3"})
NO_SCALING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Entry:
    """A config entry that a metadata key gives.

    Args:
        key: Without ``{arch}.``.
        kind: int, float or bool.
        default: Where the file does not say; None if it has to.
    """

    key: str
    kind: type[int] | type[float] | type[bool]
    default: Any = None


@dataclass(frozen=True)
class Windows:
    """Sliding windows: which layers have one, and how the config says so.

    Args:
        period: llama.cpp's default: of this many layers the last has none; 0 if all have one.
        told_by: What mlx-lm's model can have: a window on "all" layers, on "every_other", on all
            but one in a "period", or on any ("layer_types").
        more: Entries that go with a window.
        default: The window, in tokens, where the file does not say; 0 for none.
    """

    period: int
    told_by: Literal["all", "every_other", "period", "layer_types"]
    more: Mapping[str, Any] = field(default_factory=dict)
    default: int = 0


@dataclass(frozen=True)
class Family:
    """How the files of one family are read.

    Args:
        architecture: ``general.architecture``.
        model_type: transformers' and mlx-lm's.
        class_name: transformers' class, for ``architectures``.
        epsilon: The config's name for that of the norms.
        epsilon_key: The metadata's.
        entries: Config entries by the metadata key that gives them.
        constants: Config entries that the architecture's name alone gives.
        present: Config entries that say whether the file holds a tensor.
        absent: Config entries that say whether it does not.
        neutral: Values that change nothing in this family (see ``gguf_keys``).
        windows: None if no layer can have one.
        has_experts: Whether this entry is for the architecture's mixtures of experts.
        needs_window: Whether it is for its files with a window only.
        scaling: The kinds of RoPE scaling that mlx-lm's model computes.
        yarn: Entries of YaRN's settings that the architecture's name gives.
        wide_at: Attention is scaled by ``query_pre_attn_scalar``: the size of a head, but with this
            many layers the hidden size's share of a head. None if it is always the former.
        frees_head_dim: Whether heads may be larger or smaller than their share of the hidden size.
        rotates_part: Whether a part of each head may be rotated.
        is_interleaved: Whether the rows of queries and keys were reordered.
        norm_offset: What was added to the weights of the norms.
        inner_name: The tensor whose rows are the inner size; twice that if ``is_fused``.
        is_fused: Whether gate and up are one tensor.
    """

    architecture: str
    model_type: str
    class_name: str
    epsilon: str = "rms_norm_eps"
    epsilon_key: str = "attention.layer_norm_rms_epsilon"
    entries: Mapping[str, Entry] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    present: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    windows: Windows | None = None
    has_experts: bool = False
    needs_window: bool = False
    scaling: frozenset[str] = EVERY_SCALING
    yarn: Mapping[str, Any] = field(default_factory=dict)
    wide_at: int | None = None
    frees_head_dim: bool = False
    rotates_part: bool = False
    is_interleaved: bool = False
    norm_offset: int = 0
    inner_name: str = "ffn_up"
    is_fused: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The metadata keys that this family understands beyond those that all do."""
        keys = {entry.key for entry in self.entries.values()}
        if self.wide_at is not None:
            keys.add("attention.scale")
        if self.windows is not None:
            keys |= {"attention.sliding_window", "attention.sliding_window_pattern"}
        return frozenset(f"{{arch}}.{key}" for key in keys)


_ATTENTION_BIAS = {"attention_bias": "blk.0.attn_q.bias"}
_BIASES = {**_ATTENTION_BIAS, "mlp_bias": "blk.0.ffn_gate.bias"}
_GELU = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
_SILU = {"hidden_act": "silu"}
_QWEN_WINDOWS = Windows(0, "layer_types", {"use_sliding_window": True, "max_window_layers": 0})
_QWEN_EXPERTS = {**_SILU, "decoder_sparse_step": 1, "mlp_only_layers": []}
_GRANITE = {
    "logits_scaling": Entry("logit_scale", float),
    "residual_multiplier": Entry("residual_scale", float, 1.0),
    "embedding_multiplier": Entry("embedding_scale", float, 1.0),
    "attention_multiplier": Entry("attention.scale", float),
}
# In Granite this switches the rotation off, which mlx-lm's model cannot.
_ROTATES = {"{arch}.rope.scaling.finetuned": (True,)}
_USED = Entry("expert_used_count", int)
_LOCAL_EXPERTS = {"num_local_experts": Entry("expert_count", int), "num_experts_per_tok": _USED}
_EXPERTS = {"num_experts": Entry("expert_count", int), "num_experts_per_tok": _USED}
_EXPERT_SIZE = {"moe_intermediate_size": Entry("expert_feed_forward_length", int)}
_SHARED_SIZE = {"shared_expert_intermediate_size": Entry("expert_shared_feed_forward_length", int)}
# Softmax over all experts, and then the best of them; whether these are made to sum to one is each
# family's own, and newer files say it.
_SOFTMAX = {"{arch}.expert_gating_func": (0, 1)}
_NORMED = {**_SOFTMAX, "{arch}.expert_weights_norm": (True,)}


def _normed(by_default: bool) -> dict[str, Entry]:
    return {"norm_topk_prob": Entry("expert_weights_norm", bool, by_default)}


_LLAMA = Family(
    "llama",
    "llama",
    "LlamaForCausalLM",
    constants=_SILU,
    present=_BIASES,
    frees_head_dim=True,
    is_interleaved=True,
)
_OLMO2 = Family(
    "olmo2",
    "olmo2",
    "Olmo2ForCausalLM",
    constants=_SILU,
    present=_ATTENTION_BIAS,
    frees_head_dim=True,
)
_GEMMA = Family(
    "gemma",
    "gemma",
    "GemmaForCausalLM",
    constants=_GELU,
    scaling=NO_SCALING,
    frees_head_dim=True,
    norm_offset=1,
)
_GRANITE_DENSE = Family(
    "granite",
    "granite",
    "GraniteForCausalLM",
    entries=_GRANITE,
    constants=_SILU,
    present=_BIASES,
    neutral=_ROTATES,
    is_interleaved=True,
)

FAMILIES = (
    _LLAMA,
    replace(
        _LLAMA,
        model_type="mistral",
        class_name="MistralForCausalLM",
        windows=Windows(0, "all"),
        needs_window=True,
    ),
    Family(
        "llama",
        "mixtral",
        "MixtralForCausalLM",
        entries=_LOCAL_EXPERTS,
        constants=_SILU,
        neutral=_NORMED,
        windows=Windows(0, "all"),
        has_experts=True,
        scaling=NO_SCALING,
        is_interleaved=True,
        inner_name="ffn_gate_exps",
    ),
    Family("qwen2", "qwen2", "Qwen2ForCausalLM", constants=_SILU, windows=_QWEN_WINDOWS),
    Family(
        "qwen2moe",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        entries={**_EXPERTS, **_EXPERT_SIZE, **_SHARED_SIZE, **_normed(False)},
        constants=_QWEN_EXPERTS,
        neutral=_SOFTMAX,
        has_experts=True,
        scaling=NO_SCALING,
    ),
    Family(
        "qwen3",
        "qwen3",
        "Qwen3ForCausalLM",
        constants=_SILU,
        windows=_QWEN_WINDOWS,
        frees_head_dim=True,
    ),
    Family(
        "qwen3moe",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        entries={**_EXPERTS, **_EXPERT_SIZE, **_normed(True)},
        constants=_QWEN_EXPERTS,
        neutral=_SOFTMAX,
        has_experts=True,
        frees_head_dim=True,
    ),
    _GEMMA,
    replace(
        _GEMMA,
        architecture="gemma2",
        model_type="gemma2",
        class_name="Gemma2ForCausalLM",
        entries={
            "attn_logit_softcapping": Entry("attn_logit_softcapping", float, 50.0),
            "final_logit_softcapping": Entry("final_logit_softcapping", float, 30.0),
        },
        windows=Windows(2, "every_other", default=4096),
        wide_at=46,
    ),
    replace(
        _GEMMA,
        architecture="gemma3",
        model_type="gemma3_text",
        class_name="Gemma3ForCausalLM",
        entries={"rope_local_base_freq": Entry("rope.freq_base_swa", float, 10000.0)},
        windows=Windows(6, "period"),
        wide_at=62,
        scaling=EVERY_SCALING,
    ),
    Family(
        "phi3",
        "phi3",
        "Phi3ForCausalLM",
        constants=_SILU,
        windows=Windows(0, "all"),
        scaling=frozenset({"longrope"}),
        rotates_part=True,
        is_fused=True,
    ),
    replace(
        _LLAMA,
        architecture="smollm3",
        model_type="smollm3",
        class_name="SmolLM3ForCausalLM",
        constants={**_SILU, "no_rope_layer_interval": 4, "use_sliding_window": False},
    ),
    _GRANITE_DENSE,
    replace(
        _GRANITE_DENSE,
        architecture="granitemoe",
        model_type="granitemoe",
        class_name="GraniteMoeForCausalLM",
        entries={**_GRANITE, **_LOCAL_EXPERTS},
        present=_ATTENTION_BIAS,
        neutral=_NORMED,
        has_experts=True,
        inner_name="ffn_gate_exps",
    ),
    _OLMO2,
    replace(
        _OLMO2,
        model_type="olmo3",
        class_name="Olmo3ForCausalLM",
        windows=Windows(4, "layer_types"),
        needs_window=True,
    ),
    Family(
        "olmoe",
        "olmoe",
        "OlmoeForCausalLM",
        entries={**_EXPERTS, **_normed(False)},
        constants=_SILU,
        present=_ATTENTION_BIAS,
        neutral=_SOFTMAX,
        has_experts=True,
        inner_name="ffn_gate_exps",
    ),
    Family(
        "stablelm",
        "stablelm",
        "StableLmForCausalLM",
        epsilon="layer_norm_eps",
        epsilon_key="attention.layer_norm_epsilon",
        constants=_SILU,
        present={"use_qkv_bias": "blk.0.attn_q.bias", "qk_layernorm": "blk.0.attn_q_norm.weight"},
        absent={"use_parallel_residual": "blk.0.ffn_norm.weight"},
        neutral={
            "{arch}.use_parallel_residual": (True, False)
        },  # the tensors decide, as told above
        scaling=NO_SCALING,
        rotates_part=True,
    ),
    Family(
        "starcoder2",
        "starcoder2",
        "Starcoder2ForCausalLM",
        epsilon="norm_epsilon",
        epsilon_key="attention.layer_norm_epsilon",
        constants=_GELU,
        present={"use_bias": "blk.0.attn_q.bias"},
        windows=Windows(0, "all"),
        scaling=NO_SCALING,
    ),
    Family(
        "gpt-oss",
        "gpt_oss",
        "GptOssForCausalLM",
        entries={**_LOCAL_EXPERTS, "intermediate_size": Entry("expert_feed_forward_length", int)},
        constants={**_SILU, "attention_bias": True, "swiglu_limit": 7.0},
        # Softmax over the best experts only, which sum to one without being told to.
        neutral={"{arch}.expert_gating_func": (0, 3), "{arch}.expert_weights_norm": (True, False)},
        windows=Windows(2, "layer_types"),
        has_experts=True,
        scaling=frozenset({"yarn"}),
        yarn={"truncate": False},
        frees_head_dim=True,
        inner_name="ffn_gate_exps",
    ),
)


def family_of(file: GGUFFile) -> Family:
    """Return the entry of ``FAMILIES`` that a file is read by.

    Raises:
        ConversionError: if there is none.
    """
    name = file.get("general.architecture", str)
    has_experts = _is_set(file, f"{name}.expert_count")
    has_window = _is_set(file, f"{name}.attention.sliding_window")
    candidates = [family for family in FAMILIES if family.architecture == name]
    fitting = [family for family in candidates if family.has_experts == has_experts]
    if not fitting:
        what = f"the architecture {name!r}"
        if candidates:
            what += " with experts" if has_experts else " without experts"
        raise ConversionError(
            f"{file.path} holds {what}, which cannot be converted from GGUF. "
            f"Supported: {', '.join(sorted({family.architecture for family in FAMILIES}))}. "
            "Convert the safetensors checkpoint of this model instead."
        )
    # An entry that is for files with a window comes after the one for those without.
    return next(family for family in reversed(fitting) if has_window or not family.needs_window)


def _is_set(file: GGUFFile, key: str) -> bool:
    return bool(np.any(file.metadata.get(key, 0)))
