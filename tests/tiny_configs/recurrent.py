"""Families with state spaces, gated recurrences or short convolutions, and attention between."""

from typing import Any

from tiny_configs.base import FULL, SLIDING, WINDOW, YARN

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

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
    "falcon_h1": {
        "ungated": {
            **_FALCON_H1,
            "key_multiplier": 0.4,
            "attention_in_multiplier": 0.5,
            "attention_out_multiplier": 0.7,
            "ssm_in_multiplier": 0.8,
            "ssm_out_multiplier": 0.6,
        },
        "normed": {
            **_FALCON_H1,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": True,
            "tie_word_embeddings": False,
        },
        "grouped": {
            **_FALCON_H1,
            "mamba_n_groups": 2,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
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
        "grouped": {
            **_GRANITE,
            "mamba_n_groups": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "position_embedding_type": "nope",
        },
    },
    "jamba": {
        "experts": _JAMBA,
        "dense": {**_JAMBA, "num_experts": 1, "num_experts_per_tok": 1},
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
        "normed": {**_MAMBA, "use_bcdt_rms": True, "use_bias": True},
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
    "mamba-normed": {"model_type": "falcon_mamba"},
}

NOT_COMPARED: dict[str, str] = {
    "baichuan_m1": "not in transformers",
    "gear": "not in transformers",
    "plamo2": "not in transformers",
    "rwkv7": "not in transformers",
}
