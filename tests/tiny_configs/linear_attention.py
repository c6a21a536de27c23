"""Families whose linear attention carries a state, with softmax attention in some layers."""

from typing import Any

from tiny_configs.base import FULL, TINY

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
}

_TINY_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 4,
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "qwen3_5": {"vision_config": _TINY_VISION},
    "qwen3_5_moe": {"vision_config": _TINY_VISION},
}

NOT_COMPARED: dict[str, str] = {
    "bailing_hybrid": "mlx-lm has the second version of the family here, transformers the third",
    "bailing_moe_linear": "not in transformers",
    "bailing_moe_v3": (
        "transformers writes the output projection of linear attention under another name than it "
        "reads, and head_dim as that of the positions (2.6e-6 with both put right)"
    ),
    "kimi_k3": "not in transformers",
    "prism_hadamard_qwen35": "not in transformers",
}
