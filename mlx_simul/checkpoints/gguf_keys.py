"""Every metadata key of the GGUF format, and what becomes of it.

A key that is passed over in silence can change what a model computes, so each one is in exactly one
of three tables. ``READ`` names the keys that every conversion understands. ``NEUTRAL`` names those
that change the computation, with the values that change nothing: a family may understand such a key
(``Family.keys``), and otherwise any other value is refused. ``HARMLESS`` names the keys that change
nothing here, with the reason. A key of the model's own name space or of the tokenizer's that is in
none of the tables is refused too; other programs' name spaces are passed over.

``{arch}`` stands for the file's architecture, as in ``gguf.constants.Keys``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mlx_simul.checkpoints.gguf import GGUFFile, brief
from mlx_simul.errors import ConversionError

READ = frozenset(
    [
        "general.architecture",
        "general.alignment",
        "split.no",
        "split.count",
        "split.tensors.count",
        "{arch}.context_length",
        "{arch}.embedding_length",
        "{arch}.block_count",
        "{arch}.feed_forward_length",
        "{arch}.attention.head_count",
        "{arch}.attention.head_count_kv",
        "{arch}.attention.key_length",
        "{arch}.attention.value_length",
        "{arch}.attention.layer_norm_epsilon",
        "{arch}.attention.layer_norm_rms_epsilon",
        "{arch}.rope.dimension_count",
        "{arch}.rope.freq_base",
        "{arch}.rope.scale_linear",
        "{arch}.rope.scaling.type",
        "{arch}.rope.scaling.factor",
        "{arch}.rope.scaling.attn_factor",
        "{arch}.rope.scaling.original_context_length",
        "{arch}.rope.scaling.yarn_ext_factor",
        "{arch}.rope.scaling.yarn_attn_factor",
        "{arch}.rope.scaling.yarn_beta_fast",
        "{arch}.rope.scaling.yarn_beta_slow",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix",
        "tokenizer.chat_template",
    ]
)

NEVER: tuple[Any, ...] = ()
"""Every value would change something: the key belongs to models of none of the families here."""
UNSET = (0, False)
UNSET_OR_ONE = (0, 1, False)

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "general.type": ("model",),
    "general.quantization_version": (2,),  # the only layout of blocks that the gguf package knows
    "{arch}.embedding_length_out": UNSET,
    "{arch}.embedding_length_per_layer_input": UNSET,
    "{arch}.features_length": UNSET,
    "{arch}.leading_dense_block_count": UNSET,
    "{arch}.expert_feed_forward_length": UNSET,
    "{arch}.expert_shared_feed_forward_length": UNSET,
    "{arch}.expert_chunk_feed_forward_length": UNSET,
    "{arch}.use_parallel_residual": UNSET,
    "{arch}.tensor_data_layout": ("Meta AI original pth",),  # the layout that llama's files have
    "{arch}.expert_count": UNSET,
    "{arch}.expert_used_count": UNSET,
    "{arch}.expert_shared_count": UNSET,
    "{arch}.expert_group_count": UNSET_OR_ONE,
    "{arch}.expert_group_used_count": UNSET_OR_ONE,
    "{arch}.expert_weights_scale": UNSET_OR_ONE,
    "{arch}.expert_weights_norm": UNSET,
    "{arch}.expert_gating_func": UNSET,
    "{arch}.expert_group_scale": UNSET_OR_ONE,
    "{arch}.experts_per_group": UNSET,
    "{arch}.moe_every_n_layers": UNSET,
    "{arch}.moe_latent_size": UNSET,
    "{arch}.nextn_predict_layers": UNSET,
    "{arch}.n_deepstack_layers": UNSET,
    "{arch}.pooling_type": UNSET,  # the pooled vector of an embedding model
    "{arch}.logit_scale": UNSET_OR_ONE,
    "{arch}.decoder_start_token_id": NEVER,
    "{arch}.decoder_block_count": UNSET,
    "{arch}.attn_logit_softcapping": UNSET,
    "{arch}.router_logit_softcapping": UNSET,
    "{arch}.final_logit_softcapping": UNSET,
    "{arch}.swin_norm": UNSET,
    "{arch}.rescale_every_n_layers": UNSET,
    "{arch}.time_mix_extra_dim": UNSET,
    "{arch}.time_decay_extra_dim": UNSET,
    "{arch}.residual_scale": UNSET_OR_ONE,
    "{arch}.embedding_scale": UNSET_OR_ONE,
    "{arch}.token_shift_count": UNSET,
    "{arch}.interleave_moe_layer_step": UNSET,
    "{arch}.full_attention_interval": UNSET_OR_ONE,
    "{arch}.activation_sparsity_scale": UNSET,
    "{arch}.altup.active_idx": NEVER,
    "{arch}.altup.num_inputs": UNSET,
    "{arch}.swiglu_clamp_exp": UNSET,
    "{arch}.swiglu_clamp_shexp": UNSET,
    "{arch}.{dense}_feat_in": UNSET,
    "{arch}.{dense}_feat_out": UNSET,
    "{arch}.attention.max_alibi_bias": UNSET,
    "{arch}.attention.clamp_kqv": UNSET,
    "{arch}.attention.group_norm_epsilon": UNSET,
    "{arch}.attention.group_norm_groups": UNSET,
    "{arch}.attention.causal": (True,),
    "{arch}.attention.q_lora_rank": UNSET,
    "{arch}.attention.kv_lora_rank": UNSET,
    "{arch}.attention.decay_lora_rank": UNSET,
    "{arch}.attention.iclr_lora_rank": UNSET,
    "{arch}.attention.value_residual_mix_lora_rank": UNSET,
    "{arch}.attention.gate_lora_rank": UNSET,
    "{arch}.attention.relative_buckets_count": UNSET,
    "{arch}.attention.sliding_window": UNSET,
    "{arch}.attention.scale": UNSET,
    "{arch}.attention.output_scale": UNSET_OR_ONE,
    "{arch}.attention.temperature_length": UNSET,
    "{arch}.attention.temperature_scale": UNSET,
    "{arch}.attention.key_length_mla": UNSET,
    "{arch}.attention.value_length_mla": UNSET,
    "{arch}.attention.key_length_swa": UNSET,
    "{arch}.attention.value_length_swa": UNSET,
    "{arch}.attention.shared_kv_layers": UNSET,
    "{arch}.attention.sliding_window_pattern": UNSET_OR_ONE,  # llama.cpp's 1: no layer has one
    "{arch}.attention.indexer.head_count": UNSET,
    "{arch}.attention.indexer.key_length": UNSET,
    "{arch}.attention.indexer.top_k": UNSET,
    "{arch}.rope.dimension_count_swa": UNSET,
    "{arch}.rope.dimension_sections": UNSET,
    "{arch}.rope.freq_base_swa": UNSET,
    "{arch}.rope.scaling.alpha": UNSET,
    "{arch}.rope.scaling.yarn_log_multiplier": UNSET,
    "{arch}.ssm.conv_kernel": UNSET,
    "{arch}.ssm.inner_size": UNSET,
    "{arch}.ssm.state_size": UNSET,
    "{arch}.ssm.time_step_rank": UNSET,
    "{arch}.ssm.group_count": UNSET,
    "{arch}.ssm.dt_b_c_rms": UNSET,
    "{arch}.kda.head_dim": UNSET,
    "{arch}.wkv.head_size": UNSET,
    "{arch}.posnet.embedding_length": UNSET,
    "{arch}.posnet.block_count": UNSET,
    "{arch}.convnext.embedding_length": UNSET,
    "{arch}.convnext.block_count": UNSET,
    "{arch}.classifier.output_labels": NEVER,
    "{arch}.shortconv.l_cache": UNSET,
    "tokenizer.ggml.add_sep_token": UNSET,
    "tokenizer.ggml.remove_extra_whitespaces": UNSET,
    "tokenizer.ggml.precompiled_charsmap": NEVER,
    "tokenizer.ggml.normalizer.lowercase": UNSET,
    "tokenizer.ggml.normalizer.strip_accents": UNSET,
    "tokenizer.ggml.suppress_tokens": NEVER,
    "tokenizer.rwkv.world": NEVER,
    "adapter.type": NEVER,
    "adapter.lora.alpha": NEVER,
    "adapter.lora.task_name": NEVER,
    "adapter.lora.prompt_prefix": NEVER,
    "adapter.alora.invocation_tokens": NEVER,
    "diffusion.shift_logits": NEVER,
    "xielu.alpha_p": NEVER,
    "xielu.alpha_n": NEVER,
    "xielu.beta": NEVER,
    "xielu.eps": NEVER,
}

_PROSE = "describes the file and not the model"
_SAMPLING = "each run says how to sample"
_IMAGES = "belongs to an encoder of images or sound, whose tensors would be refused"
HARMLESS: Mapping[str, str] = {
    "general.*": _PROSE,
    "general.sampling.*": _SAMPLING,
    "imatrix.*": "how the weights were quantised",
    "clip.*": _IMAGES,
    "{arch}.vocab_size": "the embedding has one row for each token",
    "{arch}.rope.scaling.finetuned": "the weights are what they are (a switch in Granite only)",
    "tokenizer.huggingface.json": "a second copy of the tokenizer",
    "tokenizer.ggml.token_type_count": "kinds of text in an encoder",
    "tokenizer.ggml.cls_token_id": "a role that no text of a decoder has",
    "tokenizer.ggml.seperator_token_id": "a role that no text of a decoder has",
    "tokenizer.ggml.mask_token_id": "a role that no text of a decoder has",
    "tokenizer.ggml.fim_*": "for filling in the middle of a text",
    "tokenizer.ggml.prefix_token_id": "for filling in the middle of a text",
    "tokenizer.ggml.suffix_token_id": "for filling in the middle of a text",
    "tokenizer.ggml.middle_token_id": "for filling in the middle of a text",
    "tokenizer.chat_template.*": "a template that is not the default one",
    "tokenizer.chat_templates": "the names of those templates",
}


def template_of(key: str, architecture: str) -> str:
    """Return a file's key as the tables have it, with ``{arch}`` and a star where they have one."""
    head, _, rest = key.partition(".")
    if head == architecture:
        key = f"{{arch}}.{rest}"
        for end in ("_feat_in", "_feat_out"):
            if rest.startswith("dense_") and rest.endswith(end):
                key = f"{{arch}}.{{dense}}{end}"
    if key in READ or key in NEUTRAL or key in HARMLESS:
        return key
    stars = [star for star in HARMLESS if star.endswith("*") and key.startswith(star[:-1])]
    return max(stars, key=len, default=key)


def refuse_what_is_not_understood(
    file: GGUFFile, architecture: str, understood: Collection[str], neutral: Mapping[str, tuple]
) -> None:
    """Raise if a metadata key asks for a computation that the converted model does not make.

    Args:
        file: The file.
        architecture: Its ``general.architecture``.
        understood: Keys of ``NEUTRAL`` that the model's family reads.
        neutral: Values that change nothing in this family, in place of those in ``NEUTRAL``.

    Raises:
        ConversionError: naming the key, its value, and the values that are accepted.
    """
    for key, value in file.metadata.items():
        template = template_of(key, architecture)
        if template in READ or template in understood:
            continue
        accepted = neutral.get(template, NEUTRAL.get(template))
        if accepted is not None:
            if not _only(value, accepted):
                only = " or ".join(map(repr, dict.fromkeys(accepted)))
                raise ConversionError(
                    f"{file.path}: {key!r} is {brief(value)}, which changes what the model "
                    f"computes and cannot be converted"
                    + (f" (only {only} can). " if accepted else ". ")
                    + "Convert the safetensors checkpoint of this model instead."
                )
        elif template not in HARMLESS and template.startswith(("{arch}.", "tokenizer.")):
            raise ConversionError(
                f"{file.path} has the metadata key {key!r} ({brief(value)}), which is not known "
                "here, so it may change what the model computes. Convert the safetensors "
                "checkpoint of this model instead."
            )


def _only(value: Any, accepted: tuple[Any, ...]) -> bool:
    """Say whether a value, or each of one a layer, is among those accepted."""
    values = value if isinstance(value, list | np.ndarray) else [value]
    return all(any(_equal(one, other) for other in accepted) for one in values)


def _equal(value: Any, accepted: Any) -> bool:
    if isinstance(value, str) or isinstance(accepted, str):
        return value == accepted
    return bool(np.isclose(value, accepted, rtol=1e-6, atol=0))
