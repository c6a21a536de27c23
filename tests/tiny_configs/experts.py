"""Mixtures of experts over ordinary attention: routing kinds, shared experts, dense first layers.

With four experts and two chosen every routing decision is taken in every layer; where a family routes
by groups, one of two groups of four is chosen first.
"""

from typing import Any

from tiny_configs.base import FULL, LINEAR, LLAMA3, SLIDING, WINDOW, YARN

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GROUPS = {"n_group": 2, "topk_group": 1}
_NO_GROUPS = {"n_group": 1, "topk_group": 1}
_MIXED = {"num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL], "sliding_window": WINDOW}

_GLM4 = {
    **_ROUTED,
    **_NO_GROUPS,
    "head_dim": 8,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "rope_scaling": None,
    "use_qk_norm": False,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "partial_rotary_factor": 0.5,
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "Klear": {
        "dense-first": {
            **_EXPERTS,
            "attention_bias": True,
            "mlp_only_layers": [0],
            "decoder_sparse_step": 1,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
        },
    },
    "afmoe": {
        "windowed": {
            **_EXPERTS,
            **_MIXED,
            "head_dim": 8,
            "num_dense_layers": 1,
            "num_shared_experts": 1,
            "mup_enabled": True,
        },
        "yarn": {
            **_EXPERTS,
            "layer_types": [SLIDING, FULL],
            "sliding_window": WINDOW,
            "head_dim": 8,
            "num_dense_layers": 0,
            "num_shared_experts": 1,
            "mup_enabled": False,
            "rope_scaling": YARN,
        },
    },
    "bailing_moe": {
        "softmax": {
            **_EXPERTS,
            "num_shared_experts": 1,
            "norm_topk_prob": True,
            "first_k_dense_replace": 1,
        },
        "sigmoid-grouped": {
            **_EXPERTS,
            **_GROUPS,
            "num_experts": 8,
            "num_shared_experts": 1,
            "norm_topk_prob": True,
            "first_k_dense_replace": 0,
            "score_function": "sigmoid",
            "moe_router_enable_expert_bias": True,
            "routed_scaling_factor": 1.5,
            "use_qk_norm": True,
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.5,
            "rope_scaling": YARN,
        },
    },
    "dbrx": {
        "clipped": {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 256,
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 1000.0},
        },
    },
    "deepseek": {
        "dense-first": {
            **_ROUTED,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "rope_scaling": {**LINEAR, "type": "linear"},
        },
        "bare": {**_ROUTED, "attention_bias": True},
    },
    "dots1": {
        "dense-first": {
            **_ROUTED,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
        },
        "grouped": {
            **_ROUTED,
            **_GROUPS,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "head_dim": 12,
        },
    },
    "ernie4_5_moe": {
        "dense-first": {
            "use_bias": False,
            "tie_word_embeddings": True,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_layer_start_index": 1,
            "moe_intermediate_size": 16,
            "moe_num_shared_experts": 1,
        },
    },
    "exaone_moe": {
        "windowed": {
            **_EXPERTS,
            **_MIXED,
            "head_dim": 8,
            "num_shared_experts": 1,
            "is_moe_layer": [False, True, True],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
        },
        "rope-everywhere": {
            **_EXPERTS,
            **_GROUPS,
            "num_experts": 8,
            "head_dim": 8,
            "num_shared_experts": 1,
            "is_moe_layer": [True, True],
            "mlp_layer_types": ["sparse", "sparse"],
            "layer_types": [FULL, FULL],
            "sliding_window": WINDOW,
            "rope_scaling": LLAMA3,
        },
    },
    "glm4_moe": {
        "partial-rope": _GLM4,
        "normed-grouped": {
            **_GLM4,
            **_GROUPS,
            "n_routed_experts": 8,
            "use_qk_norm": True,
            "attention_bias": True,
        },
    },
    "gpt_oss": {
        "yarn": {
            **_LOCAL,
            "head_dim": 8,
            "layer_types": [SLIDING, FULL],
            "sliding_window": WINDOW,
            "rope_scaling": {**YARN, "truncate": False},
        },
    },
    "granitemoe": {
        "scaled": {
            **_LOCAL,
            "attention_bias": False,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
        },
    },
    "hunyuan": {
        "shared-keys": {
            "num_hidden_layers": 3,
            "attention_bias": False,
            "moe_topk": 2,
            "num_experts": 4,
            "num_shared_expert": 1,
            "use_mixed_mlp_moe": True,
            "use_qk_norm": True,
            "use_cla": True,
            "cla_share_factor": 2,
            "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 10.0},
        },
        "own-keys": {
            "attention_bias": True,
            "moe_topk": 2,
            "num_experts": 4,
            "num_shared_expert": 1,
            "use_mixed_mlp_moe": False,
            "use_qk_norm": False,
            "use_cla": False,
            "cla_share_factor": 1,
            "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 10.0},
        },
    },
    "laguna": {
        "windowed": {
            **_EXPERTS,
            **_MIXED,
            "head_dim": 8,
            "num_attention_heads_per_layer": [8, 8, 4],
            "shared_expert_intermediate_size": 16,
            "moe_routed_scaling_factor": 1.5,
            "rope_parameters": {
                FULL: {**YARN, "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
                SLIDING: {"rope_type": "default", "rope_theta": 500.0},
            },
        },
        "softcapped": {
            **_EXPERTS,
            "head_dim": 8,
            "layer_types": [FULL, FULL],
            "shared_expert_intermediate_size": 16,
            "moe_router_logit_softcapping": 2.0,
            "rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 1000.0}},
        },
    },
    "mimo_v2_flash": {
        "windowed": {
            **_ROUTED,
            **_NO_GROUPS,
            "num_hidden_layers": 3,
            "hybrid_layer_pattern": [0, 1, 1],
            "moe_layer_freq": [0, 1, 1],
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "sliding_window_size": WINDOW,
            "n_shared_experts": None,
            "routed_scaling_factor": None,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "layernorm_epsilon": 1e-5,
            "swa_rope_theta": 500.0,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "head_dim": 12,
            "v_head_dim": 8,
            "swa_head_dim": 12,
            "swa_v_head_dim": 8,
            "partial_rotary_factor": 0.34,
            "attention_value_scale": 0.7,
        },
    },
    "minimax": {
        "partial-rope": {
            **_LOCAL,
            "shared_intermediate_size": 0,
            "rotary_dim": 4,
            "head_dim": 8,
        },
    },
    "mixtral": {
        "untied": _LOCAL,
        "tied": {**_LOCAL, "tie_word_embeddings": True},
    },
    "olmoe": {
        "plain": {"num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
        "normed-yarn": {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "rope_scaling": YARN,
            "attention_bias": True,
        },
    },
    "phimoe": {
        "plain": _LOCAL,
        "longrope": {
            **_LOCAL,
            "original_max_position_embeddings": 32,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.5, 2.5, 4.0],
                "long_factor": [1.0, 1.5, 2.5, 4.0],
                "short_mscale": 1.2,
                "long_mscale": 1.2,
                "original_max_position_embeddings": 32,
            },
        },
    },
    "phixtral": {
        "partial-rope": {
            **_LOCAL,
            "num_vocab": 96,
            "model_dim": 32,
            "num_heads": 4,
            "num_layers": 2,
            "rotary_dim": 4,
        },
    },
    "qwen2_moe": {
        "shared": {**_EXPERTS, "shared_expert_intermediate_size": 24},
    },
    "qwen3_moe": {
        "tied": {
            **_EXPERTS,
            "head_dim": 12,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [0],
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
        "untied": {
            **_EXPERTS,
            "head_dim": 8,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [],
            "norm_topk_prob": False,
            "tie_word_embeddings": False,
        },
    },
    "solar_open": {
        "whole-rope": {**_GLM4, "partial_rotary_factor": 1.0, "first_k_dense_replace": 0},
    },
    "step3p5": {
        "windowed": {
            "num_attention_groups": 2,
            "head_dim": 8,
            "num_hidden_layers": 3,
            "layer_types": [FULL, SLIDING, SLIDING],
            "sliding_window": WINDOW,
            "attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 4},
            "rope_theta": [1000.0, 500.0, 500.0],
            "partial_rotary_factors": [0.5, 1.0, 1.0],
            "rope_scaling": LLAMA3,
            "yarn_only_types": [FULL],
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "moe_intermediate_size": 16,
            "share_expert_dim": 16,
            "moe_layers_enum": "1,2",
            "swiglu_limits": [0.0, 0.0, 0.1],
            "swiglu_limits_shared": [0.0, 0.1, 0.0],
        },
        "full": {
            "num_attention_groups": 2,
            "head_dim": 8,
            "layer_types": [FULL, FULL],
            "use_head_wise_attn_gate": False,
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "moe_intermediate_size": 16,
            "share_expert_dim": 16,
            "norm_expert_weight": False,
        },
    },
}

_LLAMA4_TEXT = {
    "model_type": "llama4_text",
    "hidden_size": 32,
    "intermediate_size": 16,
    "intermediate_size_mlp": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 1000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_chunk_size": WINDOW,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "use_qk_norm": True,
    "attn_temperature_tuning": True,
    "floor_scale": 8,
    "attn_scale": 0.1,
}

CONFIGS["llama4"] = {
    "chunked": {"text_config": _LLAMA4_TEXT},
    "wide-chunks": {
        "text_config": {
            **_LLAMA4_TEXT,
            "num_hidden_layers": 4,
            "attention_chunk_size": 40,
            "interleave_moe_layer_step": 1,
            "rope_scaling": LLAMA3,
            "use_qk_norm": False,
            "attn_temperature_tuning": False,
        }
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "mimo_v2_flash": {
        "layer_types": [FULL, SLIDING, SLIDING],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.34},
            SLIDING: {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.34},
        },
    },
    "minimax": {"model_type": "minimax_m2"},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
}

NOT_COMPARED: dict[str, str] = {
    "Klear": "not in transformers",
    "bailing_moe": "not in transformers",
    "deepseek": "not in transformers",
    "hunyuan": "not in transformers (its hunyuan_v1_moe is another architecture)",
    "phixtral": "not in transformers",
    "step3p5": "not in transformers (its step3p7 has no text-only model)",
}

