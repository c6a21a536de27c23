"""Families in which some layers attend to the keys and values of another."""

from typing import Any

from tiny_configs.base import FULL, SLIDING, TINY, WINDOW

GEMMA3N = {
    "model_type": "gemma3n_text",
    **TINY,
    "num_hidden_layers": 5,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
    "num_kv_shared_layers": 2,
    "rope_local_base_freq": 100.0,
    "final_logit_softcapping": 3.0,
    "activation_sparsity_pattern": [0.8, 0.8, 0.0, 0.0, 0.0],
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "altup_num_inputs": 3,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 4,
}
GEMMA4 = {
    "num_hidden_layers": 5,
    "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
    "num_kv_shared_layers": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": WINDOW,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 3.0,
    "use_double_wide_mlp": True,
    "rope_parameters": {
        SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        FULL: {"rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    },
}
GEMMA4_WIDE = {
    **GEMMA4,
    "num_hidden_layers": 3,
    "layer_types": [SLIDING, SLIDING, FULL],
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "use_double_wide_mlp": False,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "afm7": {
        "two-reuse": {
            "hidden_dim": 32,
            "num_layers": 4,
            "num_kv_reuse_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
        },
    },
    "gemma3n": {
        "two-shared": {"text_config": GEMMA3N},
    },
    "gemma4": {
        "two-shared": {"text_config": {"model_type": "gemma4_text", **TINY, **GEMMA4}},
    },
    "gemma4_text": {
        "two-shared": GEMMA4,
        "keys-are-values": GEMMA4_WIDE,
        "sparse": {
            **GEMMA4_WIDE,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "gemma4": {"vision_config": None, "audio_config": None},
}

NOT_COMPARED: dict[str, str] = {
    "afm7": "not in transformers",
}
