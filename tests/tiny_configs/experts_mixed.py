"""Mixtures of experts whose layers differ in what they see: windows, chunks, no positions."""

from typing import Any

from tiny_configs.base import FULL, LLAMA3, SLIDING, WINDOW, YARN

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_NO_GROUPS = {"n_group": 1, "topk_group": 1}
_GROUPS = {"n_group": 2, "topk_group": 1}
_MIXED = {"num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL], "sliding_window": WINDOW}

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

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
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
    "gpt_oss": {
        "yarn": {
            **_LOCAL,
            "head_dim": 8,
            "layer_types": [SLIDING, FULL],
            "sliding_window": WINDOW,
            "rope_scaling": {**YARN, "truncate": False},
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
    "llama4": {
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

_TINY_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vision_output_dim": 16,
    "projector_input_dim": 16,
    "projector_output_dim": 16,
    "image_size": 28,
    "patch_size": 14,
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "llama4": {"vision_config": _TINY_VISION},
    "mimo_v2_flash": {
        "layer_types": [FULL, SLIDING, SLIDING],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.34},
            SLIDING: {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.34},
        },
    },
}

NOT_COMPARED: dict[str, str] = {
    "exaone_moe-rope-everywhere": (
        "if no layer has a window, mlx-lm rotates in all, transformers in none (8.3e-1)"
    ),
    "step3p5": "not in transformers",
}
