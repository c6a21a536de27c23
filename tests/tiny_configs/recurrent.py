"""Families that carry state from token to token: state spaces, linear attention, short convolutions."""

from typing import Any

from tiny_configs.base import FULL, SLIDING, TINY, WINDOW, YARN

_LINEAR_LAYER = "linear_attention"
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GROUPED = {**_EXPERTS, "num_experts": 8, "n_group": 2, "topk_group": 1}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}

_BAILING = {
    **_GROUPED,
    "num_hidden_layers": 3,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "layer_group_size": 3,
    "group_norm_size": 2,
    "routed_scaling_factor": 1.5,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
}

_FALCON_H1 = {
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 8,
    "embedding_multiplier": 2.0,
    "lm_head_multiplier": 0.5,
}

_GEAR = {
    "num_hidden_layers": 3,
    "head_dim": 8,
    "layer_types": ["conv_mixer", SLIDING, FULL],
    "sliding_window": WINDOW,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 500.0,
}

_GRANITE = {
    "layer_types": ["mamba", "attention"],
    "attention_bias": False,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
    "shared_intermediate_size": 24,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
}

_JAMBA = {
    **_EXPERTS,
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
}

_KDA = {"num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4}
_KIMI_MOE = {
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
_KIMI_K3_TEXT = {
    **TINY,
    **_MLA,
    **_KIMI_MOE,
    "model_type": "kimi_linear",
    "num_hidden_layers": 3,
    "hidden_act": "situ",
    "linear_attn_config": {**_KDA, "kda_layers": [1, 2], "full_attn_layers": [3]},
    "attn_res_block_size": 2,
    "activation_situ_beta": 2.0,
    "activation_situ_linear_beta": 3.0,
    "mla_use_output_gate": True,
    "routed_expert_hidden_size": 24,
    "latent_moe_use_norm": True,
}

_LFM2 = {
    "num_hidden_layers": 3,
    "layer_types": ["conv", FULL, "conv"],
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
}

_MAMBA = {
    "intermediate_size": 64,
    "state_size": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}

_NEMOTRON_H = {
    "attention_bias": False,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "ssm_state_size": 8,
    "conv_kernel": 4,
    "n_groups": 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "head_dim": 8,
}

_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_QWEN3_5 = {
    **_DELTA,
    "num_hidden_layers": 3,
    "full_attention_interval": 3,
    "layer_types": [_LINEAR_LAYER, _LINEAR_LAYER, FULL],
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
}
_QWEN3_5_TEXT = {
    **TINY,
    **_QWEN3_5,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
_QWEN_MOE = {**_EXPERTS, "shared_expert_intermediate_size": 24}


def _packed(path: str, block: int) -> dict[str, Any]:
    return {"path": path, "embedding": False, "dtype": "float16", "block": block}


CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "baichuan_m1": {
        "windowed": {
            "num_hidden_layers": 3,
            "sliding_window": WINDOW,
            "sliding_window_layers": [1, 2],
            "conv_window": 2,
            "num_swa_attention_heads": 8,
            "num_swa_key_value_heads": 4,
        },
    },
    "bailing_hybrid": {
        "latent": {**_BAILING, **_MLA, "head_dim": 8},
        "no-query-latent": {**_BAILING, **_MLA, "head_dim": 8, "q_lora_rank": None},
    },
    "bailing_moe_linear": {
        "grouped": _BAILING,
        "softmax": {
            **_BAILING,
            "n_group": 1,
            "topk_group": 1,
            "score_function": "softmax",
            "moe_router_enable_expert_bias": False,
            "use_qk_norm": False,
            "partial_rotary_factor": 1.0,
            "tie_word_embeddings": True,
        },
    },
    "bailing_moe_v3": {
        "latent": {
            **_GROUPED,
            **_MLA,
            "num_hidden_layers": 3,
            "layer_group_size": 3,
            "head_dim": 32,
            "moe_shared_expert_intermediate_size": 16,
        },
        "no-query-latent": {
            **_GROUPED,
            **_MLA,
            "q_lora_rank": None,
            "num_hidden_layers": 3,
            "layer_group_size": 3,
            "head_dim": 32,
            "moe_shared_expert_intermediate_size": 16,
        },
    },
    "falcon_h1": {
        "ungated": _FALCON_H1,
        "normed": {
            **_FALCON_H1,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": True,
            "tie_word_embeddings": False,
        },
    },
    "gear": {
        "convolved": _GEAR,
        "softcapped": {
            **_GEAR,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "rope_scaling": YARN,
        },
        "attention-only": {**_GEAR, "layer_types": [SLIDING, SLIDING, FULL]},
    },
    "granitemoehybrid": {
        "nope": {
            **_GRANITE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "position_embedding_type": "nope",
        },
        "rope-dense": {
            **_GRANITE,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 64,
            "position_embedding_type": "rope",
        },
        "attention-only": {
            **_GRANITE,
            "layer_types": ["attention", "attention"],
            "position_embedding_type": "rope",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    },
    "jamba": {
        "experts": _JAMBA,
        "dense": {**_JAMBA, "num_experts": 1, "num_experts_per_tok": 1},
    },
    "kimi_k3": {
        "residual-attention": {"text_config": _KIMI_K3_TEXT},
        "plain-residual": {
            "text_config": {
                **_KIMI_K3_TEXT,
                "attn_res_block_size": None,
                "q_lora_rank": None,
                "routed_expert_hidden_size": None,
                "latent_moe_use_norm": False,
                "mla_use_output_gate": False,
                "tie_word_embeddings": True,
                "linear_attn_config": {
                    **_KDA,
                    "kda_layers": [1, 2],
                    "full_attn_layers": [3],
                    "use_full_rank_gate": True,
                    "gate_lower_bound": -5.0,
                },
            }
        },
    },
    "kimi_linear": {
        "nope": {
            **_MLA,
            **_KIMI_MOE,
            "first_k_dense_replace": 0,
            "q_lora_rank": None,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "rms_norm_eps": 1e-6,
            "model_max_length": 256,
            "mla_use_nope": True,
            "linear_attn_config": {**_KDA, "kda_layers": [1, 2], "full_attn_layers": [3]},
        },
    },
    "lfm2": {
        "convolved": {
            **_LFM2,
            "block_dim": 32,
            "block_ff_dim": 48,
            "block_multiple_of": 8,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        },
    },
    "lfm2_moe": {
        "dense-first": {
            **_LFM2,
            **_EXPERTS,
            "norm_topk_prob": True,
            "use_expert_bias": True,
            "num_dense_layers": 1,
            "routed_scaling_factor": 1.5,
        },
    },
    "mamba": {
        "plain": _MAMBA,
        "normed": {**_MAMBA, "use_bcdt_rms": True, "use_bias": True, "tie_word_embeddings": False},
    },
    "mamba2": {
        "grouped": {
            "num_heads": 4,
            "head_dim": 16,
            "state_size": 8,
            "expand": 2,
            "layer_norm_epsilon": 1e-5,
            "conv_kernel": 4,
            "n_groups": 2,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": False,
            "time_step_limit": [0.0, 100.0],
            "time_step_rank": 4,
            "chunk_size": 8,
        },
    },
    "nemotron_h": {
        "experts": {
            **_NEMOTRON_H,
            "layers_block_type": ["mamba", "mlp", "attention", "moe"],
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
        },
        "dense": {
            **_NEMOTRON_H,
            "layers_block_type": ["attention", "mlp", "mamba"],
        },
    },
    "olmo_hybrid": {
        "rope": {
            **_DELTA,
            "num_hidden_layers": 3,
            "linear_num_value_heads": 2,
            "linear_value_head_dim": 32,
            "linear_allow_neg_eigval": True,
            "layer_types": [_LINEAR_LAYER, FULL, _LINEAR_LAYER],
            "tie_word_embeddings": False,
            "attention_bias": False,
        },
        "nope": {
            **_DELTA,
            "linear_num_value_heads": 2,
            "linear_value_head_dim": 32,
            "linear_allow_neg_eigval": False,
            "layer_types": [_LINEAR_LAYER, FULL],
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rope_theta": None,
        },
    },
    "plamo2": {
        "mamba": {
            "hidden_size_per_head": 8,
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_num_heads": 4,
            "mamba_step": 2,
            "mamba_chunk_size": 8,
        },
        "attention-only": {
            "hidden_size_per_head": 8,
            "mamba_enabled": False,
            "tie_word_embeddings": False,
        },
    },
    "prism_hadamard_qwen35": {
        "rotated": {
            "schema_version": 1,
            "tensor_namespace": "mlx-lm-text",
            "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
            # 512 is the narrowest input that is rotated.
            "text_config": {**_QWEN3_5_TEXT, "intermediate_size": 512},
            "modules": [
                _packed("model.layers.0.mlp.down_proj", block=512),
                _packed("model.layers.2.mlp.down_proj", block=0),
            ],
        },
    },
    "qwen3_5": {
        "hybrid": {"text_config": {**_QWEN3_5_TEXT, "model_type": "qwen3_5_text"}},
    },
    "qwen3_5_moe": {
        "experts": {
            "text_config": {**_QWEN3_5_TEXT, **_QWEN_MOE, "model_type": "qwen3_5_moe_text"}
        },
    },
    "qwen3_next": {
        "experts": {
            **_QWEN3_5,
            **_QWEN_MOE,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [0],
            "norm_topk_prob": True,
        },
    },
    "recurrent_gemma": {
        "windowed": {
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "attention_bias": False,
            "conv1d_width": 4,
            "logits_soft_cap": 3.0,
            "attention_window_size": WINDOW,
            "block_types": ["recurrent", "recurrent", "attention"],
            "rope_theta": 10000.0,
        },
    },
    "rwkv7": {
        "plain": {
            "norm_eps": 1e-5,
            "head_dim": 8,
            "a_low_rank_dim": 8,
            "v_low_rank_dim": 8,
            "gate_low_rank_dim": 8,
            "decay_low_rank_dim": 8,
        },
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "bailing_moe_v3": {"model_type": "bailing_hybrid"},
    "mamba-normed": {"model_type": "falcon_mamba"},
}

NOT_COMPARED: dict[str, str] = {
    "baichuan_m1": "not in transformers",
    "bailing_hybrid": "not in transformers (its bailing_hybrid is bailing_moe_v3)",
    "bailing_moe_linear": "not in transformers",
    "gear": "not in transformers",
    "kimi_k3": "not in transformers",
    "plamo2": "not in transformers",
    "prism_hadamard_qwen35": "not in transformers",
    "rwkv7": "not in transformers",
}

