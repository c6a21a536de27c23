"""Mixtures of experts over attention of one kind: routing, shared experts, dense first layers.

With four experts and two chosen every routing decision is taken in every layer; where a family
routes by groups, one of two groups of four is chosen first.
"""

from typing import Any

from tiny_configs.base import LINEAR, WINDOW, YARN

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GROUPS = {"n_group": 2, "topk_group": 1}
_NO_GROUPS = {"n_group": 1, "topk_group": 1}

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
        "windowed": {
            **_ROUTED,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
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
        "windowed": {**_LOCAL, "sliding_window": WINDOW},
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
        "windowed": {**_LOCAL, "sliding_window": WINDOW},
        "longrope": {
            **_LOCAL,
            "sliding_window": WINDOW,
            "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.5, 2.5, 4.0],
                "long_factor": [1.0, 2.0, 5.0, 9.0],
                "short_mscale": 1.2,
                "long_mscale": 1.4,
                "original_max_position_embeddings": 64,
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
        "windowed": {
            **_EXPERTS,
            "shared_expert_intermediate_size": 24,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
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
        "windowed": {
            **_EXPERTS,
            "head_dim": 8,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
    },
    "solar_open": {
        "whole-rope": {**_GLM4, "partial_rotary_factor": 1.0, "first_k_dense_replace": 0},
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "minimax": {"model_type": "minimax_m2"},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
}

NOT_COMPARED: dict[str, str] = {
    "Klear": "not in transformers",
    "bailing_moe": "not in transformers",
    "deepseek": "not in transformers",
    "hunyuan": "not in transformers",
    "phixtral": "not in transformers",
}
