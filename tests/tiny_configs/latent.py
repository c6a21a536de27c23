"""Latent attention (MLA), queries of low rank or not, and attention that chooses what it sees."""

from typing import Any

from tiny_configs.base import FULL, TINY, YARN

_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
_MOE = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
}
_GROUPED = {**_MOE, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
_ROUTING = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True}

# Trained on 64 positions, and so short that the correction range lies inside four dimensions.
_DEEPSEEK_YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
_V3 = {**_MLA, **_MOE, **_ROUTING}
# Many heads: a score of exactly 0 (ReLU) in all of them would be a tie.
_INDEXER = {"index_head_dim": 8, "index_n_heads": 8}
_SPARSE = {**_V3, **_INDEXER, "index_topk": 5}

_LONGCAT = {
    **_MLA,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 64,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 16,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "num_layers": 2,
    "routed_scaling_factor": 1.5,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "attention_bias": False,
}

_MINIMAX_M3_TEXT = {
    **TINY,
    "model_type": "minimax_m3_vl_text",
    "num_hidden_layers": 3,
    "intermediate_size": 16,
    "dense_intermediate_size": 64,
    "shared_intermediate_size": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1000.0,
        "partial_rotary_factor": 0.5,
    },
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "layer_types": [FULL, "minimax_m3_sparse", "minimax_m3_sparse"],
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_block_size": 4,
    "index_topk_blocks": 3,
    "index_local_blocks": 1,
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "deepseek_v2": {
        "yarn": {**_MLA, **_MOE, "topk_method": "greedy", "rope_scaling": _DEEPSEEK_YARN},
        "grouped": {
            **_MLA,
            **_GROUPED,
            "q_lora_rank": None,
            "topk_method": "group_limited_greedy",
            "rope_scaling": {**_DEEPSEEK_YARN, "mscale_all_dim": 1.0},
        },
    },
    "deepseek_v3": {
        "plain": _V3,
        "grouped-yarn": {
            **_V3,
            **_GROUPED,
            "q_lora_rank": None,
            "attention_bias": True,
            "rope_scaling": _DEEPSEEK_YARN,
        },
        "attention-factor": {**_V3, "rope_scaling": {**_DEEPSEEK_YARN, "attention_factor": 1.3}},
    },
    "deepseek_v32": {
        "sparse": {**_SPARSE, "rope_scaling": _DEEPSEEK_YARN},
        "sees-all": {**_SPARSE, "index_topk": 64},
    },
    # No width is a multiple of a quantisation block: rounding would turn the last bit into a step.
    "deepseek_v41": {
        "compressed": {
            "num_hidden_layers": 4,
            "head_dim": 12,
            "q_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "o_groups": 2,
            "o_lora_rank": 8,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "compress_ratios": [0, 2, 2, 2],
            "kv_source_layer_ids": [1],
            "index_source_layer_ids": [1, 2],
            "candidate_source_layer_id": 1,
            "candidate_topk_blocks": 2,
            "candidate_block_size": 2,
            "compress_rope_theta": 500.0,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_topk": 3,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 4,
            "rms_norm_eps": 1e-6,
        },
    },
    "glm4_moe_lite": {
        "plain": {**_V3, "num_nextn_predict_layers": 0},
        "no-query-latent": {
            **_V3,
            **_GROUPED,
            "q_lora_rank": None,
            "num_nextn_predict_layers": 0,
        },
    },
    "glm_moe_dsa": {
        "sparse": {
            **_SPARSE,
            "moe_layer_freq": 1,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        },
    },
    "kimi_k25": {
        "yarn": {
            "text_config": {
                **TINY,
                **_V3,
                "model_type": "deepseek_v3",
                "rope_scaling": _DEEPSEEK_YARN,
            }
        },
    },
    "longcat_flash": {
        "zero-experts": _LONGCAT,
        "biased-yarn": {
            **_LONGCAT,
            "zero_expert_num": 0,
            "attention_bias": True,
            "rope_scaling": _DEEPSEEK_YARN,
        },
    },
    "longcat_flash_ngram": {
        "trigrams": {
            **_LONGCAT,
            "ngram_vocab_size_ratio": 2,
            "emb_neighbor_num": 3,
            "emb_split_num": 2,
        },
    },
    "minicpm3": {
        "longrope": {
            **_MLA,
            "v_head_dim": 8,
            "dim_model_base": 16,
            "scale_depth": 1.4,
            "scale_emb": 3.0,
            "tie_word_embeddings": False,
            "rope_scaling": {
                "type": "longrope",
                "original_max_position_embeddings": 64,
                "short_factor": [1.0, 1.5],
                "long_factor": [1.0, 3.0],
            },
        },
    },
    "minimax_m3_vl": {
        "sparse": {"text_config": _MINIMAX_M3_TEXT},
        "sees-all": {
            "text_config": {
                **_MINIMAX_M3_TEXT,
                "index_topk_blocks": 16,
            }
        },
    },
    "mistral4": {
        name: {
            **_V3,
            "rope_interleave": True,
            "rope_parameters": {
                **_DEEPSEEK_YARN,
                "original_max_position_embeddings": 8,
                "rope_theta": 1000.0,
                "llama_4_scaling_beta": beta,
            },
        }
        for name, beta in (("yarn", 0.1), ("cold", 0.0))
    },
    "youtu_llm": {
        "tied": _MLA,
        "no-query-latent": {
            **_MLA,
            "q_lora_rank": None,
            "tie_word_embeddings": False,
            "rope_scaling": YARN,
        },
    },
}

_TINY_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 28,
    "patch_size": 14,
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "longcat_flash": {"head_dim": 4},
    "minimax_m3_vl": {"vision_config": _TINY_VISION, "projector_hidden_size": 16},
    "youtu_llm": {"model_type": "youtu"},
}

NOT_COMPARED: dict[str, str] = {
    "deepseek_v41": "not in transformers",
    "kimi_k25": "transformers writes the text's layers under the name of the image tower's",
    "longcat_flash_ngram": "not in transformers",
}
