"""Multimodal types of which the text side alone is fed: the text's configuration is nested."""

from typing import Any

from tiny_configs.base import FULL, TINY, YARN

_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
_MROPE = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 1, 1]}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "kimi_vl": {
        "latent": {
            "text_config": {
                **TINY,
                **_MLA,
                "model_type": "deepseek_v3",
                **_EXPERTS,
                # transformers' default is eight groups.
                "n_group": 1,
                "topk_group": 1,
            }
        },
    },
    "lfm2-vl": {
        "convolved": {
            "text_config": {
                **TINY,
                "model_type": "lfm2",
                "num_hidden_layers": 3,
                "layer_types": ["conv", FULL, "conv"],
                "norm_eps": 1e-5,
                "conv_bias": False,
                "conv_L_cache": 3,
                "block_dim": 32,
                "block_ff_dim": 48,
                "block_multiple_of": 8,
                "block_ffn_dim_multiplier": 1.0,
                "block_auto_adjust_ff_dim": False,
            }
        },
    },
    "mistral3": {
        "llama": {
            "tie_word_embeddings": False,
            "text_config": {
                **TINY,
                "model_type": "mistral",
                "sliding_window": None,
                "rope_scaling": YARN,
                "tie_word_embeddings": False,
            },
        },
        "ministral3": {
            "tie_word_embeddings": True,
            "text_config": {
                **TINY,
                "model_type": "ministral3",
                "tie_word_embeddings": True,
                "head_dim": 8,
                "sliding_window": None,
                "rope_parameters": {
                    **YARN,
                    "original_max_position_embeddings": 16,
                    "rope_theta": 1000.0,
                    "llama_4_scaling_beta": 0.1,
                },
            },
        },
        "mistral4": {
            "tie_word_embeddings": False,
            "text_config": {
                **TINY,
                **_MLA,
                **_EXPERTS,
                "model_type": "mistral4",
                "n_group": 1,
                "topk_group": 1,
                "norm_topk_prob": True,
                "rope_interleave": True,
                "tie_word_embeddings": False,
                "rope_parameters": {
                    **YARN,
                    "original_max_position_embeddings": 16,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "rope_theta": 1000.0,
                    "llama_4_scaling_beta": 0.0,
                },
            },
        },
    },
    "pixtral": {
        "llama": {"text_config": {**TINY, "model_type": "mistral", "head_dim": 12}},
    },
    "qwen2_vl": {
        "nested": {
            "tie_word_embeddings": False,
            "text_config": {
                **TINY,
                "model_type": "qwen2_vl_text",
                "tie_word_embeddings": False,
                "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
            },
        },
        "flat": {
            "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
        },
    },
    "qwen3_vl": {
        "tied": {
            "tie_word_embeddings": True,
            "text_config": {
                **TINY,
                "model_type": "qwen3_vl_text",
                "head_dim": 8,
                "tie_word_embeddings": True,
                "rope_scaling": {**_MROPE, "mrope_interleaved": True},
            },
        },
    },
    "qwen3_vl_moe": {
        "untied": {
            "tie_word_embeddings": False,
            "text_config": {
                **TINY,
                "model_type": "qwen3_vl_moe_text",
                "head_dim": 8,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 24,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [0],
                "norm_topk_prob": True,
                "tie_word_embeddings": False,
                "rope_scaling": {**_MROPE, "mrope_interleaved": True},
            },
        },
    },
}

_TINY_VISION = {
    "depth": 1,
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "embed_dim": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 1,
    "image_size": 28,
    "num_patches": 4,
    "num_position_embeddings": 4,
}
_TINY_QWEN2_VISION = {**_TINY_VISION, "hidden_size": 32}
_TINY_QWEN3_VISION = {**_TINY_VISION, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "lfm2-vl": {"model_type": "lfm2_vl"},
    "mistral3": {"vision_config": _TINY_VISION},
    "qwen2_vl": {"vision_config": _TINY_QWEN2_VISION},
    "qwen3_vl": {"vision_config": _TINY_QWEN3_VISION},
    "qwen3_vl_moe": {"vision_config": _TINY_QWEN3_VISION},
}

NOT_COMPARED: dict[str, str] = {
    "kimi_vl": "not in transformers",
    "pixtral": "transformers calls the whole llava (mlx-lm: mistral3), pixtral its image tower",
}
